# SPDX-License-Identifier: LGPL-2.1-only
"""A xapi that is killed forgets what it had not written to disk (docs/facts/xapi.md: five minutes'
worth): in either pool, at every step of a live move, with the worker killed beside it. The VM is
whole, at one of the two ends, and runs in one place only.

The rows of the table in docs/facts/xapi.md, "The database and crashes, run"; the databases of this
lab are written upon pool.sync_database alone.
"""

import contextlib
import os
import signal

import pytest
import XenAPI

from lab.dom0 import breakpoint
from lab.pools import daemons
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from tests.e2e import gate_patience
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import Scene, assert_nothing_older, assert_settles
from tests.e2e.test_destination_lost import Memory
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
NEVER = 3600.0  # seconds until a xapi writes by itself
PATIENCE = 240.0  # seconds
GATE_PATIENCE = 20
FEW = ("copying", "locked", "open", "complete")
NAMES = [name for name in MOMENTS if os.environ.get("DATABASE_ALL") or name in FEW]


@pytest.fixture(scope="module")
def lab():
    with Lab(plan=PLAN, flush_seconds=NEVER) as lab:
        for host in lab.hosts:
            # a xapi's start waits for it, where nobody may open the gate
            gate_patience.choose(host.root, GATE_PATIENCE)
        yield lab


@pytest.fixture
def scene(lab):
    scene = Scene(lab)
    for pool in lab.pools:
        pool.xapi.pool.sync_database()
    yield scene
    # its guest would write beside the others; one that is lost has told so
    with contextlib.suppress(XenAPI.Failure):
        scene.pool.xapi.VM.hard_shutdown(scene.pool.xapi.VM.get_by_uuid(scene.uuid))


def forget(lab, *names):
    """kill -9 the xapis of these hosts, and have them come back."""
    for name in names:
        lab.host(name).kill("xapi")
    for name in names:
        lab.host(name).start_xapi()
    for pool in lab.pools:
        pool.forget_session()


def recovered(scene, migration):
    """What recovery answers. A xapi that was killed just before the VM's disks were activated at
    its host hears nothing of the VM any more, as the real one; then as docs/operations.md has it,
    "xapi takes no notice of the VM"."""
    host = scene.there
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    if host.is_deaf:
        host.stop_xapi()  # its database is written then
        host.start_xapi()
        for pool in scene.lab.pools:
            pool.forget_session()
        (answer,) = scene.call("recover", migration=migration)["migrations"]
    return answer


def is_whole(scene, told):
    """The VM is in one pool, runs there or can be started, and has lost nothing of what the guest
    had been `told` was safe."""
    found = [
        pool
        for pool in scene.lab.pools
        if any(vm["uuid"] == scene.uuid for vm in pool.xapi.VM.get_all_records().values())
    ]
    assert len(found) == 1, "the VM is in the pools %s" % [pool.name for pool in found]
    scene.host = scene.lab.host("a1" if found[0].name == "A" else "b1")
    vm = scene.pool.xapi.VM.get_by_uuid(scene.uuid)
    if scene.record["power_state"] == "Halted":
        assert_settles(lambda: [host.name for host in scene.lab.hosts if host.domain(scene.uuid)])
        scene.pool.start_vm(vm, scene.host.name)
        scene.wait_for_writes(20)
        assert_nothing_older(scene.guest.records(), told)
    assert scene.settle() is scene.host
    scene.assert_runs()
    scene.assert_nothing_left()
    assert (
        scene.record["blocked_operations"] == {}
        and "sxm_migration" not in scene.record["other_config"]
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "forgetful", [("a1",), ("b1",), ("a1", "b1")], ids=["source", "destination", "both"]
)
@pytest.mark.parametrize("name", NAMES)
def test_worker_and_xapi_killed(lab, scene, name, forgetful):
    with Memory(scene) as memory:
        migration = scene.begin_and_kill(MOMENTS[name])
        forget(lab, *forgetful)
        answer = recovered(scene, migration)
    print("%s, %s: %s: %s" % (name, forgetful, answer["outcome"], answer["why"]))
    assert answer["outcome"] in ("moved", "taken back") and answer["left"] == [], answer
    is_whole(scene, memory.latest)
    forget(lab, "a1", "b1")  # and nothing of its end is forgotten
    is_whole(scene, memory.latest)


LONG = 60  # seconds between two looks of SM at a gate: it opens, and its xapi is killed, in between


def waits_for_its_gate(host, vdi):
    """Whether SM on this host has found the VDI's gate shut."""
    with open(host.root + "/var/log/SMlog") as log:
        return any("%s is paused: " % vdi in line for line in log)


@contextlib.contextmanager
def seldom(host):
    """SM looks at the gates of this host so seldom that nothing is activated meanwhile; its next
    processes look as ever."""
    former = gate_patience.look_every(host.root, LONG)
    try:
        yield
    finally:
        gate_patience.look_every(host.root, former)


def opening(host, vdi):
    """It is noted that the gate is opened, and `finish` is about to open it, or has."""
    return os.path.exists("%s/var/lib/sxm/opened-%s" % (host.root, vdi))


def opened(host, vdi):
    """The receiver has opened it."""
    return told(host, "the gate of VDI %s is open" % vdi)


def told(host, what):
    """Whether the log of a host has this."""
    with open(host.root + "/var/log/sxm.log") as log:
        return what in log.read()


def only_disk(entry):
    """The UUID of the new disk."""
    (disk,) = entry["disks"].values()
    return disk["destination_vdi"]


def killed_before_the_activation(scene, host, moment, **arguments):
    """The xapi of `host`, to which the VM goes, is killed when `moment` has come for its one disk,
    and SM, which waits at the gate, has not looked again; the migration's id. What SM was at dies
    at its next look, as its session has."""
    with seldom(host):
        with breakpoint.held(
            scene.host.root,
            MOMENTS["locked"],
            lambda: scene.begin(**arguments),
            scene.journal,
            PATIENCE,
        ) as migration:
            vdi = only_disk(scene.journal(migration))
            eventually(lambda: waits_for_its_gate(host, vdi), "SM waits at the gate", PATIENCE)
        eventually(lambda: moment(host, vdi), "the gate is opened", PATIENCE, poll=0.005)
        host.kill("xapi")
        for pid, command in daemons.of_root(host.root).items():
            if "vdi_activate" in command:
                os.kill(pid, signal.SIGKILL)
    host.start_xapi()
    for pool in scene.lab.pools:
        pool.forget_session()
    return migration


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", [opening, opened])
def test_the_destinations_xapi_is_killed_between_the_opening_of_a_gate_and_the_activation(
    lab, scene, moment
):
    """It comes back with the gate shut, and serves nobody over the network before SM has the disk,
    which waits for the gate: its own host opens it again, and not for who would have the disk only
    to read. Once that one has been ended the network may be served, and the worker be the first to
    open it."""
    host, source = scene.there, scene.host
    migration = killed_before_the_activation(scene, host, moment)
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    vdi = only_disk(entry)
    assert (
        moment is opening
        or told(host, "VDI %s: its gate was shut again" % vdi)
        or told(source, "VDI %s: its gate is shut again" % vdi)
    )
    scene.host = host
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("forgetful", ["a1", "b1"])
def test_after_success(lab, scene, forgetful):
    entry = scene.ended(scene.begin())
    assert entry["state"] == "succeeded", entry["error"]
    forget(lab, forgetful)
    is_whole(scene, {})
    assert scene.host.name == "b1", "it had succeeded"


@pytest.mark.timeout(600)
def test_after_a_cancel(lab, scene):
    migration = scene.begin()
    scene.until(
        migration, lambda entry: any(disk["state"] == "copying" for disk in entry["disks"].values())
    )
    scene.call("cancel", migration=migration)
    forget(lab, "a1", "b1")
    is_whole(scene, {})
    assert scene.host.name == "a1"


@pytest.mark.timeout(600)
def test_a_member_that_a_vm_has_come_to_outlives_its_master():
    """Its marks of the VM's new disks go with the master's older database, and come back only when
    its own xapi is started again: the VM runs there all the same, and was said never to have come
    (seen on a real xapi)."""
    with Lab(
        plan=(PoolPlan("A", ("a1", "a2"), False), PoolPlan("B", ("b1",), False)),
        flush_seconds=NEVER,
    ) as lab:
        scene, pool = Scene(lab), lab.pool("A")
        there = {
            "host-uuid": lab.host("a2").uuid,
            "destination-sr-uuid": pool.xapi.SR.get_uuid(pool.sr("a2", "fast")),
        }
        migration = scene.begin_and_kill(MOMENTS["complete"], arguments=dict(there, vm=scene.uuid))
        forget(lab, "a1")
        (answer,) = scene.call("recover", migration=migration)["migrations"]
        assert (answer["outcome"], answer["left"], answer["error"]) == ("moved", [], None), answer
        assert scene.settle() is lab.host("a2")
        scene.assert_runs()
        scene.assert_nothing_left()


@pytest.mark.timeout(600)
def test_the_xapi_of_a_member_is_killed_between_the_opening_of_a_gate_and_the_activation():
    """The gate stays open, as its master has it so: what that xapi has SM do once more, to read,
    must not get the disk (seen on a real xapi: the VM ran, and could not write)."""
    with Lab(
        plan=(PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1", "b2"), False)),
        flush_seconds=NEVER,
    ) as lab:
        scene, member, pool = Scene(lab), lab.host("b2"), lab.pool("B")
        there = {
            "host-uuid": member.uuid,
            "destination-sr-uuid": pool.xapi.SR.get_uuid(pool.sr("b2", "fast")),
        }
        migration = killed_before_the_activation(
            scene, member, opened, **dict(scene.arguments(), **there)
        )
        entry = scene.ended(migration)
        assert entry["state"] == "succeeded", entry["error"]
        assert told(member, "VDI %s: process " % only_disk(entry)), (
            "a command that would have it only to read was there"
        )
        assert scene.settle() is member
        scene.assert_runs()
        scene.assert_nothing_left()
