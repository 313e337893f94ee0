# SPDX-License-Identifier: LGPL-2.1-only
"""The source's xapi ends while SM takes the snapshot with which a mirror begins: a pause of the
control plane, and nothing more.

SM has no other xapi to go on with: its command fails where it stands, with the guest's tapdisk
paused, or its own mark `paused` on the VDI, or both, and, after a crash, with images that no VDI
names; and the next xapi takes the snapshot once more, for nobody. The databases are not synced
before: what a crash takes back is taken back.
"""

import contextlib
import os

import pytest

from lab.dom0 import held_snapshot
from lab.pools.host import Host
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from storage_motion.dom0.launch import Process
from tests.e2e.scene import KILLED, MIB, Scene

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
SHARED = (PoolPlan("A", ("a1", "a2"), True), PoolPlan("B", ("b1",), False))
DISKS = (4 * MIB, 8 * MIB)
BOUND = 120.0  # seconds for the worker to come to its first snapshot
KILL, TERMINATE = (lambda host: host.kill("xapi")), Host.stop_xapi
ENDS = {"killed": KILL, "terminated": TERMINATE}
# Without SNAPSHOT_ALL=1 each moment and each end once.
ALL = bool(os.environ.get("SNAPSHOT_ALL"))
CASES = (
    [(moment, name) for moment in held_snapshot.MOMENTS for name in ENDS]
    if ALL
    else [
        (held_snapshot.PAUSED, "killed"),
        (held_snapshot.MADE, "terminated"),
        (held_snapshot.GOING, "killed"),
    ]
)
WORKER_TOO = (
    [case for case in CASES if case[0] != held_snapshot.PAUSED]
    if ALL
    else [(held_snapshot.MADE, "killed")]
)
ON_THE_MASTER = [held_snapshot.MADE, held_snapshot.GOING] if ALL else [held_snapshot.GOING]


def taken_again(host):
    """How many snapshots the xapi of a host has taken since a former one was killed in them: for
    nobody, and unasked."""
    with open(host.root + "/var/log/xensource.log") as log:
        return sum("is carried out again" in line for line in log)


@contextlib.contextmanager
def without_xapi(lab, scene, moment, end, host=None):
    """A migration in whose first snapshot, which SM takes on `host`, xapi ends there, and is not
    there: its id."""
    host = host or scene.host
    held_snapshot.arm(host.root, moment)
    try:
        migration = scene.begin()
        held_snapshot.held(host.root, BOUND)
    except BaseException:
        held_snapshot.let_go(host.root)
        raise
    end(host)
    try:
        yield migration
    finally:
        held_snapshot.let_go(host.root)
        host.start_xapi()
        for pool in lab.pools:
            pool.forget_session()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment, name", CASES)
def test_xapi_is_restarted_in_a_snapshot(lab, scene, moment, name):
    end = ENDS[name]
    host, before = scene.host, taken_again(scene.host)
    with without_xapi(lab, scene, moment, end) as migration:
        held_snapshot.let_go(scene.host.root)
        scene.wait_for_writes(5)  # whatever SM has left: the guest goes on, with no xapi there
    entry = scene.ended(migration)
    assert taken_again(host) - before == (end is KILL)
    assert entry["state"] == "succeeded", (entry["error"], entry["left"])
    assert entry["left"] == []
    scene.host = scene.there
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment, name", WORKER_TOO)
def test_and_the_worker_is_killed_as_well(lab, scene, moment, name):
    with without_xapi(lab, scene, moment, ENDS[name]) as migration:
        worker = Process.from_json(scene.journal(migration)["worker"])
        os.kill(worker.pid, KILLED)
        assert worker.gone(BOUND)
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "taken back", answer
    assert scene.journal(migration)["left"] == []
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", ON_THE_MASTER)
def test_of_a_shared_sr_whose_master_is_another_host(moment):
    """SM takes the snapshot there, and pauses the tapdisk here: what it has left only the master
    can tell."""
    with Lab(plan=SHARED) as lab:
        scene = Scene(lab, DISKS, sr=("shared",), home="a2")
        with without_xapi(lab, scene, moment, TERMINATE, lab.host("a1")) as migration:
            pass
        entry = scene.ended(migration)
        assert entry["state"] == "succeeded", (entry["error"], entry["left"])
        assert entry["left"] == []
        scene.host = scene.there
        scene.assert_runs()
        scene.assert_nothing_left()
