# SPDX-License-Identifier: LGPL-2.1-only
"""A lab whose hosts' systemctl and systemd-run are this machine's, run by test_real_systemd.py
below a systemd: moves, a mover that is killed, a worker that is killed, with nobody who calls for a
recovery. On dom0's Python 3.6 where there is one."""

import os
import subprocess
import time

import pytest

from lab.dom0 import systemd
from lab.dom0.units import programs
from lab.pools import roots
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from storage_motion.dom0.launch import Process
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import KILLED, Scene, assert_settles
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
ITSELF = 60.0  # seconds from a worker's death to the beginning of its recovery
ENDS = 180.0
RUN = "/run/systemd/system/"
NAME = "Fjörð 機"


def systemctl(*arguments):
    return subprocess.run(
        ["systemctl"] + list(arguments), stdout=subprocess.PIPE, timeout=60, check=True
    ).stdout.decode()


def units_of(migration, *options):
    """The names of its units that are loaded."""
    said = systemctl(
        "list-units",
        "--all",
        "--plain",
        "--no-legend",
        "--no-pager",
        *(options + ("sxm-*%s*" % migration,)),
    )
    return [line.split()[0] for line in said.splitlines()]


def nothing_of(migration, bound):
    """No unit of it is loaded any more, within `bound` seconds."""
    assert_settles(lambda: units_of(migration), bound)


def cgroup(pid):
    with open("/proc/%d/cgroup" % pid) as source:
        return next(line.rstrip("\n") for line in source if line.startswith("0::"))


@pytest.fixture(scope="module")
def scene():
    with Lab(plan=PLAN) as lab:
        for host in lab.hosts:
            for name in programs.PROGRAMS:
                path = host.root + "/usr/bin/" + name
                os.unlink(path)
                os.symlink("/usr/bin/" + name, path)
        scene = Scene(lab)
        vm = scene.pool.xapi.VM.get_by_uuid(scene.uuid)
        scene.pool.xapi.VM.set_name_label(vm, NAME)
        for name in roots.UNITS:
            with open("%s%s/%s" % (scene.host.root, systemd.PLACE, name)) as source, open(
                RUN + name, "w"
            ) as out:
                out.write(source.read())
        systemctl("daemon-reload")
        yield scene


def test_a_worker_that_is_killed_recovers_its_migration_by_itself(scene):
    migration = scene.begin_and_kill(MOMENTS["copying"])
    died = time.monotonic()
    dead = scene.journal(migration)["worker"]
    eventually(lambda: scene.journal(migration)["worker"] != dead, "somebody recovers it", ITSELF)
    print("recovery has begun %.1f s after its death" % (time.monotonic() - died))
    follower = scene.journal(migration)["worker"]["pid"]
    assert cgroup(follower).endswith("/sxm.slice/sxm-worker@%s.service" % migration)
    entry = scene.ended(migration)
    assert (entry["state"], entry["left"]) == ("failed", []) and entry["error"][
        0
    ] == "SXM_WORKER_DIED"
    scene.assert_runs()
    scene.assert_nothing_left()
    nothing_of(migration, ENDS)
    assert scene.call("status", vm=NAME)["vm_name"] == NAME
    with open(scene.host.root + "/var/log/sxm.log", encoding="utf-8") as log:
        assert "Logging error" not in log.read()


def test_a_mover_that_is_killed_is_followed_by_another(scene):
    """It leaves a unit that has failed, and no other of that name could be started; nor does a
    reload of all units, as the update of any package does it, disturb what runs."""
    source = scene.host
    migration = scene.begin()
    entry = scene.until(
        migration, lambda entry: any(disk.get("mover") for disk in entry["disks"].values())
    )
    (mover,) = [disk["mover"] for disk in entry["disks"].values()]
    assert "/sxm.slice/sxm-mover-%s" % migration in cgroup(mover["pid"])
    os.kill(mover["pid"], KILLED)
    assert Process.from_json(mover).gone(ITSELF)
    eventually(
        lambda: [name for name in units_of(migration, "--failed") if "mover" in name],
        "its unit has failed",
        ITSELF,
    )
    systemctl("daemon-reload")
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded" and entry["tries"] >= 1, entry["error"]
    scene.host = scene.there
    assert scene.host is not source
    scene.assert_runs()
    scene.assert_nothing_left()
    nothing_of(migration, ITSELF)
