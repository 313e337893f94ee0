# SPDX-License-Identifier: LGPL-2.1-only
"""Going through the phases and back: a failure at every one of them."""

import json
import os

import pytest
import XenAPI

from fake_migration import ID, PASSWORD, FakeTask, make_plan
from full_disk import FullDisk
from storage_motion.api import status
from storage_motion.errors import Cancelled, JournalNotWritten, MirrorBroken, Undecided
from storage_motion.journal import secret_files
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration, recovery_decision, recovery_source, run as phase_run
from storage_motion.migration.phases import table as phases


class Run:
    """A migration whose phases only write down that they were called; `fails`: {what: exception},
    once."""

    def __init__(self, monkeypatch, plan=None, fails=None, always=False, disk=None, left=None):
        """`disk`: a FullDisk that takes `left` more writes from the begin of the run on."""
        self.plan, self.log, self.fails, self.always = (
            plan or make_plan(),
            [],
            dict(fails or {}),
            always,
        )
        recorded = tuple(
            phase._replace(
                do=self._recorder(phase.name),
                undo=phase.undo and self._recorder("undo " + phase.name),
                clear_broken=None,
            )
            for phase in phases.PHASES
        )
        monkeypatch.setattr(phases, "PHASES", recorded)
        monkeypatch.setattr(phase_run, "FORWARD_WAIT", 0)
        secret_files.keep(ID, "remote", {"password": PASSWORD})
        self.journal = Journal.create(ID, **migration.initial(self.plan))
        self.task = FakeTask()
        self.migration = migration.Migration(
            self.journal, self.plan, None, None, self.task, (PASSWORD,)
        )
        self.state = self.stopped = None
        if disk:
            disk.left, disk.written = left, 0
        try:
            self.state = phase_run.forward(self.migration)
        except JournalNotWritten as error:
            self.stopped = error
        self.entry = Journal.load(ID).entry

    def recover(self):
        """As recovery does it, in another process."""
        self.task = FakeTask()
        entry = Journal.load(ID)
        direction = recovery_decision.direction_of(entry.entry)
        recovery_source._to_its_end(
            migration.Migration(entry, self.plan, None, None, self.task, (PASSWORD,)), direction, 1
        )
        self.entry = Journal.load(ID).entry

    def _recorder(self, name):
        def call(m):
            # What is being done is in the journal before it is done.
            assert Journal.load(ID).entry["phase"] == name
            self.log.append(name)
            error = self.fails.get(name) if self.always else self.fails.pop(name, None)
            if error:
                raise error

        return call


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


LIVE_CROSS = ["claim", "eject", "receive", "sync", "remap", "move", "complete", "clean-up", "end"]
BACK = LIVE_CROSS[:6]


@pytest.mark.parametrize(
    "plan, names",
    [
        (make_plan(), LIVE_CROSS),
        (make_plan(kind="in-pool"), [name for name in LIVE_CROSS if name != "remap"]),
        (
            make_plan(live=False),
            ["claim", "receive", "sync", "hand-over", "adopt", "known", "clean-up", "end"],
        ),
    ],
)
def test_all_goes_well(monkeypatch, root, plan, names):
    run = Run(monkeypatch, plan)
    assert (
        run.log == names
        and run.state == "succeeded"
        and run.entry["error"] is None
        and run.entry["committed"]
    )
    assert run.task.ended == ("success", [])
    assert not (root / "run/sxm" / ID).exists()


@pytest.mark.parametrize("failing", BACK)
def test_a_failure_undoes_all_before_it_in_reverse_order(monkeypatch, root, failing):
    run = Run(monkeypatch, fails={failing: MirrorBroken("k", "cut")})
    begun = BACK[: BACK.index(failing) + 1]
    assert run.log == begun + ["undo " + name for name in reversed(begun)]
    assert (run.state, run.entry["error"], run.entry["phase"]) == (
        "failed",
        ["SXM_MIRROR_BROKEN", "k", "cut"],
        failing,
    )
    assert (
        run.task.ended == ("failure", ["SXM_MIRROR_BROKEN", "k", "cut"])
        and not run.entry["committed"]
    )
    assert not (root / "run/sxm" / ID).exists(), "sockets and secrets go"


@pytest.mark.parametrize("failing", ["hand-over", "adopt"])
def test_the_same_for_a_halted_vm(monkeypatch, failing):
    run = Run(monkeypatch, make_plan(live=False), fails={failing: MirrorBroken("k", "cut")})
    assert run.log[-4:] == ["undo hand-over", "undo sync", "undo receive", "undo claim"]


@pytest.mark.parametrize("failing", BACK)
def test_an_undo_that_fails_is_told_and_the_others_follow(monkeypatch, root, failing):
    run = Run(
        monkeypatch,
        fails={
            "move": MirrorBroken("k", "cut"),
            "undo " + failing: XenAPI.Failure(["NO", "reason"]),
        },
    )
    assert run.log == BACK + ["undo " + name for name in reversed(BACK)]
    assert run.entry["left"] == ["undo %s: NO reason" % failing]
    assert run.entry["error"] == ["SXM_MIRROR_BROKEN", "k", "cut"]


def test_nothing_is_touched_when_it_is_not_known_where_the_vm_is(monkeypatch, root):
    run = Run(monkeypatch, fails={"move": Undecided("where")})
    assert (
        run.log == BACK
        and run.state == "failed"
        and run.entry["error"][0] == "SXM_UNDECIDED"
        and run.entry["left"]
    )
    assert (root / "run/sxm" / ID).exists(), "whoever decides it needs them"


def test_an_undo_that_is_not_sure_stops_the_others(monkeypatch):
    run = Run(
        monkeypatch, fails={"move": MirrorBroken("k", "cut"), "undo move": Undecided("where")}
    )
    assert run.log == BACK + ["undo move"]
    assert run.entry["error"][0] == "SXM_UNDECIDED"


@pytest.mark.parametrize("failing", ["complete", "clean-up", "end"])
def test_behind_the_point_of_no_return_it_goes_forward_only(monkeypatch, failing):
    run = Run(monkeypatch, fails={failing: XenAPI.Failure(["BUSY"])})
    assert not [name for name in run.log if name.startswith("undo")]
    assert run.log.count(failing) == 2 and run.state == "succeeded", "the second try went well"


@pytest.mark.parametrize("failing", ["complete", "clean-up", "end"])
def test_what_never_goes_is_told(monkeypatch, failing):
    run = Run(monkeypatch, fails={failing: XenAPI.Failure(["BUSY"])}, always=True)
    assert not [name for name in run.log if name.startswith("undo")]
    assert run.log.count(failing) == phase_run.FORWARD_TRIES
    # Nothing of the source is taken away before the destination has taken the VM; whatever else is
    # left hinders nothing.
    assert run.log[-1] == ("complete" if failing == "complete" else "end")
    assert run.entry["error"] == ["SXM_NOT_CLEANED_UP", "%s: BUSY" % failing] and run.entry[
        "left"
    ] == ["%s: BUSY" % failing]


def test_a_halted_vm_that_is_not_known_there_stays_blocked(monkeypatch):
    """What of its disks xapi does not know yet, a resume would not find."""
    fails = {"known": XenAPI.Failure(["BUSY"])}
    run = Run(monkeypatch, make_plan(live=False), fails, always=True)
    assert run.log[-1] == "known" and run.entry["left"] == ["known: BUSY"]
    run.fails, run.log[:] = {}, []
    run.recover()
    assert (run.log, run.entry["left"]) == (["known", "clean-up", "end"], [])


def test_what_has_failed_is_not_forgotten_by_who_is_killed_behind_it(monkeypatch):
    """The VM's record at the source, or an old disk, would stay, and all be told to have gone
    well."""
    fails = {
        "clean-up": XenAPI.Failure(["BUSY"]),
        "end": JournalNotWritten("/x", "as good as killed"),
    }
    run = Run(monkeypatch, fails=fails, always=True)
    assert run.stopped and run.entry["state"] == "running" and run.log[-1] == "end"
    run.fails, run.log[:] = {}, []
    run.recover()
    assert (run.log, run.state, run.entry["left"]) == (["clean-up", "end"], None, [])
    assert run.entry["state"] == "succeeded"


@pytest.mark.parametrize("while_in", BACK)
def test_a_cancel(monkeypatch, while_in):
    monkeypatch.setattr(
        migration.Migration, "cancel_asked", lambda self: self.entry["phase"] == while_in
    )
    run = Run(monkeypatch)
    assert run.state in ("cancelled", "succeeded") and (run.state == "succeeded") == (
        while_in == "move"
    )
    if run.state == "cancelled":
        begun = BACK[: BACK.index(while_in) + 1]
        assert run.log == begun + ["undo " + name for name in reversed(begun)]
        assert run.task.ended == ("cancelled", [])


def test_a_cancel_is_told_as_such_and_not_as_a_fault(monkeypatch, caplog):
    caplog.set_level("INFO")
    run = Run(monkeypatch, fails={"sync": Cancelled(ID)})
    assert run.state == "cancelled" and "Traceback" not in caplog.text
    assert "%s: sync is cancelled, as was asked for" % ID in caplog.text


def test_no_secret_in_journal_error_or_log(monkeypatch, root, caplog):
    run = Run(
        monkeypatch,
        fails={
            "sync": ValueError("login with %s refused" % PASSWORD),
            "undo claim": OSError(PASSWORD),
        },
    )
    assert run.entry["error"] == ["SXM_INTERNAL", "ValueError", "login with *** refused"]
    assert PASSWORD not in json.dumps(run.entry) + json.dumps(run.task.ended) + caplog.text
    for directory, _, names in os.walk(str(root / "var")):
        for name in names:
            with open(os.path.join(directory, name)) as source:
                assert PASSWORD not in source.read()


SUCCESSFUL = len(LIVE_CROSS) + 1  # writes: one before each phase, and the end's


@pytest.mark.parametrize("left", range(SUCCESSFUL))
def test_a_journal_that_cannot_be_written_stops_it_where_it_is(monkeypatch, root, left):
    """Nothing is done that is not noted (the recorder looks), nothing is undone, and recovery goes
    on when there is room again."""
    disk = FullDisk(monkeypatch)
    run = Run(monkeypatch, disk=disk, left=left)
    assert (
        run.log == LIVE_CROSS[:left]
        and run.state is None
        and run.stopped.code == "SXM_JOURNAL_NOT_WRITTEN"
    )
    assert run.entry["state"] == "running" and run.entry["phase"] == ([None] + LIVE_CROSS)[left]
    assert run.task.ended == ("failure", run.stopped.failure())
    assert (
        status.brief(run.entry)["error"] == run.stopped.failure()
        and (root / "run/sxm" / ID / "remote.json").exists()
    )
    with pytest.raises(JournalNotWritten):
        run.recover()
    assert run.log == LIVE_CROSS[:left], "a recovery cannot note anything either"
    disk.left, run.log = None, []
    run.recover()
    committed = left > LIVE_CROSS.index("complete")
    begun = LIVE_CROSS[: min(left, len(BACK))]
    assert run.log == (
        LIVE_CROSS[left - 1 :] if committed else ["undo " + name for name in reversed(begun)]
    )
    assert (
        run.entry["state"] == ("succeeded" if committed else "failed") and run.entry["left"] == []
    )
    assert (
        status.brief(run.entry)["error"] == run.entry["error"]
        and not (root / "run/sxm" / ID).exists()
    )


@pytest.mark.parametrize("left", range(len(BACK) * 3 + 3))
def test_the_same_on_the_way_back(monkeypatch, root, left):
    disk = FullDisk(monkeypatch)
    run = Run(monkeypatch, fails={"move": MirrorBroken("k", "cut")}, disk=disk, left=left)
    undos = ["undo " + name for name in reversed(BACK)]
    assert run.log == (BACK + undos)[: len(run.log)], "nothing is left out, and nothing done twice"
    if run.stopped is None:
        assert disk.written == len(BACK) * 3 + 2 == left and run.state == "failed"
        return
    assert (
        run.entry["state"] == "running"
        and status.brief(run.entry)["error"][0] == "SXM_JOURNAL_NOT_WRITTEN"
    )
    disk.left = None
    run.recover()
    assert (
        run.entry["begun"] == []
        and run.entry["left"] == []
        and not (root / "run/sxm" / ID).exists()
    )


@pytest.mark.parametrize("what", ["phases.do", "undo", "forward only"])
def test_it_passes_whatever_else_takes_errors(monkeypatch, what):
    """What `tolerated`, `_insist` and `resume` keep from ending the migration is not this."""
    full = JournalNotWritten("/x", "No space left on device")
    fails = {
        "phases.do": {"sync": full},
        "undo": {"move": MirrorBroken("k", "cut"), "undo sync": full},
        "forward only": {"clean-up": full},
    }[what]
    run = Run(monkeypatch, fails=fails, always=True)
    assert (
        run.stopped is full and run.log[-1] == list(fails)[-1] and run.entry["state"] == "running"
    )
