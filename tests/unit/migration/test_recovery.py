# SPDX-License-Identifier: LGPL-2.1-only
"""Recovery of all that was interrupted on a host, and how it goes on by itself."""

import logging
import os
import runpy
import time

import pytest

from fake_migration import ID
from fake_pool import FakePool
from full_disk import FullDisk
from interrupted_world import ANOTHER, Interrupted, entry
from storage_motion.errors import JournalError, NoSuchMigration, Unreachable
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import recovery, recovery_decision


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


def test_a_torn_journal_hinders_no_other(root):
    (root / "var/log").mkdir(parents=True)
    directory = root / "var/lib/sxm"
    directory.mkdir(parents=True)
    (directory / (ID + ".json")).write_text("{")
    (answer,) = recovery.recover(None, {})["migrations"]
    assert answer["outcome"] == recovery_decision.WAITING and "cannot be trusted" in answer["why"]


def test_an_unknown_one(root):
    (root / "var/log").mkdir(parents=True)
    with pytest.raises(NoSuchMigration):
        recovery.recover(None, {"migration": ID})


class ByItself:
    """What `until_ended` meets, one after the other: an error, or the outcome of each recovery. Its
    pauses take no time."""

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
        return {
            "migrations": [
                {
                    "migration": given.get("migration", ID),
                    "side": "source",
                    "outcome": outcome,
                    "why": "since %d s" % len(self.pauses),
                }
            ]
        }


@pytest.mark.parametrize("migration", [None, ID])
def test_by_itself_it_waits_for_xapi_and_for_what_recovery_waits_for(
    monkeypatch, capsys, migration
):
    Journal.create(ID, **entry())
    found = ByItself(
        monkeypatch,
        Unreachable("xapi", "away"),
        Unreachable("xapi", "away"),
        recovery_decision.WAITING,
        recovery_decision.WAITING,
        recovery_decision.TAKEN_BACK,
    )
    assert recovery.until_ended(migration) == 0
    assert found.pauses == [4, 8, 16, 32] and found.meets == [recovery_decision.TAKEN_BACK]
    assert len(capsys.readouterr().out.splitlines()) == 2, "each of the two is told once"


def test_by_itself_it_does_not_go_on_for_ever(monkeypatch, capsys):
    Journal.create(ID, **entry())
    found = ByItself(monkeypatch, recovery_decision.UNDECIDED)
    assert recovery.until_ended(ID) == 1
    assert (
        3 * 3600 < sum(found.pauses) < 5 * 3600
        and max(found.pauses) == 60
        and len(capsys.readouterr().out.splitlines()) == 1
    )


@pytest.mark.parametrize("migration,looks", [(None, 0), (ID, 1)])
def test_a_worker_sees_to_it_that_whoever_recovers_its_migration_comes_to_an_end(
    monkeypatch, migration, looks
):
    Journal.create(ID, **entry(worker=ANOTHER))
    found = ByItself(monkeypatch, recovery_decision.RUNNING, recovery_decision.TAKEN_BACK)
    assert recovery.until_ended(migration) == 0
    assert len(found.pauses) == looks


@pytest.fixture
def waiting(monkeypatch):
    """One that was interrupted, whose other pool is away until the third pause."""
    scene = Interrupted(monkeypatch)
    scene.away = Unreachable("https://x", "No route to host")

    def sleep(seconds):
        scene.pauses.append(seconds)
        if len(scene.pauses) == 3:
            scene.away = None

    monkeypatch.setattr(recovery.time, "sleep", sleep)
    return scene


@pytest.mark.parametrize("phase, task", [("sync", None), ("move", "7")])
@pytest.mark.parametrize("migration", [None, ID])
def test_by_itself_it_is_the_one_who_goes_on_when_the_other_pool_is_back(
    waiting, migration, phase, task
):
    waiting.begin(phase, task=task)
    assert recovery.until_ended(migration) == 0
    assert waiting.pauses == [4, 8, 16] and waiting.may_run == ["source"]
    assert (waiting.entry["state"], waiting.entry["left"]) == (journal.FAILED, [])
    assert not waiting.has(waiting.destination, "VDI", "d")


@pytest.mark.parametrize("phase, task", [("sync", None), ("move", "7")])
def test_meanwhile_an_administrator_may_recover_it(waiting, monkeypatch, phase, task):
    """With a password, or the word that the destination is lost."""
    waiting.begin(phase, task=task)
    assert waiting.recover()["outcome"] == recovery_decision.WAITING
    waiting.away = None
    monkeypatch.setattr(os, "getpid", os.getppid)
    assert waiting.recover()["outcome"] == recovery_decision.TAKEN_BACK and waiting.may_run == [
        "source"
    ]


def test_by_itself_it_goes_on_when_the_journal_can_be_written_again(waiting, monkeypatch):
    """Nor could it be noted then that somebody else may go on."""
    waiting.begin("receive")
    waiting.away, disk = None, FullDisk(monkeypatch)
    disk.left = 3

    def sleep(seconds):
        waiting.pauses.append(seconds)
        assert waiting.has(waiting.destination, "VDI", "d") and waiting.entry["left"] == []
        disk.left = None

    monkeypatch.setattr(recovery.time, "sleep", sleep)
    assert recovery.until_ended(ID) == 0
    assert waiting.pauses == [4] and waiting.may_run == ["source"]
    assert (waiting.entry["state"], waiting.entry["left"]) == (journal.FAILED, [])


def test_where_it_can_write_no_log_it_waits_as_well(monkeypatch, capsys):
    Journal.create(ID, **entry())
    found = ByItself(
        monkeypatch,
        OSError(28, "No space left on device"),
        recovery_decision.WAITING,
        recovery_decision.TAKEN_BACK,
    )
    assert recovery.until_ended() == 0 and found.pauses == [4, 8]
    assert "No space left" in capsys.readouterr().out.splitlines()[0]


def test_by_itself_it_says_of_a_torn_journal_that_it_waits(root, monkeypatch, capsys):
    path = root / "var/lib/sxm" / (ID + ".json")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    monkeypatch.setattr(recovery, "AGAIN", 2)
    monkeypatch.setattr(recovery.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(recovery.sessions, "local", lambda: None)
    monkeypatch.setattr(recovery.sessions, "logout", lambda session: None)
    assert recovery.until_ended(ID) == 1
    assert capsys.readouterr().out == ID + " (source): waiting\n" and path.read_text() == "{"


@pytest.mark.parametrize(
    "outcome, status", [(recovery_decision.TAKEN_BACK, 0), (recovery_decision.WAITING, 1)]
)
def test_the_boots_recovery_ends_with_whether_nothing_waits_any_more(monkeypatch, outcome, status):
    """It is run as sxm-recover.service runs it. Here with a bound of one look."""
    monkeypatch.setattr(recovery.sessions, "local", lambda: FakePool("A"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    if outcome == recovery_decision.WAITING:
        monkeypatch.setattr(journal, "all_ids", lambda side="": [] if side else [ID])
        monkeypatch.setattr(
            Journal, "load", lambda *_: (_ for _ in ()).throw(JournalError("x", "torn"))
        )
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(recovery.__file__, run_name="__main__")
    assert ended.value.code == status


def test_what_it_did_is_in_the_log_once_and_no_password(monkeypatch, root):
    """Of a plugin's process nobody else has set that up."""
    waiting = Interrupted(monkeypatch)
    waiting.begin("sync")
    waiting.away = Unreachable("https://x", "No route to host")
    monkeypatch.setattr(recovery.log, "propagate", False)
    monkeypatch.setattr(recovery.log, "handlers", [])
    monkeypatch.setattr(recovery.log, "level", logging.NOTSET)
    given = {"remote-username": "admin", "remote-password": "hush"}
    for _ in range(2):
        waiting.recover(**given)
    (handler,) = recovery.log.handlers
    handler.close()
    path = root / "var/log/sxm.log"
    text = path.read_text()
    assert text.count("] INFO recovery of %s (source): waiting: " % ID) == 2
    assert "hush" not in text and path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("fields", [{"state": journal.SUCCEEDED}, None])
def test_one_that_has_ended_needs_no_xapi(monkeypatch, fields):
    if fields:
        Journal.create(ID, **entry(**fields))
    monkeypatch.setattr(recovery.sessions, "local", lambda: pytest.fail("xapi is asked"))
    assert recovery.until_ended(ID) == 0
