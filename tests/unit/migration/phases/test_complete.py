# SPDX-License-Identifier: LGPL-2.1-only
"""The end of a move: xapi takes the VM as it is at the destination."""

import json

import pytest

from fake_migration import make_plan
from fake_pool import NULL
from move_world import HOST, PENDING, SHUT, World, world_of
from storage_motion.errors import NotCleanedUp, TimedOut
from storage_motion.migration import durable
from storage_motion.migration.phases import complete, remap


def completing(monkeypatch, **options):
    """A world whose gate is open, and what `complete` does with the records: a list."""
    world, done = world_of(monkeypatch, PENDING, **options), []
    world.note("k", gate="open", state="in-sync")
    world.open()
    monkeypatch.setattr(complete, "_take_running", lambda m: done.append("running"))
    monkeypatch.setattr(complete, "_detach_networks", lambda m: done.append("networks"))
    monkeypatch.setattr(
        complete.receiving_host, "leave", lambda session, answer: done.append("departed")
    )
    monkeypatch.setattr(complete.adopt, "adopt", lambda m: done.append("adopted"))
    world.state_here, world.kept = None, json.dumps({"vm": {"id": "v"}})
    monkeypatch.setattr(complete, "COMPLETE_TIMEOUT", 0.3)
    vm = next(iter(world.destination.tables["VM"].values()))
    vm["power_state"] = "Running"
    world.destination.handlers["VM.power_state_reset"] = lambda ref: (
        done.append("reset at B"),
        vm.update(power_state="Halted"),
    )
    return world, done


def at_the_source(world):
    (record,) = world.source.tables["VM"].values()
    return record["power_state"]


def test_a_vm_that_runs_is_taken_as_running(monkeypatch):
    world, done = completing(monkeypatch)
    world.there[HOST], world.state_there = "RW", "Running"
    complete.complete(world)
    assert done == ["running", "networks", "departed"] and world.entry["arrived_halted"] is False
    assert (
        world.disk("k")["state"] == "moved"
        and at_the_source(world) == "Halted"
        and world.log == ["receive-give", "given back"]
    )
    world.receiving_host = {"xenops": "https://b", "session_id": "x"}
    complete.complete(world)
    assert world.log == ["receive-give", "given back", "receive-give"], (
        "to give it back once is enough"
    )


def test_a_xapi_that_takes_no_notice_of_the_vm_is_not_waited_for_without_a_bound(monkeypatch):
    """It hears nothing of its xenopsd, and the call never ends: the lab's and the real one are so
    after a kill in mid-move."""
    world = world_of(monkeypatch, PENDING)
    monkeypatch.setattr(complete, "COMPLETE_TIMEOUT", 0.3)
    monkeypatch.setattr(remap, "destination_vm", lambda m: "OpaqueRef:vm")
    world.destination.handlers["Async.VM.pool_migrate_complete"] = lambda vm, host: "OpaqueRef:task"
    world.destination.handlers["task.get_status"] = {"OpaqueRef:task": "pending"}.get
    with pytest.raises(
        NotCleanedUp,
        match="of host i there takes no notice of it within 0.3 s; restart the toolstack of that host, then recover",  # noqa: E501
    ):
        complete._take_running(world)


def test_what_a_killed_xenopsd_kept_of_a_vm_that_has_gone_is_ended(monkeypatch):
    world, _ = completing(monkeypatch)
    world.there[HOST], world.state_there, world.leaving = "RW", "Running", "Suspended"
    complete.complete(world)
    assert world.log == ["receive-give", "end leaving here", "given back"] and world.leaving is None


def test_a_vm_that_runs_on_both_sides_is_told(monkeypatch):
    world, _ = completing(monkeypatch)
    world.there[HOST], world.state_there, world.state_here = "RW", "Running", "Running"
    with pytest.raises(NotCleanedUp, match="running at the source as well"):
        complete.complete(world)


def test_once_cleaned_up_it_is_completed_again_all_the_same(monkeypatch):
    world, done = completing(monkeypatch)
    world.there[HOST], world.state_there = "RW", "Running"
    world.source.tables["VDI"].clear()
    world.source.tables["VM"].clear()
    complete.complete(world)
    assert done == ["running", "networks", "departed"] and world.log == ["receive-give"]


def test_a_vm_that_has_ended_is_taken_as_halted(monkeypatch):
    world, done = completing(monkeypatch)
    world.state_there, world.leaving = "Halted", "Suspended"
    complete.complete(world)
    assert done == ["reset at B", "networks", "departed"] and world.log == [
        "receive-give",
        "end v there",
        "end leaving here",
        "given back",
    ]
    assert world.entry["arrived_halted"] is True and at_the_source(world) == "Halted"
    done.clear()
    world.state_here, world.receiving_host = None, {"xenops": "https://b", "session_id": "x"}
    complete.complete(world)
    assert "reset at B" not in done, "once is enough"


def test_a_vm_that_has_ended_within_its_pool_gets_its_new_disks(monkeypatch):
    world, done = completing(monkeypatch)
    world.plan, world.state_here = make_plan(kind="in-pool", destination_host="h2"), None
    complete.complete(world)
    assert done == ["adopted", "networks", "departed"] and world.log == [
        "receive-give",
        "given back",
    ]


def test_the_source_is_not_left_before_the_new_disks_are_the_vms_for_good(monkeypatch):
    """A xapi that is killed between that and the sync forgets it."""
    world, done = completing(monkeypatch)
    world.there[HOST], world.state_there = "RW", "Running"
    crashes = [world.destination.goes_back, world.destination.goes_back]
    world.destination.sync()
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda pool: (
            crashes.pop()() if crashes and pool is world.destination else None,
            pool.sync(),
        ),
    )
    complete.complete(world)
    assert done[:3] == 3 * ["running"] and world.log[:3] == 3 * ["receive-give"]
    world.destination.goes_back()
    assert world.destination.xenapi.VDI.get_managed(world._there)


def test_a_vm_that_may_come_yet_is_waited_for(monkeypatch):
    world, done = completing(monkeypatch)
    world.arriving, world.busy_there = "Suspended", True
    with pytest.raises(TimedOut):
        complete.complete(world)
    assert done == [] and world.arriving == "Suspended"


def test_what_the_destination_has_forgotten_when_the_move_is_completed_is_brought_again(
    monkeypatch,
):
    """Its xapi has shut the guest down, since it did not know it; the image is there, and the
    source has all else."""
    world, done = completing(monkeypatch)
    world.destination.tables["VM"].clear()
    found = world.destination.tables["VDI"].pop(world._there)
    monkeypatch.setattr(
        World, "destination_vdi", lambda self, disk: self.destination.xenapi.VDI.get_by_uuid("d")
    )
    world.destination.add("SR", uuid="d")

    def scan(sr):
        done.append("scanned")
        world.destination.tables["VDI"][world._there] = dict(found, name_label="", sm_config={})

    def bring(m):
        done.append("brought")
        vm = world.destination.add(
            "VM", uuid="v", power_state="Running", resident_on=NULL, blocked_operations={}
        )
        world.destination.tables["VDI"][world._there]["VBDs"] = [
            world.destination.add("VBD", VM=vm)
        ]
        world.destination.handlers["VM.power_state_reset"] = lambda ref: world.destination.tables[
            "VM"
        ][ref].update(power_state="Halted")

    world.destination.handlers["SR.scan"] = scan
    monkeypatch.setattr(remap, "bring", bring)
    complete.complete(world)
    assert done[:2] == ["scanned", "brought"] and world.entry["arrived_halted"] is True
    assert world.destination.tables["VDI"][world._there]["name_label"] == "n"


def test_a_vm_that_xapi_forgets_after_it_was_taken_is_taken_again(monkeypatch):
    world, done = completing(monkeypatch)
    world.there[HOST], world.state_there = "RW", "Running"
    world.destination.sync()
    shut_again = [lambda: world.there.update(SHUT)]
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda session: (shut_again.pop()() if shut_again else None, session.sync()),
    )
    complete.complete(world)
    assert done[:2] == ["running", "running"] and world.there == {HOST: "RW"}


# A xapi that is restarted as xenopsd is asked.
