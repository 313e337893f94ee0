# SPDX-License-Identifier: LGPL-2.1-only
"""SM's garbage collector at the worst moments of a live move: disks in mid-move are not touched,
and what was pending before ends well.

While the collector runs the worker stands still, so each moment lasts. Guests write all the time,
and the tapdisk, the mover and the receiver go on.
"""

import json
import os

import pytest

from lab.blktap import reply
from lab.pools import at_switch, leftovers
from lab.pools.lab import Lab
from tests.e2e import gate_patience
from tests.e2e.collector import Collector, stopped
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import MIB, assert_nothing_older
from tests.e2e.test_resume import DISKS, PLAN, Move, link  # noqa: F401

SLOW = 2 * MIB  # bytes a second: the copy of the second disk outlasts a run of the collector
WORST = {
    "the first disk has just been mirrored": ("disk 0", "snapshot", [None], False),
    "the second is being copied, the first is in sync": ("disk 1", "state", ["copying"], True),
    "all are in sync": MOMENTS["remap"],
    "the lock is begun": ("migration", "xenops_task", ["starting"], True),
    "xenopsd was asked": MOMENTS["asked"],
    "the source is detached": MOMENTS["detached"],
    "the gate is open": MOMENTS["open"],
}


@pytest.fixture(scope="module")
def lab():
    with Lab(plan=PLAN) as lab:
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
            # SM itself pokes no tapdisk that it pauses, and would stand here for minutes under I/O
            # (lab.blktap.reply)
            reply.choose(host.root, "prompt")
        yield lab


class Passage:
    """A migration to the other pool, of which nothing is to be left here."""

    def __init__(self, scene):
        self.scene, self.pool, self.source, self.destination = (
            scene,
            scene.pool,
            scene.host,
            scene.there,
        )
        self.was = leftovers.footprint(scene.pool, scene.pool.xapi.VM.get_by_uuid(scene.uuid))
        self.writes = scene.guest.status()["writes_acknowledged"]

    def arrives(self, migration):
        """It ends well by itself; its last status."""
        entry = self.scene.ended(migration, self.source)
        assert entry["state"] == "succeeded", entry["error"]
        status = self.scene.call("status", self.source, migration=migration)
        self.scene.host = self.destination
        self.scene.assert_runs()
        assert self.scene.guest.status()["writes_acknowledged"] > self.writes
        switch = self.destination.xenopsd("VM.stat", id=self.scene.uuid)["migration"]["at_switch"]
        assert switch["exit"] == 0 and len(json.loads(switch["output"])) == len(DISKS), switch
        assert leftovers.of_vm(self.pool, self.was) == []
        self.scene.assert_nothing_left()
        return status


def pending(scene, vdi):
    """Leave two hidden images below a disk in use, as snapshots do that were destroyed and not
    collected."""
    api = scene.pool.xapi.VDI
    for _ in range(2):
        scene.wait_for_writes(20)
        api.destroy(api.snapshot(vdi, {}))


def first_disk(scene):
    """The ref of the VDI that is moved first."""
    api = scene.pool.xapi
    vdis = [api.VBD.get_VDI(ref) for ref in scene.record["VBDs"] if api.VBD.get_type(ref) == "Disk"]
    return min(vdis, key=lambda ref: int(api.VDI.get_virtual_size(ref)))


# The others are for a long run: COLLECTOR_ALL=1.
MOMENTS_OF_ALL_RUNS = (
    tuple(WORST)
    if os.environ.get("COLLECTOR_ALL")
    else ("the second is being copied, the first is in sync", "xenopsd was asked")
)


@pytest.mark.parametrize("moment", MOMENTS_OF_ALL_RUNS)
def test_a_disk_in_mid_move_is_not_touched(scene, link, moment):
    passage, collector = Passage(scene), Collector(scene)
    link.limit(SLOW)
    with stopped(scene, WORST[moment]) as migration:
        entry = scene.journal(migration)
        print(
            "stopped in %s, disks %s"
            % (
                entry["phase"],
                [entry["disks"][disk["key"]]["state"] for disk in entry["plan"]["disks"]],
            )
        )
        assert collector.run() == []
    link.heal()
    status = passage.arrives(migration)
    assert not status["tries"] and not any(disk["saved"] for disk in status["disks"]), (
        "no mirror broke"
    )


def test_what_was_pending_is_merged_in_mid_copy(scene, link):
    """It relinks the disk: the mirror breaks, is taken up again by itself, and there is nothing to
    be merged any more."""
    pending(scene, first_disk(scene))
    collector = Collector(scene)
    move = Move(scene, link)
    did = collector.run()
    assert did and all(line.startswith(("Coalescing", "Deleting")) for line in did), did
    move.await_broken()
    assert collector.run() == []
    disks, _ = move.arrives()
    assert disks[move.first]["saved"] > 0
    print(did)


def test_a_collector_that_never_rests(scene, link):
    """All the time, from before the snapshots until the old disks are gone, with something pending
    on each disk."""
    api = scene.pool.xapi
    for ref in [
        api.VBD.get_VDI(ref) for ref in scene.record["VBDs"] if api.VBD.get_type(ref) == "Disk"
    ]:
        pending(scene, ref)
    passage, collector = Passage(scene), Collector(scene)
    migration = scene.begin()
    with collector.never_resting() as did:
        scene.ended(migration, passage.source)
    status = passage.arrives(migration)
    print("tries %s, %s" % (status["tries"], did))


@pytest.fixture
def impatient(lab):
    """SM waits 120 s for a gate, and as long again before it gives the disk back."""
    with gate_patience.of(lab.hosts, 15):
        yield


def test_what_was_pending_is_merged_when_it_is_too_late_for_another_try(scene, link, impatient):
    """xenopsd was asked, and the worker stands still, so nothing stops the move: its mirror has
    broken, so no gate opens, and the VM is shut down at the source as by any XenMotion that fails
    then: whole, free to start, with nothing left anywhere. Only if the collector comes to the disk
    after xenopsd has closed it, it moves."""
    pending(scene, first_disk(scene))
    passage, collector, known = Passage(scene), Collector(scene), scene.guest.records()
    with stopped(scene, WORST["xenopsd was asked"]) as migration:
        assert collector.run()
    entry = scene.ended(migration, passage.source)
    print("it ended as %s: %s" % (entry["state"], entry["error"]))
    if entry["state"] == "succeeded":
        passage.arrives(migration)
        return
    assert entry["state"] == "failed" and entry["left"] == [], entry["error"]
    vm = passage.pool.xapi.VM.get_by_uuid(scene.uuid)
    assert passage.pool.xapi.VM.get_power_state(vm) == "Halted"
    passage.pool.start_vm(vm, passage.source.name)
    assert_nothing_older(scene.guest.records(), known)
    scene.assert_runs()
    scene.assert_nothing_left()
