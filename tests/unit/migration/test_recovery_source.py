# SPDX-License-Identifier: LGPL-2.1-only
"""Recovery at the source: who may run the VM afterwards, what is undone or finished, by which error
it ends, and what waits for what."""

import http.client
import os
import signal
import subprocess

import pytest

from fake_migration import ID, FakeTask
from fake_pool import failure
from interrupted_world import ANOTHER, DEAD, LIVE, LOCKED, PASSWORD, Interrupted, entry
from move_world import HOST
from storage_motion.dom0.launch import Process
from storage_motion.dom0.root import path as root_path
from storage_motion.errors import NoSuchMigration, TimedOut, Unreachable, Waits
from storage_motion.journal import journal, secret_files, xenopsd_export
from storage_motion.journal.journal import Journal
from storage_motion.migration import (
    driving_sessions,
    migration,
    recovery,
    recovery_decision,
    recovery_source,
)
from storage_motion.migration.phases import blocking
from storage_motion.xapi.session import BadCredentials, HostIsSlave

OTHER = ID[:-1] + "6"
GONE = Unreachable("https://x", "No route to host")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


def is_as_it_was(scene):
    """The VM is the source's, as if there had been no migration, and nothing of it is elsewhere."""
    assert scene.may_run == ["source"]
    assert scene.vm["blocked_operations"] == {} and scene.vm["other_config"] == {}
    assert scene.world.here.keys() <= {HOST}
    assert not scene.has(scene.destination, "VDI", "d")
    if scene.plan.cross_pool:
        assert not scene.destination.tables["VM"]
    assert scene.entry["left"] == scene.entry["begun"] == [] and not scene.secrets_are_kept()
    return True


def is_untouched(scene):
    """Nobody may run the VM but who runs it already, and nothing is taken away at either side."""
    assert scene.may_run == []
    assert "start" in scene.vm["blocked_operations"] and "sxm_migration" in scene.vm["other_config"]
    assert scene.world.here.items() >= LOCKED.items() and scene.has(scene.destination, "VDI", "d")
    assert scene.world.log == [] and scene.secrets_are_kept()
    return True


def test_only_one_takes_it_over(monkeypatch):
    Journal.create(ID, **entry())
    taken, before = recovery_source._take_over(ID)
    assert before is None and taken.entry["worker"]["pid"] == os.getpid()
    monkeypatch.setattr(os, "getpid", os.getppid)
    assert recovery_source._take_over(ID)[1]["outcome"] == recovery_decision.RUNNING


def test_a_worker_that_is_stopped_is_nobodys_to_take_over():
    """It may go on at any moment, where it was."""
    stopped = subprocess.Popen(["sleep", "60"])
    try:
        os.kill(stopped.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
        worker = Process.of(stopped.pid)
        Journal.create(ID, **entry(worker=worker.to_json()))
        assert recovery_source._take_over(ID)[1]["outcome"] == recovery_decision.RUNNING
        assert Journal.load(ID).entry["worker"] == worker.to_json()
    finally:
        stopped.kill()
        stopped.wait()
    assert recovery_source._take_over(ID)[1] is None


@pytest.mark.parametrize("worker, left", [(DEAD, False), (ANOTHER, True)])
def test_what_a_worker_has_left_that_was_killed_behind_its_last_note(worker, left):
    Journal.create(ID, **entry(state=journal.SUCCEEDED, worker=worker))
    secret_files.keep(ID, "remote", {"username": "root", "password": "xenroot"})
    xenopsd_export.keep(ID, "{}")
    assert recovery_source._take_over(ID)[1]["outcome"] == recovery_decision.ENDED
    assert (
        os.path.exists(xenopsd_export._path(ID)),
        os.path.exists(root_path("/run/sxm/" + ID)),
    ) == (left, left)


def test_what_keeps_the_vm_from_being_started_is_put_back_before_anything_is_waited_for(
    monkeypatch,
):
    """xapi may have lost it: the source's locks, blocks, the claim."""
    Journal.create(ID, **entry(phase="move", begun=["claim", "move"], xenops_task="7"))
    order = []
    monkeypatch.setattr(recovery_source.smapi, "await_commands", lambda *_: None)
    monkeypatch.setattr(recovery.sessions, "local", lambda timeout: None)
    monkeypatch.setattr(recovery.sessions, "logout", lambda session: None)
    for name in ("begin", "end"):
        monkeypatch.setattr(
            recovery_source.driving_sessions,
            name,
            lambda one, side, session, name=name: order.append("%s %s" % (name, side)),
        )
    monkeypatch.setattr(recovery_source, "_task", lambda *_: FakeTask())
    monkeypatch.setattr(recovery_source.claim, "put_back", lambda m: order.append("claim"))
    monkeypatch.setattr(recovery_source.shut_gates, "lock_again", lambda m: order.append("locks"))
    monkeypatch.setattr(
        recovery_source,
        "_destination",
        lambda *_: (
            order.append("destination") or (recovery_source.Unreached(None), (), "it is away")
        ),
    )
    with pytest.raises(Waits):
        recovery_source.recover(None, ID, {})
    assert order == ["begin source", "claim", "locks", "destination", "end source"]


def test_the_sessions_of_the_dead_worker_are_ended_before_anything_is_looked_at(monkeypatch):
    """Else what it had asked for may be done behind the recovery. Where one of them cannot be ended
    it waits."""
    scene = Interrupted(monkeypatch)
    scene.begin("sync")
    dead = {"source": ["OpaqueRef:dead"], "destination": ["OpaqueRef:dead there"]}
    secret_files.keep(ID, driving_sessions.NAME, dead)
    ended, away = [], ["OpaqueRef:dead", "OpaqueRef:dead there"]

    def end_surely(session, reference):
        if reference in away:
            away.remove(reference)
            raise failure("HOST_STILL_BOOTING")
        assert "OpaqueRef:dead there" in ended or is_untouched_there(scene)
        ended.append(reference)

    monkeypatch.setattr(recovery.sessions, "end_surely", end_surely)
    for reached in ([], ["OpaqueRef:dead"]):
        assert scene.recover()["outcome"] == recovery_decision.WAITING
        assert ended == reached and is_untouched_there(scene)
    assert scene.recover()["outcome"] == recovery_decision.TAKEN_BACK
    assert ended == ["OpaqueRef:dead", "OpaqueRef:dead there"]
    assert is_as_it_was(scene)


def is_untouched_there(scene):
    return scene.has(scene.destination, "VDI", "d")


@pytest.mark.parametrize(
    "phase, in_pool",
    [(phase, False) for phase in (None, "claim", "receive", "sync", "remap")]
    + [(phase, True) for phase in (None, "claim", "receive", "sync")],
)
def test_before_the_move_it_is_taken_back(monkeypatch, phase, in_pool):
    """xapi may have lost the claim: here it has."""
    scene = Interrupted(monkeypatch, in_pool=in_pool)
    scene.begin(phase)
    answer = scene.recover()
    assert (answer["outcome"], answer["side"], answer["vm"], answer["left"]) == (
        recovery_decision.TAKEN_BACK,
        "source",
        "v",
        [],
    )
    assert is_as_it_was(scene) and scene.vm["power_state"] == "Running"
    assert scene.entry["state"] == journal.FAILED
    assert scene.entry["error"] == ["SXM_WORKER_DIED", ID, str(phase)] == answer["error"]
    assert scene.task == ("failure", scene.entry["error"])
    assert len(scene.logins) == (0 if in_pool else 2)


@pytest.mark.parametrize("tries", [1, 2, recovery_source.TRIES + 1])
def test_what_somebody_had_cancelled_is_cancelled_at_whatever_try(monkeypatch, tries):
    scene = Interrupted(monkeypatch)
    scene.begin("receive")
    scene.fails["receive-abort"] = tries - 1
    migration.ask_to_cancel(ID)
    if tries > recovery_source.TRIES:
        assert scene.recover()["outcome"] == recovery_decision.UNFINISHED
    assert scene.recover()["outcome"] == recovery_decision.TAKEN_BACK
    assert is_as_it_was(scene) and scene.entry["state"] == journal.CANCELLED
    assert scene.entry["error"] == ["SXM_CANCELLED", ID] and scene.task == ("cancelled", [])


def test_the_task_that_shows_it_goes_on_if_xapi_still_has_it(monkeypatch):
    scene = Interrupted(monkeypatch)
    known = scene.source.get("task", scene.source.xenapi.task.create("l", "d"))["uuid"]
    scene.begin("sync", task=None).write(task=known)
    scene.recover()
    assert scene.entry["task"] == known and len(scene.source.tables["task"]) == 1


def test_one_that_xapi_has_forgotten_is_replaced(monkeypatch):
    scene = Interrupted(monkeypatch)
    scene.begin("sync").write(task="of the xapi before")
    scene.recover()
    (record,) = scene.source.tables["task"].values()
    assert record["uuid"] == scene.entry["task"] and record["status"] == "failure"
    assert record["other_config"]["sxm_migration"] == ID, "by which it is known"


# xenopsd was asked to move it.


def moved(monkeypatch, script, **fields):
    scene = Interrupted(monkeypatch, script)
    scene.begin("move", task="7", **fields)
    return scene


def is_at_the_destination(scene):
    assert scene.may_run == ["there"] and not scene.sessions
    (vm,) = scene.destination.tables["VM"].values()
    assert vm["blocked_operations"] == {}
    assert not scene.source.tables["VM"] and not scene.source.tables["VBD"]
    assert not scene.has(scene.source, "VDI", "k"), "it was verified, and its gate is open"
    assert scene.entry["left"] == [] and not scene.secrets_are_kept()
    return vm


def test_while_xenopsd_is_at_it_its_gates_are_led_on(monkeypatch):
    scene = moved(monkeypatch, ["suspend", "arrive"])
    answer = scene.recover()
    assert answer["outcome"] == recovery_decision.MOVED and answer["why"].endswith(
        "is at the destination"
    )
    assert is_at_the_destination(scene)["power_state"] == "Running"
    assert (scene.entry["state"], scene.entry["error"]) == (journal.SUCCEEDED, None)
    assert scene.task == ("success", [])
    assert scene.world.log.count("gate opened") == 1


def test_a_vm_that_ended_there_meanwhile_is_moved_and_halted(monkeypatch):
    scene = Interrupted(monkeypatch)
    scene.begin("complete", task="7", gate="open")
    scene.world.open()
    scene.world.state_here = None
    scene.world.here.clear()
    answer = scene.recover()
    assert answer["outcome"] == recovery_decision.MOVED and answer["why"].endswith(
        "destination, halted"
    )
    assert is_at_the_destination(scene)["power_state"] == "Halted"
    assert scene.entry["error"] == ["SXM_ARRIVED_HALTED", "v"] == answer["error"]


def suspended(monkeypatch, gate="locked"):
    """xenopsd has failed behind the suspend of the guest."""
    scene = moved(monkeypatch, [("Failed", ["Internal_error", "boom"])], gate=gate)
    scene.world.state_here, scene.world.leaving = None, "Suspended"
    scene.world.here.clear()
    scene.world.here.update(LOCKED)
    return scene


def test_where_a_gate_is_shut_the_vm_is_at_the_source(monkeypatch):
    scene = suspended(monkeypatch)
    answer = scene.recover()
    assert answer["outcome"] == recovery_decision.TAKEN_BACK and answer["why"].endswith(
        "is at the source"
    )
    assert is_as_it_was(scene) and scene.vm["power_state"] == "Halted"
    assert scene.entry["error"] == ["SXM_MOVE_FAILED", "v", "Internal_error", "boom"]


def test_while_it_is_not_known_whether_a_gate_opens_nothing_is_decided(monkeypatch):
    scene = suspended(monkeypatch, gate="opening")
    scene.fails["receive-stop"] = 99
    answer = scene.recover()
    assert answer["outcome"] == recovery_decision.UNDECIDED and answer["why"].endswith(
        "recover it again"
    )
    assert answer["left"] == ["undecided"] and answer["error"][0] == "SXM_UNDECIDED"
    assert is_untouched(scene) and scene.pauses == []
    del scene.fails["receive-stop"]
    assert scene.recover()["outcome"] == recovery_decision.TAKEN_BACK
    assert is_as_it_was(scene) and scene.vm["power_state"] == "Halted"


def test_one_that_the_destination_says_to_have_opened_is_not_taken_back(monkeypatch):
    scene = suspended(monkeypatch, gate="opening")
    scene.world.open()
    scene.world.there[HOST], scene.world.state_there, scene.world.leaving = "RW", "Running", None
    assert scene.recover()["outcome"] == recovery_decision.MOVED
    assert is_at_the_destination(scene)["power_state"] == "Running"


# The other pool cannot be used.

AWAY = [
    (GONE, "SXM_UNREACHABLE https://x No route to host"),
    (BadCredentials("https://x"), "SXM_BAD_CREDENTIALS https://x"),
    (HostIsSlave("https://x", "10.0.0.9"), "SXM_HOST_IS_SLAVE https://x 10.0.0.9"),
    (None, "its password is not known any more: give remote-username and remote-password"),
]


def away(scene, error):
    """With None: its password is gone with the host's memory."""
    scene.away = error
    if error is None:
        secret_files.forget(ID)


@pytest.mark.parametrize("error, why", AWAY)
def test_what_the_vms_whereabouts_decide_waits_for_it_untouched(monkeypatch, error, why):
    scene = suspended(monkeypatch)
    away(scene, error)
    answer = scene.recover()
    assert (
        answer["outcome"] == recovery_decision.WAITING
        and "whether the VM is there decides" in (answer["why"])
    )
    assert "the pool at https://x cannot be used: " in answer["why"] and why in answer["why"]
    secret_files.keep(ID, "remote", {"username": "root", "password": PASSWORD})
    assert is_untouched(scene) and scene.entry["state"] == journal.RUNNING
    assert scene.entry["begun"] == LIVE[: LIVE.index("move") + 1]
    scene.away = None
    assert scene.recover()["outcome"] == recovery_decision.TAKEN_BACK and is_as_it_was(scene)


@pytest.mark.parametrize("error, why", AWAY)
def test_before_the_move_the_guest_goes_on_without_it_and_the_rest_waits(monkeypatch, error, why):
    scene = Interrupted(monkeypatch)
    scene.begin("sync")
    away(scene, error)
    answer = scene.recover()
    assert answer["outcome"] == recovery_decision.WAITING and why in answer["why"]
    assert answer["why"].endswith("what was made there stays until then") and scene.pauses == []
    assert scene.may_run == ["source"] and scene.vm["blocked_operations"] == {}
    assert scene.has(scene.destination, "VDI", "d") and scene.entry["begun"] == ["receive"]
    (left,) = answer["left"]
    assert left.startswith("undo receive: SXM_")
    scene.away = None
    assert (
        scene.recover(**{"remote-username": "root", "remote-password": "new"})["outcome"]
        == recovery_decision.TAKEN_BACK
    )
    assert is_as_it_was(scene)
    assert scene.entry["error"] == ["SXM_WORKER_DIED", ID, "sync"], (
        "what it has failed with at first"
    )


def test_a_password_that_is_given_is_used_and_kept_nowhere(monkeypatch, root, caplog):
    scene = Interrupted(monkeypatch)
    scene.begin("sync")
    secret_files.forget(ID)
    scene.fails["receive-abort"] = 99
    monkeypatch.setattr(
        recovery_source.Migration,
        "plugin",
        lambda m, *_, **__: (_ for _ in ()).throw(OSError("hush")),
    )
    answer = scene.recover(**{"remote-username": "admin", "remote-password": "hush"})
    assert scene.logins == [("https://x", "admin", "hush")] * 2
    assert answer["outcome"] == recovery_decision.UNFINISHED and "***" in answer["left"][0]
    told = caplog.text + repr(answer) + repr(scene.entry) + repr(scene.source.tables["task"])
    assert "hush" not in told and not scene.secrets_are_kept()


# What cannot be undone or done.


def test_the_way_back_is_tried_again_for_what_was_busy(monkeypatch):
    scene = Interrupted(monkeypatch)
    scene.begin("receive")
    scene.fails["receive-abort"] = recovery_source.TRIES - 1
    assert scene.recover()["outcome"] == recovery_decision.TAKEN_BACK
    assert is_as_it_was(scene) and scene.pauses == [recovery_source.PAUSE] * (
        recovery_source.TRIES - 1
    )
    assert scene.entry["error"] == ["SXM_WORKER_DIED", ID, "receive"]


def test_what_stays_is_told_and_the_vm_is_free_all_the_same(monkeypatch):
    scene = Interrupted(monkeypatch)
    scene.begin("receive")
    scene.fails["receive-abort"] = 99
    answer = scene.recover()
    left = "undo receive: SXM_DISK_IN_USE d"
    assert answer["outcome"] == recovery_decision.UNFINISHED and answer["left"] == [left]
    assert (
        answer["why"].endswith("; left: " + left) and len(scene.pauses) == recovery_source.TRIES - 1
    )
    assert scene.may_run == ["source"] and scene.entry["begun"] == ["receive"]
    assert scene.secrets_are_kept(), "whoever goes on with it needs them"
    del scene.fails["receive-abort"]
    assert scene.recover()["outcome"] == recovery_decision.TAKEN_BACK and is_as_it_was(scene)


def test_nothing_is_deleted_at_the_source_that_was_not_verified(monkeypatch):
    """Whatever the journal says else: only an open gate means that."""
    scene = Interrupted(monkeypatch)
    scene.begin("clean-up", gate="locked")
    scene.world.open()
    scene.world.there[HOST], scene.world.state_there = "RW", "Running"
    (vm,) = scene.destination.tables["VM"].values()
    (vdi,) = scene.destination.tables["VDI"].values()
    vm.update(resident_on=scene.destination.xenapi.host.get_by_uuid("i"))
    vdi.update(managed=True)
    scene.vm.update(power_state="Halted")
    answer = scene.recover()
    assert answer["outcome"] == recovery_decision.UNFINISHED
    assert answer["error"][0] == "SXM_NOT_CLEANED_UP" and "not verified" in answer["left"][0]
    assert scene.has(scene.source, "VDI", "k") and "start" in scene.vm["blocked_operations"]
    assert scene.may_run == ["there"] and scene.pauses == []


def test_behind_the_point_of_no_return_no_lock_is_put_back(monkeypatch):
    """It would be in the way of the disk's end."""
    scene = Interrupted(monkeypatch)
    scene.begin("complete", task="7", gate="open")
    scene.away = GONE
    scene.world.here.clear()
    assert scene.recover()["outcome"] == recovery_decision.WAITING
    assert scene.world.here == {} and "start" in scene.vm["blocked_operations"]
    assert scene.may_run == [] and scene.entry["committed"]


# A destination that is said to be lost.


def lost(scene):
    return scene.recover(lost="destination")


def test_a_destination_that_answers_is_not_lost(monkeypatch):
    scene = suspended(monkeypatch)
    answer = lost(scene)
    assert answer["outcome"] == recovery_decision.WAITING and answer["why"].endswith("answers")
    assert is_untouched(scene)


def test_one_that_is_said_to_be_lost_and_has_all_that_is_left_of_the_vm_is_waited_for(monkeypatch):
    scene = Interrupted(monkeypatch)
    scene.begin("clean-up", task="7", gate="open")
    scene.away = GONE
    scene.source.tables["VBD"].clear()
    (vdi,) = [ref for ref, vdi in scene.source.tables["VDI"].items() if vdi["uuid"] == "k"]
    del scene.source.tables["VDI"][vdi]
    answer = lost(scene)
    assert answer["outcome"] == recovery_decision.WAITING and "VDI k, VBD b" in answer["why"]
    assert scene.entry["committed"] and scene.may_run == []


@pytest.mark.parametrize("phase, gate", [("move", "opening"), ("complete", "open")])
def test_without_it_the_vm_is_the_sources_halted_with_the_disks_that_it_left(
    monkeypatch, phase, gate
):
    scene = suspended(monkeypatch, gate=gate)
    Journal.load(ID).remove()
    scene.begin(phase, task="7", gate=gate)
    scene.away = GONE
    assert scene.recover()["outcome"] == recovery_decision.WAITING, "without that word"
    answer = lost(scene)
    assert answer["outcome"] == recovery_decision.TAKEN_BACK and "as you say" in answer["why"]
    assert answer["error"] == ["SXM_DESTINATION_LOST", "v"] == scene.entry["error"]
    assert scene.may_run[0] == "source" and scene.vm["power_state"] == "Halted"
    assert scene.world.here == {} and scene.vm["blocked_operations"] == {}
    assert not scene.entry["committed"] and scene.entry["left"] == []


# Who recovers which.


@pytest.mark.parametrize("state, outcome", [("running", "running"), ("succeeded", "ended")])
def test_one_that_needs_no_recovery_is_told_to_who_asks_for_it(monkeypatch, state, outcome):
    scene = Interrupted(monkeypatch)
    worker = Process.of(os.getppid()).to_json()
    scene.begin("sync", worker=worker, state=state)
    answer = scene.recover()
    assert answer["outcome"] == outcome
    assert answer["why"] == {"running": "a process drives it, in phase sync"}.get(state, state)
    assert scene.logins == scene.world.log == [] and scene.entry["worker"] == worker
    others = recovery.recover(None, {})["migrations"]
    assert [one["outcome"] for one in others] == [outcome] * (state == "running")


def test_the_one_that_is_named_is_the_only_one(monkeypatch):
    scene = Interrupted(monkeypatch)
    scene.begin("sync")
    scene.begin(None, one=OTHER)
    assert scene.recover()["migration"] == ID
    assert Journal.load(OTHER).entry["state"] == journal.RUNNING


@pytest.mark.parametrize(
    "error",
    [failure("INTERNAL_ERROR", "boom"), OSError("cut"), GONE, http.client.BadStatusLine("<html>")],
)
def test_one_that_cannot_be_recovered_hinders_no_other(monkeypatch, error):
    scene, errors, begin = Interrupted(monkeypatch), [error], recovery.sessions.local
    scene.begin(None)
    scene.begin(None, one=OTHER)

    def local(timeout):
        if errors:
            raise errors.pop()
        return begin(timeout)

    monkeypatch.setattr(recovery.sessions, "local", local)
    found = recovery.recover(None, {})["migrations"]
    assert [one["outcome"] for one in found] == [
        recovery_decision.WAITING,
        recovery_decision.TAKEN_BACK,
    ]
    assert str(error) in found[0]["why"] and scene.sessions == []


def test_commands_of_the_dead_worker_are_waited_for_before_anything_is_undone(monkeypatch):
    def busy():
        raise TimedOut("process 7, a command of the storage manager, to end", "600")

    scene = Interrupted(monkeypatch)
    scene.begin("sync")
    monkeypatch.setattr(recovery_source.smapi, "await_commands", busy)
    answer = scene.recover()
    assert answer["outcome"] == recovery_decision.WAITING and "process 7" in answer["why"]
    assert scene.world.log == [] and scene.has(scene.destination, "VDI", "d")


def test_a_journal_that_is_gone_meanwhile_is_nobodys(monkeypatch):
    """Its migration has ended, and it was one of the oldest."""
    monkeypatch.setattr(journal, "all_ids", lambda side="": [] if side else [ID])
    assert recovery.recover(None, {}) == {"migrations": []}
    with pytest.raises(NoSuchMigration):
        recovery.recover(None, {"migration": ID})


def test_another_migration_of_the_vm_keeps_what_it_has_claimed(monkeypatch):
    scene = Interrupted(monkeypatch)
    scene.begin("sync")
    scene.vm["other_config"] = {"sxm_migration": OTHER}
    scene.vm["blocked_operations"] = {"start": blocking.reason(OTHER)}
    answer = scene.recover()
    assert (
        answer["outcome"] == recovery_decision.WAITING and "SXM_ALREADY_MIGRATING" in answer["why"]
    )
    assert scene.vm["other_config"] == {"sxm_migration": OTHER} and scene.may_run == []
