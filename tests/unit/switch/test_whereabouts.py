# SPDX-License-Identifier: LGPL-2.1-only
"""Where the VM is after a move that did not simply succeed, and what is cleared away for that:
gates, copies, what xenopsd kept."""

import pytest

from fake_pool import add_vdi, failure
from move_world import (
    FAILED,
    HOST,
    LOCKED,
    PENDING,
    SHUT,
    FakeXenops,
    World,
    behind_the_suspend,
    world_of,
)
from storage_motion.errors import (
    NotCleanedUp,
    NotDurable,
    TimedOut,
    Undecided,
    Unreachable,
    XenopsError,
)
from storage_motion.migration import durable, xenopsd_leftovers
from storage_motion.migration.phases import move, shut_gates
from storage_motion.switch import whereabouts


@pytest.mark.parametrize("at_the_destination", ["", "end v there", "end incoming there"])
@pytest.mark.parametrize("how_far", range(4))
def test_whatever_a_failed_move_has_left_in_xenopsd_the_vm_is_halted_and_free(
    monkeypatch, at_the_destination, how_far
):
    """`how_far`: what somebody who was killed had done of it."""
    world, record = behind_the_suspend(monkeypatch)
    world.state_there = "Paused" if "v" in at_the_destination.split() else None
    world.arriving = "Paused" if "incoming" in at_the_destination else None
    world.leaving = None if how_far > 0 else world.leaving
    world.state_here = "Halted" if how_far > 1 else None
    record["power_state"] = "Halted" if how_far > 2 else "Running"
    shut_gates.shut_gates(world)
    assert record["power_state"] == "Halted" and world.here == {}
    assert (world.state_here, world.state_there, world.arriving, world.leaving) == (
        None,
        None,
        None,
        None,
    )
    assert sorted(world.log) == sorted(
        [what for what in [at_the_destination] if what]
        + ["end leaving here"][how_far:]
        + ["given back"] * (how_far < 2)
    )


def test_a_copy_with_one_open_disk_of_two_is_ended_before_its_gate_is_shut(monkeypatch):
    """xenopsd leaves it paused, with the disk that it got active."""
    world, record = behind_the_suspend(monkeypatch)
    first = world.plan.disks[0]
    world.plan = world.plan._replace(disks=(first, first._replace(key="l")))
    world.entry["disks"]["l"] = {"index": 1, "gate": "attached"}
    other = add_vdi(world.destination, "OpaqueRef:sr", sm_config=dict(SHUT))
    monkeypatch.setattr(
        World, "destination_vdi", lambda self, disk: other if disk.key == "l" else self._there
    )
    world.note("k", gate="open")
    world.open()
    world.there[HOST] = "RW"
    world.state_there = "Paused"
    ended = FakeXenops.end
    monkeypatch.setattr(
        FakeXenops,
        "end",
        lambda self, vm: (ended(self, vm), self._side == "there" and world.there.pop(HOST, None)),
    )
    assert whereabouts.decide(world) == whereabouts.SOURCE and world.log == [
        "receive-stop",
        "end v there",
    ]
    shut_gates.shut_gates(world)
    assert world.there == SHUT and record["power_state"] == "Halted"


def has_taken_its_new_disk(monkeypatch, sync):
    """A VM that was suspended on its own host, of which xapi has taken the new disk already: that
    is not to stay. (the world, the record of the VM, that of its VBD)"""
    world, record = behind_the_suspend(monkeypatch, same_host=True)
    world.state_here = "Paused"
    ((ref, vbd),) = world.source.tables["VBD"].items()
    vbd.update(uuid=world.plan.disks[0].vbd, VDI="OpaqueRef:the new one", VM=world.vm())

    def replace(m, vm, disk, vdi):
        vbd["VDI"] = vdi
        m.source.tables["VDI"][vdi]["VBDs"] = [ref]

    monkeypatch.setattr(xenopsd_leftovers.adopt, "replace", replace)
    monkeypatch.setattr(durable.database, "sync", sync)
    return world, record, vbd


def test_where_both_hosts_are_one_the_copy_has_the_vms_id(monkeypatch):
    synced = []
    world, record, vbd = has_taken_its_new_disk(
        monkeypatch, lambda session: synced.append(vbd["VDI"])
    )
    shut_gates.shut_gates(world)
    assert (
        world.log == ["end v here", "end leaving here", "given back"]
        and record["power_state"] == "Halted"
    )
    own = world.source_vdi(world.plan.disks[0])
    assert vbd["VDI"] == own and synced[-1] == own, "on disk, as the new one is destroyed next"


def test_nothing_further_is_undone_while_that_is_not_proven_to_be_on_disk(monkeypatch):
    def refuse(session):
        raise NotDurable("no room")

    world, _, _ = has_taken_its_new_disk(monkeypatch, refuse)
    with pytest.raises(Undecided, match="has its old disks again: SXM_NOT_DURABLE"):
        shut_gates.shut_gates(world)


def test_a_copy_that_has_all_its_disks_open_and_never_runs_is_ended_and_is_the_destinations(
    monkeypatch,
):
    world, _ = behind_the_suspend(monkeypatch)
    world.note("k", gate="open")
    world.open()
    world.state_there = "Paused"
    world.busy_there = True
    with pytest.raises(Undecided):
        whereabouts.decide(world)
    world.busy_there = False
    assert whereabouts.decide(world) == whereabouts.DESTINATION and world.log == 2 * [
        "receive-stop"
    ] + ["end v there"]


def test_a_record_that_xapi_took_for_suspended_is_halted(monkeypatch):
    world, record = behind_the_suspend(monkeypatch)
    record["power_state"] = "Suspended"
    world.source.handlers["VM.hard_shutdown"] = lambda ref: record.update(power_state="Halted")
    shut_gates.shut_gates(world)
    assert (
        record["power_state"] == "Halted"
        and record["blocked_operations"] == {}
        and world.log == ["end leaving here"]
    )


def test_without_what_was_kept_a_member_is_believed_and_the_user_told(monkeypatch):
    world, record = behind_the_suspend(monkeypatch)
    world.kept = None
    world.source.handlers["VM.power_state_reset"] = lambda ref: (_ for _ in ()).throw(
        failure("HOST_IS_LIVE", "OpaqueRef:host")
    )
    with pytest.raises(NotCleanedUp, match="HOST_IS_LIVE"):
        shut_gates.shut_gates(world)


def test_a_finish_that_died_half_way_has_opened_the_gate(monkeypatch):
    """It is noted there; SM may take `paused` away at any time, as it does when the SR is
    plugged."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.witness = True
    del world.there["relinking"]
    assert whereabouts.decide(world) == whereabouts.DESTINATION
    whereabouts.open_again(world)
    assert world.there == {} and world.disk("k")["gate"] == "open"


def test_a_finish_that_is_under_way_is_stopped_before_the_gate_is_shut(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.here["paused"] = "sxm m"
    world.destination.handlers["VDI.add_to_sm_config"] = lambda *a: (
        world.log.append("shut"),
        world.destination._field("VDI", "add_to_sm_config", a),
    )[1]
    shut_gates.shut_gates(world)
    assert world.log == ["receive-stop", "shut", "shut"] and "paused" not in world.here
    shut_gates.shut_gates(world)
    assert world.log == ["receive-stop", "shut", "shut"], "there is nothing to stop any more"


@pytest.mark.parametrize(
    "error",
    [failure("SXM_TIMED_OUT", "process 7", "300"), ConnectionResetError("cut"), TimedOut("x", "1")],
)
def test_if_it_cannot_be_stopped_nothing_is_unlocked(monkeypatch, error):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.here["paused"] = "sxm m"
    world.plugin_fails = error
    with pytest.raises(Undecided):
        shut_gates.shut_gates(world)
    assert world.here["paused"] == "sxm m" and world.disk("k")["gate"] == "opening"


def test_xenopsd_reports_a_failure_but_the_vm_is_there(monkeypatch):
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, PENDING)
    world.script.append(lambda: (world.arrive(), FAILED)[1])
    move.move(world)
    assert world.here == LOCKED
    with pytest.raises(Undecided):
        shut_gates.shut_gates(world)
    assert world.here == LOCKED, "the source stays locked"


@pytest.mark.parametrize("step", ["opening", "open"])
def test_a_vm_that_has_arrived_is_there_whatever_the_databases_say(monkeypatch, step):
    """A xapi that went back in time has the gate shut, and has shut the guest down."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate=step)
    world.arrived = True
    assert whereabouts.decide(world) == whereabouts.DESTINATION and world.entry["arrived"]
    with pytest.raises(Undecided):
        shut_gates.shut_gates(world)
    whereabouts.open_again(world)
    assert world.there == {} and world.disk("k")["gate"] == "open"


def test_it_is_known_to_have_arrived_even_if_the_record_of_its_disk_is_gone(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.arrived = True
    monkeypatch.setattr(
        World,
        "destination_vdi",
        lambda self, disk: (_ for _ in ()).throw(failure("UUID_INVALID", "VDI", "d")),
    )
    assert whereabouts.decide(world) == whereabouts.DESTINATION
    whereabouts.open_again(world)
    assert world.disk("k")["gate"] == "open"


LOST = Unreachable("b", "gone")


@pytest.mark.parametrize(
    "gate_is, active, there, arriving, same_host, expected",
    [
        ("shut", False, None, None, False, whereabouts.SOURCE),
        ("shut", False, "Halted", None, False, whereabouts.SOURCE),
        ("shut", False, "Suspended", "Suspended", False, whereabouts.SOURCE),
        ("shut", False, "Running", None, False, None),
        ("shut", False, LOST, None, False, None),
        ("shut", False, XenopsError("VM.stat", "boom"), None, False, None),
        ("shut", False, "Running", None, True, whereabouts.SOURCE),
        ("shut", False, None, None, True, whereabouts.SOURCE),
        ("open", True, "Running", None, False, whereabouts.DESTINATION),
        ("open", True, None, None, False, None),
        ("open", True, "Suspended", None, False, None),
        ("open", False, "Running", None, False, whereabouts.DESTINATION),
        ("open", False, None, None, False, whereabouts.DESTINATION),
        ("open", False, "Halted", None, False, whereabouts.DESTINATION),
        ("open", False, None, "Paused", False, None),
        ("open", False, LOST, None, False, None),
        ("open", True, "Running", None, True, whereabouts.DESTINATION),
        ("open", False, "Running", None, True, None),
        ("open", False, "Suspended", None, True, whereabouts.DESTINATION),
        ("open", False, "Suspended", None, False, None),
    ],
)
def test_whereabouts(monkeypatch, gate_is, active, there, arriving, same_host, expected):
    world = world_of(monkeypatch, PENDING, same_host=same_host)
    world.state_there, world.arriving, world.busy_there = there, arriving, arriving is not None
    if gate_is == "open":
        world.note("k", gate="opening")
        world.open()
    if same_host:
        world.state_here = there
    if active:
        world.there[HOST] = "RW"
    if expected is None:
        with pytest.raises(Undecided):
            whereabouts.decide(world)
    else:
        assert whereabouts.decide(world) == expected


def one_of_two_open(monkeypatch):
    """A world with a second disk, `l`, whose gate is shut; that of the first is open."""
    world = world_of(monkeypatch, PENDING)
    first = world.plan.disks[0]
    world.plan = world.plan._replace(disks=(first, first._replace(key="l")))
    world.entry["disks"]["l"] = {"index": 1, "gate": "locked"}
    other = add_vdi(world.destination, "OpaqueRef:sr", sm_config=dict(SHUT))
    monkeypatch.setattr(
        World, "destination_vdi", lambda self, disk: other if disk.key == "l" else self._there
    )
    world.note("k", gate="open")
    world.open()
    return world


def test_one_gate_that_is_shut_is_enough_to_know_that_the_vm_never_ran_there(monkeypatch):
    world = one_of_two_open(monkeypatch)
    assert whereabouts.decide(world) == whereabouts.SOURCE
    shut_gates.shut_gates(world)
    assert world.there == SHUT and world.log == ["receive-stop", "receive-stop"]


@pytest.mark.parametrize("steps", [{}, {"gate": "opening"}])
def test_after_a_reset_by_sm_the_gate_is_shut_still(monkeypatch, steps):
    world = world_of(monkeypatch, PENDING)
    world.note("k", **steps)
    del world.there["paused"]
    assert whereabouts.decide(world) == whereabouts.SOURCE


@pytest.mark.parametrize(
    "step, task, locked",
    [
        ("attached", None, {}),
        ("attached", "7", {"relinking": "sxm m"}),
        ("locked", "7", LOCKED),
        ("open", "7", LOCKED),
        ("opening", None, LOCKED),
    ],
)
def test_recovery_locks_again_what_sm_has_reset(monkeypatch, step, task, locked):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate=step)
    world.note(xenops_task=task)
    world.here.clear()
    shut_gates.lock_again(world)
    assert world.here == locked


def test_a_disk_in_use_at_the_destination_is_not_shut_out_of_its_vm(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="open")
    world.open()
    monkeypatch.setattr(whereabouts, "decide", lambda m: whereabouts.SOURCE)
    world.there[HOST] = "RW"
    with pytest.raises(Undecided):
        shut_gates.shut_gates(world)
    assert world.there == {HOST: "RW"}, "SM lets nobody deactivate a disk that is paused"


@pytest.mark.parametrize(
    "gate_is, expected", [("shut", whereabouts.SOURCE), ("open", whereabouts.DESTINATION)]
)
def test_a_copy_that_a_killed_xenopsd_has_left_under_its_temporary_id_is_ended(
    monkeypatch, gate_is, expected
):
    """Campaign seed 18: xenopsd cleans up nothing of it at its start, and it was waited for."""
    world = world_of(monkeypatch, PENDING)
    world.arriving = "Paused"
    if gate_is == "open":
        world.note("k", gate="opening")
        world.open()
    assert whereabouts.decide(world) == expected
    assert world.arriving is None


def test_disks_that_recovery_there_has_taken_away_were_never_run_from(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.here.update(LOCKED)

    def gone(self, disk):
        raise failure("UUID_INVALID", "VDI", "d")

    monkeypatch.setattr(World, "destination_vdi", gone)
    assert whereabouts.decide(world) == whereabouts.SOURCE
    shut_gates.shut_gates(world)
    assert "paused" not in world.here and "relinking" not in world.here


@pytest.mark.parametrize("mark", [{"activating": "True"}, {HOST: "RW"}])
def test_an_activation_that_dies_after_the_destination_was_told_to_stop_is_ended_as_well(
    monkeypatch, mark
):
    """SM was still at it then; the VM has been given up, and nobody but that host can take the mark
    away."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="open")
    world.open()
    world.there.update(mark)
    stop = world.plugin

    def plugin(function, **arguments):
        if "receive-stop" in world.log:
            world.there.clear()
        return stop(function, **arguments)

    world.plugin = plugin
    assert whereabouts.decide(world) == whereabouts.DESTINATION and world.log == 2 * [
        "receive-stop"
    ]


def test_the_journal_decides_whether_a_gate_was_open(monkeypatch):
    """The VM has run there, and written, and ended; then its xapi was killed."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="open")
    assert world.there == SHUT and whereabouts.decide(world) == whereabouts.DESTINATION


def test_a_gate_that_came_back_shut_on_an_active_disk_is_opened_for_whoever_has_it(monkeypatch):
    """SM deactivates nothing that is `paused`."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="open")
    world.there[HOST], world.state_there = "RW", "Running"
    assert whereabouts.decide(world) == whereabouts.DESTINATION
    assert world.there == {HOST: "RW"}


def test_a_gate_that_is_shut_again_is_so_on_disk_before_the_source_is_unlocked(monkeypatch):
    world = one_of_two_open(monkeypatch)
    world.here.update(LOCKED)
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda session: (world.log.append(("synced", dict(world.here))), session.sync()),
    )
    shut_gates.shut_gates(world)
    assert ("synced", dict(LOCKED, **{HOST: "RW"})) in world.log and "paused" not in world.here
    world.destination.goes_back()
    assert world.there == SHUT


def test_nothing_further_is_undone_while_a_gate_is_not_shut_on_disk(monkeypatch):
    def refuse(session):
        raise NotDurable("no room")

    world = one_of_two_open(monkeypatch)
    world.here.update(LOCKED)
    monkeypatch.setattr(durable.database, "sync", refuse)
    with pytest.raises(Undecided, match="are shut on disk: SXM_NOT_DURABLE"):
        shut_gates.shut_gates(world)
    assert world.here == dict(LOCKED, **{HOST: "RW"}), "the source stays locked"


def test_a_destination_of_another_version_that_does_not_tell_of_its_gates_decides_nothing(
    monkeypatch,
):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.here.update(LOCKED)
    world.plugin = lambda function, **_: '{"arrived": false}'
    with pytest.raises(Undecided, match="its version of Storage XenMotion is another one"):
        shut_gates.shut_gates(world)
    assert world.here.items() >= LOCKED.items() and world.disk("k")["gate"] == "opening"


def test_a_disk_that_cannot_be_looked_for_is_not_taken_for_one_that_is_gone(monkeypatch):
    """Else the source would be unlocked before a gate that may be open."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.here.update(LOCKED)

    def fails(self, disk):
        raise failure("INTERNAL_ERROR", "boom")

    monkeypatch.setattr(World, "destination_vdi", fails)
    with pytest.raises(Undecided, match="INTERNAL_ERROR"):
        shut_gates.shut_gates(world)
    assert world.here.items() >= LOCKED.items()
