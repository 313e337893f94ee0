# SPDX-License-Identifier: LGPL-2.1-only
"""What breaks is taken up again: how far back, how often, at which intervals, and by whose word."""

import os

import pytest
import XenAPI

from fake_migration import ID, FakeTask, make_plan
from storage_motion.errors import (
    Cancelled,
    CopyFailed,
    MirrorBroken,
    MoverFailed,
    Undecided,
    VmNotRunning,
)
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration, resume, run as phase_run
from storage_motion.migration.phases import table as phases
from storage_motion.migration.phases.table import Phase
from test_run import BACK

CUT = MirrorBroken("k", "cut")
SYNC = BACK.index("sync")


class Clock:
    """Time that passes only when somebody sleeps. `at`: {seconds: what happens then}."""

    def __init__(self, at):
        self.now, self.at = 1000.0, dict(at)

    def monotonic(self):
        return self.now

    time = monotonic

    def sleep(self, seconds):
        self.now += seconds
        for due in [moment for moment in self.at if moment <= self.now - 1000.0]:
            self.at.pop(due)()


class Run:
    """A migration whose phases write down when they were called; `fails`: {what: the exceptions of
    its first calls}."""

    def __init__(self, monkeypatch, fails, limit=5, at=(), plan=None, steady=resume.STEADY):
        self.log, self.waited, self.fails = (
            [],
            [],
            {name: list(errors) for name, errors in fails.items()},
        )
        self.clock = Clock(at)
        monkeypatch.setattr(resume, "time", self.clock)
        monkeypatch.setattr(resume, "POLL", 0.5)
        monkeypatch.setattr(resume, "STEADY", steady)
        recorded = tuple(
            Phase(
                phase.name,
                phase.title,
                phase.applies,
                self._recorder(phase.name),
                phase.undo and self._recorder("undo " + phase.name),
                phase.clear_broken and self._recorder("clear " + phase.name),
            )
            for phase in phases.PHASES
        )
        monkeypatch.setattr(phases, "PHASES", recorded)
        plan = plan or make_plan()
        self.journal = Journal.create(ID, **migration.initial(plan, limit))
        self.state = phase_run.forward(
            migration.Migration(self.journal, plan, None, None, FakeTask())
        )
        self.entry = Journal.load(ID).entry

    def _recorder(self, name):
        def call(m):
            self.log.append(name)
            self.waited.append(round(self.clock.now - 1000.0))
            if name in self.fails and self.fails[name]:
                raise self.fails[name].pop(0)

        return call


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


def say_resume():
    resume.ask(ID)


def say_cancel():
    migration.ask_to_cancel(ID)


@pytest.mark.parametrize("failing", BACK[SYNC:])
@pytest.mark.parametrize("error", [CUT, CopyFailed("k", "torn"), MoverFailed("k", "dead")])
def test_it_goes_back_to_sync_and_forward_again(monkeypatch, failing, error):
    run = Run(monkeypatch, {failing: [error]})
    begun = BACK[: BACK.index(failing) + 1]
    undone = ["undo " + name for name in reversed(begun[SYNC + 1 :])]
    assert run.log == begun + undone + ["clear sync"] + BACK[SYNC:] + [
        "complete",
        "clean-up",
        "end",
    ]
    assert (run.state, run.entry["error"], run.entry["broken"], run.entry["tries"]) == (
        "succeeded",
        None,
        None,
        1,
    )


def test_a_halted_vm_as_well(monkeypatch):
    run = Run(monkeypatch, {"hand-over": [MoverFailed("k", "dead")]}, plan=make_plan(live=False))
    assert (
        run.log[3:8] == ["hand-over", "undo hand-over", "clear sync", "sync", "hand-over"]
        and run.state == "succeeded"
    )


@pytest.mark.parametrize("failing", BACK[:SYNC])
def test_before_sync_there_is_nothing_to_take_up(monkeypatch, failing):
    run = Run(monkeypatch, {failing: [CUT]})
    assert run.state == "failed" and "clear sync" not in run.log


@pytest.mark.parametrize("error", [XenAPI.Failure(["SR_FULL"]), Cancelled(ID), ValueError("a bug")])
def test_other_errors_are_final(monkeypatch, error):
    run = Run(monkeypatch, {"sync": [error]})
    assert (
        run.state in ("failed", "cancelled")
        and "clear sync" not in run.log
        and "undo claim" in run.log
    )


def test_no_tries(monkeypatch):
    run = Run(monkeypatch, {"sync": [CUT]}, limit=0)
    assert run.state == "failed" and run.log[-1] == "undo claim" and run.clock.now == 1000.0


def test_the_intervals_grow_and_then_it_holds_out_for_a_word(monkeypatch):
    run = Run(monkeypatch, {"sync": [CUT] * 99}, limit=6)
    tried = [when for name, when in zip(run.log, run.waited) if name == "clear sync"]
    assert tried == [2, 6, 14, 30, 62, 122]
    assert run.waited[-1] == 122 + resume.HOLD
    assert (run.state, run.entry["error"], run.entry["broken"]) == (
        "failed",
        ["SXM_MIRROR_BROKEN", "k", "cut"],
        None,
    )
    assert run.log[-4:] == ["undo sync", "undo receive", "undo eject", "undo claim"]


def test_a_renewal_that_fails_is_a_try(monkeypatch):
    run = Run(
        monkeypatch,
        {"sync": [CUT], "clear sync": [OSError("no route"), XenAPI.Failure(["HOST_OFFLINE"])]},
    )
    assert (
        run.log.count("clear sync") == 3
        and run.log.count("sync") == 2
        and run.entry["tries"] == 3
        and run.state == "succeeded"
    )


def test_resume_starts_a_try_at_once(monkeypatch):
    run = Run(monkeypatch, {"sync": [CUT]}, at={1: say_resume})
    assert (
        run.waited[run.log.index("clear sync")] == 1
        and run.state == "succeeded"
        and run.entry["tries"] == 1
    )
    assert not os.path.exists(os.path.join(journal.run_directory(ID), resume.RESUME))


def test_resume_begins_the_tries_anew_when_all_are_used_up(monkeypatch):
    run = Run(monkeypatch, {"sync": [CUT] * 3}, limit=2, at={100: say_resume})
    assert [when for name, when in zip(run.log, run.waited) if name == "clear sync"] == [2, 6, 100]
    assert run.state == "succeeded" and run.entry["tries"] == 1


@pytest.mark.parametrize("when", [1, 50])
def test_cancel_while_it_waits(monkeypatch, when):
    run = Run(monkeypatch, {"sync": [CUT] * 99}, limit=1, at={when: say_cancel})
    assert (
        run.state == "cancelled"
        and run.waited[-1] == when
        and run.log[-1] == "undo claim"
        and run.entry["broken"] is None
    )


def test_what_the_status_says_meanwhile(monkeypatch):
    seen = []
    run = Run(
        monkeypatch,
        {"sync": [CUT] * 99},
        limit=1,
        at={
            1: lambda: seen.append(Journal.load(ID).entry["broken"]),
            10: lambda: seen.append(Journal.load(ID).entry["broken"]),
        },
    )
    error = ["SXM_MIRROR_BROKEN", "k", "cut"]
    assert seen == [
        {"attempt": 1, "limit": 1, "error": error, "until": 1002.0, "waiting": "the next try"},
        {
            "attempt": 1,
            "limit": 1,
            "error": error,
            "until": 1302.0,
            "waiting": "resume or cancel; then it is taken back",
        },
    ]
    assert run.state == "failed"


def test_tries_are_counted_anew_after_a_steady_while(monkeypatch):
    run = Run(monkeypatch, {"sync": [CUT] * 4}, limit=2, steady=1.5)
    assert run.state == "succeeded" and run.log.count("clear sync") == 4


def test_a_vm_that_does_not_run_is_not_waited_for(monkeypatch):
    run = Run(
        monkeypatch, {"sync": [CUT], "clear sync": [VmNotRunning("v", "Halted")] * 99}, limit=2
    )
    assert (
        run.log.count("clear sync") == 2
        and run.waited[-1] == 6
        and run.entry["error"] == ["SXM_VM_NOT_RUNNING", "v", "Halted"]
    )


def test_a_vm_that_has_halted_is_given_back_soon(monkeypatch):
    run = Run(
        monkeypatch, {"sync": [CUT], "clear sync": [VmNotRunning("v", "Halted")] * 99}, limit=9
    )
    assert run.log.count("clear sync") == resume.REBOOT and run.waited[-1] == 14
    assert run.entry["error"] == ["SXM_VM_NOT_RUNNING", "v", "Halted"] and run.state == "failed"


def test_it_is_not_taken_up_over_what_could_not_be_undone(monkeypatch):
    run = Run(monkeypatch, {"move": [CUT], "undo remap": [OSError("gone")]})
    assert "clear sync" not in run.log and run.state == "failed" and run.entry["left"]


def test_nor_when_it_is_not_known_where_the_vm_is(monkeypatch):
    run = Run(monkeypatch, {"move": [CUT], "undo move": [Undecided("where")]})
    assert run.log[-1] == "undo move" and run.entry["error"][0] == "SXM_UNDECIDED"
