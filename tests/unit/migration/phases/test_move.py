# SPDX-License-Identifier: LGPL-2.1-only
"""The move: xenopsd's task and the gates together, and whatever breaks it off."""

import contextlib
import errno
import json
import time

import mock
import pytest

from fake_migration import make_plan
from fake_pool import NULL, FakePool, failure
from move_world import (
    ENDED,
    FAILED,
    HOST,
    LOCKED,
    PENDING,
    SHUT,
    FakeMover,
    FakeXenops,
    World,
    world_of,
)
from storage_motion.errors import (
    Cancelled,
    DestinationFull,
    JournalNotWritten,
    MirrorBroken,
    MoveFailed,
    MoverFailed,
    NotDurable,
    Refused,
    TimedOut,
    Undecided,
    Unreachable,
    XenopsError,
)
from storage_motion.migration import durable, move_watch, resume
from storage_motion.migration.phases import claim, move, remap, shut_gates, table as phases
from storage_motion.switch import source_lock
from storage_motion.xapi import receiving_host


def test_it_moves(monkeypatch):
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, "arrive")
    move.move(world)
    assert (
        world.disk("k")["gate"] == "open"
        and world.here == LOCKED
        and world.entry["downtime"] is not None
    )


def test_the_destination_knows_what_is_owed_to_the_vm_before_that_leaves(monkeypatch):
    world, told = world_of(monkeypatch, PENDING, "suspend", PENDING, "arrive"), []
    world.entry.update(ha_restart_priority="restart", cbt_disabled=["k"])
    plugin = world.plugin

    def tell(function, **arguments):
        if function == "receive-owed":
            told.append((arguments, world.entry.get("xenops_task")))
        return plugin(function, **arguments)

    monkeypatch.setattr(world, "plugin", tell)
    move.move(world)
    assert told == [({"ha-restart-priority": "restart", "vdis": '["d"]'}, None)]


def test_a_gate_that_is_open_just_now_is_not_looked_at_while_the_guest_waits(monkeypatch):
    """A second later it is: an older database may have shut it."""
    ahead, looks = [0.0], []
    clock = mock.Mock(wraps=time, monotonic=lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr(move_watch, "time", clock)
    monkeypatch.setattr(
        move_watch.whereabouts, "open_again", lambda m: looks.append(m.disk("k")["gate"])
    )
    world = world_of(monkeypatch, PENDING)

    def later(step):
        ahead[0] += 60.0
        return step() if callable(step) else step

    def opened():
        if world.disk("k").get("gate") != "open":
            return PENDING
        assert looks == []
        world.script = [lambda: later(PENDING), world.arrive]
        return PENDING

    world.script = [PENDING, lambda: later(world.suspend), opened]
    move.move(world)
    assert looks == ["open"]


def test_a_broken_mirror_stops_it_before_the_suspend(monkeypatch):
    world = world_of(monkeypatch, PENDING, PENDING, FAILED)
    world.told = {"state": "broken", "clean": False, "error": "cut"}
    with pytest.raises(MirrorBroken):
        move.move(world)
    assert world.log == ["cancel"]
    shut_gates.shut_gates(world)
    assert (
        world.here == {HOST: "RW"} and world.log == ["cancel"] and world.state_here == "Running"
    ), "the guest has not noticed"


def test_a_guest_that_reboots_waits_for_no_move_that_waits_for_it(monkeypatch):
    """Its disks are closed as cleanly as by a move, and opened again only when the source is
    unlocked; xenopsd moves it only then."""
    world = world_of(monkeypatch, PENDING)

    def reboots():
        world.closes, world.told = "hard-reboot", ENDED
        world.here.pop(HOST)
        return PENDING

    def waits():
        assert world.here == {} and world.log == ["mover abort", "cancel"], (
            "no gate can be opened any more, and the source is unlocked"
        )
        world.here[HOST] = "RW"
        return FAILED

    world.script = [PENDING, reboots, waits]
    monkeypatch.setattr(
        FakeMover,
        "end",
        lambda mover, process, command, why: world.log.append("mover " + command),
        raising=False,
    )
    with pytest.raises(MirrorBroken) as raised:
        move.move(world)
    assert (
        "hard-reboot" in str(raised.value)
        and world.disk("k").get("gate") is None
        and "paused" in world.there
    )
    shut_gates.shut_gates(world)
    assert (
        world.here == {HOST: "RW"}
        and "gate opened" not in world.log
        and "shut down" not in world.log
    )


def test_a_mirror_that_breaks_at_the_suspend_opens_nothing(monkeypatch):
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, FAILED)
    real = world.suspend

    def suspend():
        real()
        world.told = {"state": "ended", "clean": False}
        return PENDING

    world.script[1] = suspend
    with pytest.raises(MirrorBroken):
        move.move(world)
    assert "gate opened" not in world.log and "paused" in world.there
    shut_gates.shut_gates(world)
    assert world.log[-2:] == ["end leaving here", "given back"], (
        "like xapi: its data is whole at the source"
    )
    assert (
        world.source.tables["VM"][world.vm()]["power_state"] == "Halted"
        and world.state_here is None
    ), "noted, and forgotten"
    done = list(world.log)
    shut_gates.shut_gates(world)
    assert world.log == done


def test_before_a_move_what_an_earlier_one_has_left_is_ended_and_what_xenopsd_knows_is_kept(
    monkeypatch,
):
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, "arrive")
    world.leaving, world.arriving = "Suspended", "Paused"
    move.move(world)
    assert world.log[:2] == ["end leaving here", "end incoming there"] and json.loads(
        world.kept
    ) == {"vm": {"id": "v"}}


def test_a_vm_that_runs_under_a_temporary_id_is_left_alone(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.arriving = "Running"
    with pytest.raises(MoveFailed, match="runs a VM of that id"):
        move.move(world)
    assert world.arriving == "Running" and "xenops_task" not in world.entry


def test_a_cancel_in_time(monkeypatch):
    world = world_of(monkeypatch, PENDING, ("Failed", ["Cancelled", "7"]))
    world.asks_to_cancel = True
    with pytest.raises(Cancelled):
        move.move(world)
    assert world.log == ["cancel"]


def test_a_cancel_too_late_is_ignored(monkeypatch):
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, "arrive")
    real = world.suspend
    world.script[0] = lambda: (real(), setattr(world, "asks_to_cancel", False))[0]
    world.script[1] = lambda: (setattr(world, "asks_to_cancel", True), PENDING)[1]
    move.move(world)
    assert "cancel" not in world.log


def test_a_failure_before_the_gate_opened_goes_back_in_the_right_order(monkeypatch):
    world = world_of(monkeypatch, PENDING, "suspend", FAILED)
    monkeypatch.setattr(
        FakeMover, "finish", lambda mover, mirrored: (_ for _ in ()).throw(MoverFailed("k", "no"))
    )
    with pytest.raises(MoverFailed):
        move.move(world)
    assert world.disk("k")["gate"] == "opening"
    order = []
    for name, pool in (("source", world.source), ("destination", world.destination)):
        for method in ("add_to_sm_config", "remove_from_sm_config"):
            pool.handlers["VDI." + method] = lambda *a, name=name, method=method, pool=pool: (
                order.append((name, method, a[1])),
                pool._field("VDI", method, a),
            )[1]
    shut_gates.shut_gates(world)
    assert order == [
        ("destination", "add_to_sm_config", "paused"),
        ("destination", "add_to_sm_config", "relinking"),
        ("source", "remove_from_sm_config", "paused"),
        ("source", "remove_from_sm_config", "relinking"),
    ]
    assert (
        world.there == SHUT
        and world.here == {}
        and world.disk("k")["opened"]
        and world.entry["xenops_task"] is None
    )
    shut_gates.shut_gates(world)


def test_what_the_vm_has_left_active_at_the_source_is_let_go_of_once_nothing_bars_that(monkeypatch):
    """As when xapi dies while SM deactivates: SM deactivates nothing that is `paused`."""
    world = world_of(monkeypatch, PENDING, "suspend", FAILED)
    monkeypatch.setattr(
        FakeMover, "finish", lambda mover, mirrored: (_ for _ in ()).throw(MoverFailed("k", "no"))
    )
    with pytest.raises(MoverFailed):
        move.move(world)
    monkeypatch.setattr(
        shut_gates.stale_activation,
        "let_go_dead",
        lambda session, uuid, vm: world.log.append(("let go", uuid, vm, dict(world.here))),
    )
    shut_gates.shut_gates(world)
    assert world.log[-1] == ("let go", "k", world.plan.vm, {})


def test_a_failure_after_the_gate_opened_leaves_the_vm_at_the_destination(monkeypatch):
    """It may have run there, and written, and have ended before anybody looked."""
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, PENDING, FAILED)
    move.move(world)
    assert world.there == {} and world.here == LOCKED and world.disk("k")["gate"] == "open"
    with pytest.raises(Undecided):
        shut_gates.shut_gates(world)
    assert world.there == {} and world.here == LOCKED


def test_a_xenopsd_that_falls_silent(monkeypatch):
    world = world_of(monkeypatch, PENDING, Unreachable("xenopsd", "refused"))
    with pytest.raises(Unreachable):
        move.move(world)


def test_a_xapi_that_is_away_for_a_moment(monkeypatch):
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, PENDING, PENDING, "arrive")
    left = [2]

    def flaky(ref):
        left[0] -= 1
        if left[0] > 0:
            raise ConnectionRefusedError("xapi restarts")
        return dict(world.here)

    suspend = world.script[0]
    world.script[0] = lambda: (
        world.source.handlers.update({"VDI.get_sm_config": flaky}),
        suspend(),
    )[1]
    move.move(world)
    assert world.disk("k")["gate"] == "open"


def test_the_url_of_the_destination():
    assert (
        receiving_host._https("http://10.0.0.1/services/xenops?session_id=x")
        == "https://10.0.0.1/services/xenops?session_id=x"
    )
    assert (
        receiving_host._https("http://10.0.0.1:8080/services/xenops?session_id=x")
        == "http://10.0.0.1:8080/services/xenops?session_id=x"
    )


def test_a_guest_that_rebooted_a_moment_ago_is_not_moved(monkeypatch):
    """Its mover has not noticed yet that tapdisk has gone; the tapdisk of now has no mirror."""
    world = world_of(monkeypatch, PENDING)
    world.tapdisk = "none"
    with pytest.raises(MirrorBroken):
        move.move(world)
    assert "xenops_task" not in world.entry, "xenopsd was not asked"
    assert world.here["relinking"] == "sxm m", "nothing activates the disk until the undo"
    shut_gates.shut_gates(world)
    assert "relinking" not in world.here


def test_the_source_cannot_be_activated_again_from_before_the_move_on(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.script = [
        lambda: (
            ("Failed", ["Internal_error", "no"])
            if world.here.get("relinking") == "sxm m"
            else ("Completed", {})
        )
    ]
    with pytest.raises(MoveFailed):
        move.move(world)
    shut_gates.shut_gates(world)
    assert "relinking" not in world.here


def test_a_destination_that_has_another_version_by_now_is_not_sent_it(monkeypatch):
    world = World(monkeypatch, [])
    world.installed = {"version": "9", "driver": True}
    with pytest.raises(Refused) as raised:
        move.move(world)
    assert "it has version 9 of" in raised.value.details[1] and "xenops_task" not in world.entry


def test_a_disk_below_which_sm_has_merged_others_images_is_done_again_first(monkeypatch):
    world, looked = World(monkeypatch, []), []

    def require(m, disk):
        looked.append(disk.key)
        raise MirrorBroken(disk.key, "SM has merged")

    monkeypatch.setattr(move.copying, "require_same_images", require)
    with pytest.raises(MirrorBroken):
        move.move(world)
    assert looked == [world.plan.disks[0].key] and "xenops_task" not in world.entry


@pytest.mark.parametrize("begun", [False, True])
def test_so_is_one_of_a_halted_vm_whose_gate_is_not_opened_yet(monkeypatch, begun):
    world, done = World(monkeypatch, []), []

    def require(m, disk):
        raise MirrorBroken(disk.key, "SM has merged")

    monkeypatch.setattr(move.copying, "require_same_images", require)
    monkeypatch.setattr(move.changes, "require_none", lambda m: None)
    monkeypatch.setattr(move, "_protect", lambda m: done.append("protected"))
    monkeypatch.setattr(move.unplugged_disks, "hand_over", lambda m: done.append("handed over"))
    if begun:
        world.note("k", gate="opening")
        move.hand_over(world)
        assert done == ["protected", "handed over"]
        return
    with pytest.raises(MirrorBroken):
        move.hand_over(world)
    assert done == []


def test_a_host_that_does_not_take_the_vm_any_more_is_not_sent_it(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.plan = make_plan(kind="in-pool", destination_host="h2")
    asked = []

    def refused(m):
        asked.append(dict(m.here))
        raise Refused(
            "host h2 does not take VM v", "HOST_NOT_ENOUGH_FREE_MEMORY 2 1", "free memory there"
        )

    monkeypatch.setattr(move.xapi_verdict, "ask_again", refused)
    monkeypatch.setattr(move.changes, "require_none", lambda m: None)
    with pytest.raises(Refused):
        move.move(world)
    assert (
        asked == [world.here] and "relinking" not in world.here and "xenops_task" not in world.entry
    )


def master(world, monkeypatch, state):
    """The SR's master answers that SM's mark is so; one that was left it takes away."""

    def end_relinking(session, sr_uuid, vdi_uuid):
        if state == "left":
            del world.here["relinking"]
        return state

    monkeypatch.setattr(source_lock.sr_master, "end_relinking", end_relinking)
    world.tolerated = lambda what: contextlib.suppress()  # noqa: B022


def test_relinking_of_sms_own_is_waited_for_and_not_lifted(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.here["relinking"] = "True"
    master(world, monkeypatch, "unknown")
    monkeypatch.setattr(source_lock, "COALESCE_TIMEOUT", 0.2)
    monkeypatch.setattr(source_lock, "RELINK_POLL", 0.05)
    with pytest.raises(TimedOut):
        move.move(world)
    source_lock.lift(world, world.plan.disks[0])
    assert world.here["relinking"] == "True"


def test_relinking_that_sm_has_left_gives_way_to_ours_and_is_lifted_as_ours(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    master(world, monkeypatch, "left")
    for action in (source_lock.begin, source_lock.begin_when_relinked):
        world.here["relinking"] = "True"
        action(world, world.plan.disks[0])
        assert world.here["relinking"] == "sxm m"
    world.here["relinking"] = "True"
    source_lock.lift(world, world.plan.disks[0])
    assert "relinking" not in world.here


def test_a_lock_that_sm_took_away_is_put_back_with_its_proof(monkeypatch):
    world = world_of(monkeypatch, PENDING, PENDING, PENDING, "suspend", PENDING, PENDING, "arrive")
    monkeypatch.setattr(move_watch, "HOLD_INTERVAL", 0.0)
    world.script[1] = lambda: (world.here.pop("relinking"), PENDING)[1]
    move.move(world)
    assert world.here == LOCKED


def test_who_came_in_without_a_mirror_while_the_lock_was_away_is_noticed(monkeypatch):
    world = world_of(monkeypatch, PENDING, PENDING, PENDING, PENDING, FAILED)
    monkeypatch.setattr(move_watch, "HOLD_INTERVAL", 0.0)
    world.script[1] = lambda: (
        world.here.pop("relinking"),
        setattr(world, "tapdisk", "none"),
        PENDING,
    )[2]
    with pytest.raises(MirrorBroken):
        move.move(world)
    assert world.log == ["cancel"]


@pytest.mark.parametrize(
    "status, error",
    [
        ({"errno": errno.ENOSPC}, DestinationFull),
        ({"errno": errno.EIO}, MirrorBroken),
        (MoverFailed("k", "is gone"), MirrorBroken),
    ],
)
def test_a_lock_without_a_mirror_behind_it_names_the_cause(monkeypatch, status, error):
    world = world_of(monkeypatch, PENDING)
    world.tapdisk = "broken"
    world.told = status
    with pytest.raises(error):
        source_lock.begin(world, world.plan.disks[0])


def test_while_sm_relinks_relinking_is_its_own(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.here["relinking"], world.tapdisk = "True", "none"
    source_lock.hold(world, world.plan.disks[0])
    assert world.here["relinking"] == "True"


def test_a_journal_that_is_full_while_the_guest_runs_ends_the_move_before_the_suspend(monkeypatch):
    monkeypatch.setattr(move_watch, "HOLD_INTERVAL", 0.0)
    world = world_of(
        monkeypatch,
        PENDING,
        PENDING,
        lambda: ("Failed", ["Cancelled", "7"]) if "cancel" in world.log else PENDING,
    )
    world.full = lambda fields: (
        fields.get("xenops_task") == "7" and "cancel" not in world.log and len(world.script) == 1
    )
    with pytest.raises(JournalNotWritten):
        move.move(world)
    assert (
        world.log == ["cancel"]
        and world.here[HOST] == "RW"
        and world.disk("k").get("gate") is None
        and world.there == SHUT
    )


def test_a_journal_that_cannot_take_the_name_of_xenopsds_task(monkeypatch):
    world = world_of(
        monkeypatch, lambda: ("Failed", ["Cancelled", "7"]) if "cancel" in world.log else PENDING
    )
    world.full = lambda fields: fields.get("xenops_task") == "7"
    with pytest.raises(JournalNotWritten):
        move.move(world)
    assert world.log == ["cancel"] and world.entry["xenops_task"] == move.STARTING, (
        "recovery looks for it by its label"
    )


@pytest.mark.parametrize("step", ["detached", "locking", "locked", "opening"])
def test_no_gate_opens_unjournalled(monkeypatch, step):
    """SM at the destination waits; then xenopsd's task fails, and the journal is why. Nothing is
    opened, and nothing undone."""
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, PENDING, FAILED)
    world.full = lambda fields: fields.get("gate") == step
    with pytest.raises(JournalNotWritten):
        move.move(world)
    assert (
        "gate opened" not in world.log
        and world.there == SHUT
        and world.disk("k").get("gate") != step
    )
    before = dict(world.here), dict(world.disk("k"))
    world.full = lambda fields: True
    with pytest.raises(JournalNotWritten):
        shut_gates.shut_gates(world)
    assert (
        world.there == SHUT
        and world.here["relinking"] == before[0]["relinking"]
        and world.disk("k") == before[1]
    )
    world.full = lambda fields: False
    shut_gates.shut_gates(world)
    assert world.there == SHUT and world.here == {} and world.log[-1] == "given back"


@pytest.mark.parametrize("step", ["detached", "locking", "locked", "opening"])
def test_a_journal_that_is_full_for_a_moment_only_in_the_suspend(monkeypatch, step):
    looks = []
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, PENDING, PENDING, "arrive")
    world.full = lambda fields: (
        fields.get("gate") == step and len(looks) < 3 and (looks.append(1) or True)
    )
    move.move(world)
    assert len(looks) == 3 and world.disk("k")["gate"] == "open" and "cancel" not in world.log


def test_a_journal_that_is_full_until_xenopsds_task_has_completed(monkeypatch):
    """The gate is open and the VM has moved, which can be noted a moment later only."""
    looks = []
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, "arrive", PENDING)
    world.full = lambda fields: (
        fields.get("gate") == "open"
        and (world.state_there != "Running" or len(looks) < 2 and (looks.append(1) or True))
    )
    move.move(world)
    assert len(looks) == 2 and world.disk("k")["gate"] == "open" and "cancel" not in world.log


def test_a_gate_that_is_open_and_could_not_be_noted(monkeypatch):
    """The VM has moved. Nobody takes it back, and recovery finds it there."""
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, "arrive", PENDING)
    world.full = lambda fields: fields.get("gate") == "open"
    with pytest.raises(JournalNotWritten):
        move.move(world)
    assert (
        world.disk("k")["gate"] == "opening"
        and world.there == {HOST: "RW"}
        and world.here["paused"]
    )
    world.full, world.script = lambda fields: False, [XenopsError("Task.stat", "Does_not_exist")]
    move.move(world)
    assert world.disk("k")["gate"] == "open" and world.there == {HOST: "RW"}


# What xapi has not written to disk it forgets when it is killed.


def test_before_the_vm_may_leave_both_databases_are_on_disk(monkeypatch):
    world = world_of(monkeypatch, PENDING, FAILED)
    seen = []
    monkeypatch.setattr(
        FakeXenops,
        "migrate",
        lambda self, *_, **__: seen.append((world.source.syncs, world.destination.syncs)) or "7",
    )
    with pytest.raises(MoveFailed):
        move.move(world)
    assert seen == [(1, 1)]
    world.source.goes_back()
    world.destination.goes_back()
    assert world.here["relinking"] == "sxm m" and world.there == SHUT


def test_if_that_cannot_be_proven_the_vm_does_not_leave(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    monkeypatch.setattr(
        durable.database, "sync", lambda session: (_ for _ in ()).throw(NotDurable("no answer"))
    )
    with pytest.raises(NotDurable):
        move.move(world)
    assert "xenops_task" not in world.entry
    monkeypatch.setattr(durable.database, "sync", FakePool.sync)
    shut_gates.shut_gates(world)
    assert world.here == {HOST: "RW"}


def test_a_vm_that_is_gone_at_the_destination_is_brought_there_again_before_it_leaves(monkeypatch):
    world, seen = world_of(monkeypatch, PENDING, FAILED), []

    def bring(session, url, document, check_cpu, copy, asked):
        world.destination.add(
            "VM",
            uuid="v",
            blocked_operations={},
            scheduled_to_be_resident_on=NULL,
            VIFs=[],
            VGPUs=[],
            VTPMs=[],
        )

    monkeypatch.setattr(remap, "_document", lambda *_: b"")
    monkeypatch.setattr(remap.metadata, "bring", bring)
    world.destination.handlers["host.allocate_resources_for_vm"] = lambda host, vm, live: (
        world.destination.get("VM", vm).update(scheduled_to_be_resident_on=host)
    )
    world.destination.handlers["network.attach_for_vm"] = lambda host, vm: ""
    monkeypatch.setattr(
        FakeXenops,
        "migrate",
        lambda self, *_, **__: seen.append(world.destination.goes_back()) or "7",
    )
    world.destination.tables["VM"].clear()
    world.destination.add("pool", master=world.host())
    with pytest.raises(MoveFailed):
        move.move(world)
    (vm,) = world.destination.tables["VM"].values()
    assert (
        seen
        and set(vm["blocked_operations"]) == set(claim.DISTURBING)
        and vm["scheduled_to_be_resident_on"] == world.host()
    ), "it is on disk"


def test_a_disk_whose_gate_is_gone_is_noticed_before_the_vm_leaves(monkeypatch):
    """Others may have used it: that is nothing to be put back."""
    world = world_of(monkeypatch, PENDING)
    world.there.clear()
    with pytest.raises(NotDurable):
        move.move(world)
    assert "xenops_task" not in world.entry and world.there == {}


def test_a_source_that_goes_back_while_the_gate_is_open_is_locked_again(monkeypatch):
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, PENDING, PENDING, PENDING, "arrive")

    def killed():
        assert world.disk("k")["gate"] == "open"
        world.source.goes_back()
        assert world.here.pop("paused", None) is None
        raise Unreachable("xenopsd", "its xapi is away")

    world.script[4] = killed
    world.script[5] = lambda: (PENDING, world.here.pop(HOST, None))[0]
    move.move(world)
    assert world.here == LOCKED
    vm = world.source.tables["VM"][world.vm()]
    assert (
        vm["other_config"] == {"sxm_migration": "m"} and "hard_shutdown" in vm["blocked_operations"]
    )


def test_a_gate_that_comes_back_shut_while_the_vm_waits_is_opened_again(monkeypatch):
    monkeypatch.setattr(move_watch, "HOLD_INTERVAL", 0.0)
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, PENDING, PENDING, PENDING, "arrive")

    def killed():
        assert world.disk("k")["gate"] == "open" and world.there == {}
        world.destination.goes_back()
        assert world.there == SHUT
        return PENDING

    world.script[4] = killed
    move.move(world)
    assert world.there == {HOST: "RW"}


def has_ended(session):
    raise failure("HANDLE_INVALID", "session", session)


@pytest.mark.parametrize(
    "script, session, again",
    [
        ([PENDING, FAILED], has_ended, True),
        ([PENDING, FAILED], lambda session: "its uuid", False),  # it has failed for another reason
        # nobody knows what has become of it
        ([PENDING, XenopsError("Task.stat", "Does_not_exist")], has_ended, False),
    ],
)
def test_a_move_that_fails_before_the_suspend_as_the_destinations_xapi_is_restarted_is_tried_again(
    monkeypatch, script, session, again
):
    world = world_of(monkeypatch, *script)
    world.destination.handlers["session.get_uuid"] = session
    with pytest.raises((MoveFailed, XenopsError)) as raised:
        move.move(world)
    phase = next(phase for phase in phases.PHASES if phase.name == "move")
    assert (getattr(resume.begins(world, phase, raised.value), "name", None) == "sync") is again
    if again:
        assert raised.value.failure() == ["SXM_MOVE_FAILED", "v", "Internal_error", "boom"]


def test_one_that_fails_behind_the_suspend_is_not(monkeypatch):
    """The guest is shut down by now."""
    world = world_of(monkeypatch, FAILED)
    world.destination.handlers["session.get_uuid"] = has_ended
    world.entry["xenops_task"], world.told = "7", ENDED
    world.note("k", gate="detached")
    with pytest.raises(MoveFailed) as raised:
        move.move(world)
    assert not isinstance(raised.value, resume.BROKEN)


@pytest.mark.parametrize("begun", [True, False])
def test_an_answer_of_xenopsd_that_was_lost_with_the_xapi_between(monkeypatch, begun):
    """Whether it moves the VM its tasks tell: those of an earlier try are others."""
    world, asked = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, "arrive"), []
    world.tasks_here = ["5"]

    def migrate(self, *_, **__):
        asked.append(1)
        if len(asked) > 1:
            return "7"
        world.tasks_here = ["5"] + ["6"] * begun
        raise Unreachable("xenopsd", "reset")

    monkeypatch.setattr(FakeXenops, "migrate", migrate)
    move.move(world)
    assert world.entry["xenops_task"] == ("6" if begun else "7") and len(asked) == (
        1 if begun else 2
    )


def test_it_is_asked_with_a_session_of_now(monkeypatch):
    """One that a xapi has forgotten, which was restarted since the import, leads nowhere."""
    world, urls = world_of(monkeypatch, PENDING, FAILED), []
    world.destination.handlers["session.get_uuid"] = lambda session: "its uuid"
    monkeypatch.setattr(
        FakeXenops, "migrate", lambda self, *_, xenops_url, **__: urls.append(xenops_url) or "7"
    )
    with pytest.raises(MoveFailed):
        move.move(world)
    assert urls == ["https://b/services/xenops?session_id=y"]
