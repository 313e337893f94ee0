# SPDX-License-Identifier: LGPL-2.1-only
"""A worker that starts late, and one that cannot note anything: of it and of a recovery only one
drives a migration."""

import os
import threading

import pytest

from fake_migration import ID, FakeTask, make_plan
from full_disk import FullDisk
from storage_motion.dom0.launch import Process
from storage_motion.errors import JournalNotWritten
from storage_motion.journal import journal, secret_files
from storage_motion.journal.journal import Journal
from storage_motion.migration import (
    migration,
    progress,
    recovery,
    recovery_decision,
    recovery_source,
    worker,
)

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def driven(tmp_path, monkeypatch):
    """What a worker did with its migration."""
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    done = []
    monkeypatch.setattr(
        worker, "_migrate", lambda entry: done.append(entry.entry["migration"]) or journal.SUCCEEDED
    )
    return done


@pytest.fixture(autouse=True)
def recovered(monkeypatch):
    """The migrations that a worker has recovered."""
    done = []
    monkeypatch.setattr(
        worker.recovery, "until_ended", lambda migration: done.append(migration) or 0
    )
    return done


def begin(**fields):
    return Journal.create(ID, **dict(migration.initial(make_plan()), **fields))


def test_it_drives_its_migration(driven):
    begin()
    assert worker.main(ID) == 0
    assert driven == [ID] and Journal.load(ID).entry["worker"]["pid"] == os.getpid()


@pytest.mark.parametrize(
    "fields",
    [
        {"state": journal.FAILED, "error": ["SXM_WORKER_DIED", ID, "None"]},
        {"state": journal.CANCELLED},
        {"state": journal.RUNNING, "worker": {"pid": 1, "started": 1}},
    ],
)
def test_what_another_process_has_had_is_recovered(driven, recovered, fields):
    """By a worker that is started because the one before it has died, or that is late."""
    entry = begin(**fields)
    before = open(entry.path).read()
    assert worker.main(ID) == 0
    assert (driven, recovered) == ([], [ID]) and open(entry.path).read() == before


def test_a_journal_that_is_gone(driven):
    assert worker.main(ID) == 0
    assert driven == [] and journal.all_ids() == []


def test_one_that_is_killed_before_it_has_said_who_it_is_is_followed_by_one_that_drives(
    driven, recovered
):
    begin(worker=None)
    assert worker.main(ID) == 0
    assert (driven, recovered) == ([ID], [])


def test_a_recovery_that_is_faster(driven, monkeypatch):
    """The worker has begun, and waits for the lock that the recovery holds while it takes the
    migration over."""
    begin(started=0.0)
    at_lock, ended = threading.Event(), []
    real = journal.one_at_a_time

    def lock():
        at_lock.set()
        return real()

    late = threading.Thread(target=lambda: ended.append(worker.main(ID)))
    with real():
        monkeypatch.setattr(journal, "one_at_a_time", lock)
        late.start()
        assert at_lock.wait(PATIENCE)
        # What recovery_source._take_over does under its lock.
        Journal.load(ID).write(worker=Process.of(os.getpid()).to_json())
    late.join(PATIENCE)
    assert ended == [0] and driven == []


def test_a_worker_that_is_faster(driven, monkeypatch):
    begin(started=0.0)
    answers = []

    def migrate(entry):
        with monkeypatch.context() as another:
            another.setattr(os, "getpid", os.getppid)
            answers.append(recovery_source._take_over(ID)[1]["outcome"])

    monkeypatch.setattr(worker, "_migrate", migrate)
    assert worker.main(ID) == 0 and answers == [recovery_decision.RUNNING]


def test_one_that_cannot_note_that_it_is_there(driven, monkeypatch):
    disk = FullDisk(monkeypatch)
    begin()
    disk.left = 0
    assert worker.main(ID) == 1
    assert (
        driven == []
        and Journal.load(ID).entry["worker"] is None
        and progress.stopped(ID)[0] == "SXM_JOURNAL_NOT_WRITTEN"
    )


def test_one_that_cannot_note_its_task(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    disk, task = FullDisk(monkeypatch), FakeTask()
    task.uuid = "t"
    source = type(
        "Source",
        (),
        {
            "xenapi": property(lambda self: self),
            "VM": property(lambda self: self),
            "get_by_uuid": lambda self, uuid: uuid,
            "handle": "OpaqueRef:session",
        },
    )()
    monkeypatch.setattr(worker.session, "local", lambda timeout: source)
    monkeypatch.setattr(worker.session, "logout", lambda session: None)
    monkeypatch.setattr(worker.migration, "task_of", lambda *_: task)
    begin()
    disk.left = 1
    assert worker.main(ID) == 1
    assert (
        task.ended[0] == "failure"
        and task.ended[1][0] == "SXM_JOURNAL_NOT_WRITTEN" == progress.stopped(ID)[0]
    )


def kept(root):
    """What is left in /run/sxm/<id>."""
    path = root / "run/sxm" / ID
    return sorted(os.listdir(str(path))) if path.exists() else []


def end(entry, **fields):
    """As a migration ends that has something left, with a socket of a process that may be there."""
    entry.write(**fields)
    open(os.path.join(journal.run_directory(ID), "m0.ctl"), "w").close()


@pytest.mark.parametrize("state", [journal.FAILED, journal.CANCELLED, journal.SUCCEEDED])
def test_at_an_end_with_something_left_no_secret_stays(tmp_path, monkeypatch, state):
    """The password of the other pool, and the movers' tokens: who recovers it gives it anew."""
    for name in ("remote", "receiver", "m0", "receive1"):
        secret_files.keep(ID, name, {"password": "hush"})
    monkeypatch.setattr(worker, "_migrate", lambda entry: end(entry, state=state, left=["undo x"]))
    begin()
    assert worker.main(ID) == 0 and kept(tmp_path) == ["m0.ctl"]


def test_a_worker_that_gives_up_leaves_no_secret(tmp_path, monkeypatch):
    secret_files.keep(ID, "remote", {"password": "hush"})

    def fails(entry):
        raise RuntimeError("x")

    monkeypatch.setattr(worker, "_migrate", fails)
    begin()
    assert worker.main(ID) == 1 and kept(tmp_path) == []
    assert Journal.load(ID).entry["left"] == ["the worker gave up"]


@pytest.mark.parametrize("status", [0, 1])
def test_one_that_follows_a_worker_leaves_no_secret_when_it_is_done_or_has_tried_for_hours(
    tmp_path, monkeypatch, status
):
    secret_files.keep(ID, "remote", {"password": "hush"})
    monkeypatch.setattr(worker.recovery, "until_ended", lambda migration: status)
    begin(state=journal.FAILED, left=["undo x"])
    assert worker.main(ID) == status and kept(tmp_path) == []


def test_a_migration_that_only_waits_for_room_for_its_journal_keeps_them(tmp_path, monkeypatch):
    """It is at no end: a recovery goes on with it."""
    secret_files.keep(ID, "remote", {"password": "hush"})

    def fails(entry):
        raise JournalNotWritten("/x", "full")

    monkeypatch.setattr(worker, "_migrate", fails)
    begin()
    assert worker.main(ID) == 1 and "remote.json" in kept(tmp_path)


def test_the_password_that_a_recovery_is_given_is_not_kept(tmp_path, monkeypatch):
    begin()
    given = {"remote-username": "root", "remote-password": "hush"}
    asked = []

    def login(url, username, password, timeout=None):
        asked.append((url, username, password))
        return "session"

    monkeypatch.setattr(recovery.sessions, "remote", login)
    monkeypatch.setattr(recovery.sessions, "logout", lambda session: None)
    found = recovery_source._destination(Journal.load(ID), make_plan(), None, given)
    assert found == ("session", ("hush",), None) and kept(tmp_path) == []
    assert asked == [("https://x", "root", "hush")] * 2
