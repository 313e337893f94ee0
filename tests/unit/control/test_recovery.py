"""What recovery decides by a journal alone; the ways themselves are walked in tests/e2e/test_recover.py."""
import os
import time

import pytest

from storage_motion.control import journal, kept, migration, recovery, secrets
from storage_motion.control.journal import Journal
from storage_motion.dom0.launch import Process
from storage_motion.dom0.root import path as root_path
from storage_motion.errors import NoSuchMigration, Unreachable
from test_migration import ID, FakeTask, make_plan

DEAD = {"pid": 1, "started": -1}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


def entry(live=True, **fields):
    begun = dict(migration.initial(make_plan(live=live)), state=journal.RUNNING, started=time.time(), worker=DEAD)
    return dict(begun, **fields)


@pytest.mark.parametrize("fields, first", [
    ({"phase": "claim", "begun": ["claim"]}, None),
    ({"phase": "sync", "begun": ["claim", "receive", "sync"]}, None),
    ({"phase": "move", "begun": ["move"]}, None),
    ({"phase": "move", "begun": ["move"], "xenops_task": "starting"}, "move"),
    ({"phase": "move", "begun": ["move"], "xenops_task": "7"}, "move"),
    ({"phase": "undo move", "begun": ["move"], "xenops_task": "7"}, "move"),
    ({"phase": "undo sync", "begun": ["sync"], "xenops_task": None}, None),
    ({"phase": "complete", "committed": True}, "complete"),
    ({"phase": "clean-up", "committed": True}, "clean-up"),
    ({"phase": "end", "committed": True}, "end"),
    ({"phase": "end", "committed": True, "state": journal.FAILED, "left": ["clean-up: SR_FULL"]}, "clean-up"),
    ({"phase": "end", "committed": True, "state": journal.FAILED, "left": ["the worker gave up"]}, "complete"),
    ({"phase": "hand-over", "begun": ["hand-over"], "live": False}, None),
    ({"phase": "adopt", "begun": ["hand-over", "adopt"], "live": False}, None),
])
def test_decide(fields, first):
    decision = recovery.decide(entry(**fields))
    assert decision.first == first and decision.why


@pytest.mark.parametrize("fields, interrupted", [
    ({}, True),
    ({"worker": None}, False),                               # it has just been started
    ({"worker": None, "started": 0.0}, True),
    ({"worker": "this process"}, False),
    ({"state": journal.SUCCEEDED}, False),
    ({"state": journal.FAILED}, False),
    ({"state": journal.FAILED, "left": ["undecided"]}, True),
    ({"state": journal.CANCELLED, "left": ["undo receive: LOST"]}, True),
])
def test_interrupted(fields, interrupted):
    if fields.get("worker") == "this process":
        fields = {"worker": Process.of(os.getpid()).to_json()}
    assert recovery.interrupted(entry(**fields)) is interrupted


def test_only_one_takes_it_over():
    Journal.create(ID, **entry())
    taken, before = recovery._take_over(ID)
    assert before is None and taken.entry["worker"]["pid"] == os.getpid()
    assert recovery._take_over(ID)[1]["outcome"] == recovery.RUNNING


@pytest.mark.parametrize("worker, left", [(DEAD, False), ("this process", True)])
def test_what_a_worker_has_left_that_was_killed_behind_its_last_note(worker, left):
    known = Process.of(os.getpid()).to_json() if worker == "this process" else worker
    Journal.create(ID, **entry(state=journal.SUCCEEDED, worker=known))
    secrets.keep(ID, "remote", {"username": "root", "password": "xenroot"})
    kept.keep(ID, "{}")
    assert recovery._take_over(ID)[1]["outcome"] == recovery.ENDED
    assert (os.path.exists(kept._path(ID)), os.path.exists(root_path("/run/sxm/" + ID))) == (left, left)


@pytest.mark.parametrize("begun, certain", [([], True), (["sync"], True), (["sync", "remap"], True), (["move"], False),
                                            (["hand-over"], False), (["adopt"], False)])
def test_without_the_other_pool(begun, certain):
    assert recovery._stays_at_the_source(entry(begun=begun), recovery.Decision(None, "")) is certain
    assert not recovery._stays_at_the_source(entry(begun=begun), recovery.Decision("move", ""))


def test_a_torn_journal_hinders_no_other(root):
    (root / "var/log").mkdir(parents=True)
    directory = root / "var/lib/sxm"
    directory.mkdir(parents=True)
    (directory / (ID + ".json")).write_text("{")
    answer, = recovery.recover(None, {})["migrations"]
    assert answer["outcome"] == recovery.WAITING and "cannot be trusted" in answer["why"]


def test_an_unknown_one(root):
    (root / "var/log").mkdir(parents=True)
    with pytest.raises(NoSuchMigration):
        recovery.recover(None, {"migration": ID})


def test_what_keeps_the_vm_from_being_started_is_put_back_before_anything_is_waited_for(monkeypatch):
    """xapi may have lost it: bars, seals, blocks, the claim."""
    Journal.create(ID, **entry(phase="move", begun=["claim", "move"], xenops_task="7"))
    order = []
    monkeypatch.setattr(recovery.smapi, "await_commands", lambda *_: None)
    monkeypatch.setattr(recovery.sessions, "local", lambda timeout: None)
    monkeypatch.setattr(recovery.sessions, "logout", lambda session: None)
    monkeypatch.setattr(recovery, "_task", lambda *_: FakeTask())
    monkeypatch.setattr(recovery.claim, "put_back", lambda m: order.append("claim"))
    monkeypatch.setattr(recovery.move, "seal_again", lambda m: order.append("seals"))
    monkeypatch.setattr(recovery, "_destination", lambda *_: order.append("destination") or (recovery.Unreached(None), (), "it is away"))
    with pytest.raises(recovery.Waits):
        recovery._recover_source(None, ID, {})
    assert order == ["claim", "seals", "destination"]


class ByItself:
    """What `until_ended` meets, one after the other: an error, or the outcome of each recovery. Its pauses take no time."""

    def __init__(self, monkeypatch, *meets):
        self.meets, self.pauses = list(meets), []
        monkeypatch.setattr(recovery.time, "sleep", self.pauses.append)
        monkeypatch.setattr(recovery.sessions, "local", self._session)
        monkeypatch.setattr(recovery.sessions, "logout", lambda session: None)
        monkeypatch.setattr(recovery, "recover", self._recover)

    def _session(self):
        if isinstance(self.meets[0], Exception):
            raise self.meets.pop(0)

    def _recover(self, _, given):
        outcome = self.meets.pop(0) if len(self.meets) > 1 else self.meets[0]
        return {"migrations": [{"migration": given.get("migration", ID), "side": "source", "outcome": outcome, "why": "since %d s" % len(self.pauses)}]}


@pytest.mark.parametrize("migration", [None, ID])
def test_by_itself_it_waits_for_xapi_and_for_what_recovery_waits_for(monkeypatch, capsys, migration):
    Journal.create(ID, **entry())
    found = ByItself(monkeypatch, Unreachable("xapi", "away"), Unreachable("xapi", "away"), recovery.WAITING, recovery.WAITING, recovery.TAKEN_BACK)
    assert recovery.until_ended(migration) == 0
    assert found.pauses == [4, 8, 16, 32] and found.meets == [recovery.TAKEN_BACK]
    assert len(capsys.readouterr().out.splitlines()) == 2, "each of the two is told once"


def test_by_itself_it_does_not_go_on_for_ever(monkeypatch, capsys):
    Journal.create(ID, **entry())
    found = ByItself(monkeypatch, recovery.UNDECIDED)
    assert recovery.until_ended(ID) == 1
    assert 3 * 3600 < sum(found.pauses) < 5 * 3600 and max(found.pauses) == 60 and len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("migration,looks", [(None, 0), (ID, 1)])
def test_a_worker_sees_to_it_that_whoever_recovers_its_migration_comes_to_an_end(monkeypatch, migration, looks):
    Journal.create(ID, **entry(worker=Process.of(os.getpid()).to_json()))
    found = ByItself(monkeypatch, recovery.RUNNING, recovery.TAKEN_BACK)
    assert recovery.until_ended(migration) == 0
    assert len(found.pauses) == looks


@pytest.mark.parametrize("fields", [{"state": journal.SUCCEEDED}, None])
def test_one_that_has_ended_needs_no_xapi(monkeypatch, fields):
    if fields:
        Journal.create(ID, **entry(**fields))
    monkeypatch.setattr(recovery.sessions, "local", lambda: pytest.fail("xapi is asked"))
    assert recovery.until_ended(ID) == 0
