# SPDX-License-Identifier: LGPL-2.1-only
"""The course of a migration: bounded, never synced; whatever is wrong with it hinders nobody."""

import os

import pytest

from fake_migration import ID, make_plan
from storage_motion.journal import course, journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration


@pytest.fixture(autouse=True)
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    Journal.create(ID, **migration.initial(make_plan()))


class Clock:
    """Both of time's."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(course.time, "time", lambda: self.now)
        monkeypatch.setattr(course.time, "monotonic", lambda: self.now)


def counts(verified, recent_stall=0.0):
    return {
        "sent": verified,
        "mirrored_bytes": 10 * verified,
        "mirrored_writes": verified,
        "waited": verified / 1000.0,
        "recent_stall": recent_stall,
    }


def test_what_is_noted_is_read_when_it_was_flushed(monkeypatch):
    clock = Clock(monkeypatch)
    one = course.Course(ID, 2)
    one.note("phase", "claim")
    assert course.read(ID) == ([], {}), "the guest may be suspended: nothing is written by itself"
    clock.now = 1002.5
    one.note("gate", "open", 1)
    one.sample(0, counts(7, 0.25))
    one.flush()
    found = course.read(ID)
    assert found.events == [["phase", 1000.0, None, "claim"], ["gate", 1002.5, 1, "open"]]
    assert found.samples == {0: [[1002.5, 7, 70, 7, 0.007, 0.25]]}
    assert os.stat(course.path(ID)).st_mode & 0o777 == 0o600


def test_a_sample_is_taken_now_and_then_and_the_longest_wait_between_is_kept(monkeypatch):
    clock = Clock(monkeypatch)
    one = course.Course(ID, 1)
    for at, stall in enumerate((0.1, 0.9, 0.2, 0.3, 0.05, 0.0)):
        clock.now = 1000 + at * course.INTERVAL / 4
        one.sample(0, counts(at, stall))
    one.flush()
    assert [(row[1], row[-1]) for row in course.read(ID).samples[0]] == [(0, 0.1), (4, 0.9)]


def test_what_was_counted_until_its_state_changed_is_not_left_out(monkeypatch):
    clock = Clock(monkeypatch)
    one = course.Course(ID, 1)
    one.sample(0, counts(1))
    clock.now += course.INTERVAL / 4
    one.sample(0, counts(5))
    one.note("state", "in-sync", 0)
    one.note("state", "moved", 0)
    one.flush()
    assert [row[1] for row in course.read(ID).samples[0]] == [1, 5]


def test_there_are_never_more_than_so_many_and_they_reach_from_the_begin_to_the_end(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(course, "PER_DISK", 40)
    one = course.Course(ID, 1)
    for at in range(4000):
        clock.now += course.INTERVAL
        one.sample(0, counts(at, 0.5 if at == 1234 else 0.001))
        one.flush()
    rows = course.read(ID).samples[0]
    assert 20 <= len(rows) <= 41
    assert rows[0][1] < 200 and rows[-1][1] > 3700
    assert max(row[-1] for row in rows) == 0.5, "the longest wait outlives its sample"
    gaps = [after[0] - before[0] for before, after in zip(rows[2:], rows[3:])]
    assert max(gaps) <= 2.5 * min(gaps)


def test_a_held_one_writes_nothing_and_grows_ever_slower(monkeypatch):
    clock = Clock(monkeypatch)
    one = course.Course(ID, 1)
    one.hold(True)
    for at in range(4 * 24 * 3600):
        clock.now += course.INTERVAL
        one.sample(0, counts(at))
    one.note("phase", "complete")
    one.flush()
    assert not os.path.exists(course.path(ID)) and len(one._unwritten) < 2 * course.PER_DISK
    one.hold(False)
    one.flush()
    assert course.read(ID).events[-1][3] == "complete" and course.read(ID).samples[0]


def test_many_disks_share_the_room():
    assert course.Course(ID, 3)._most == course.PER_DISK
    assert course.Course(ID, 100)._most == course.ALL_DISKS // 100
    assert course.Course(ID, 100000)._most == course.LEAST


def test_of_many_events_the_first_and_the_latest_stay(monkeypatch):
    monkeypatch.setattr(course, "EVENTS", 40)
    one = course.Course(ID, 1)
    for at in range(200):
        one.note("tries", at)
        one.flush()
    found = [event[3] for event in course.read(ID).events]
    assert len(found) <= 41 and found[:5] == [0, 1, 2, 3, 4] and found[-1] == 199


def test_the_worker_that_follows_goes_on_with_it_behind_half_a_line():
    first = course.Course(ID, 1)
    first.note("phase", "claim")
    first.flush()
    with open(course.path(ID), "a") as out:
        out.write('["phase", 12')
    second = course.Course(ID, 1)
    second.note("phase", "sync")
    second.flush()
    assert [event[3] for event in course.read(ID).events] == ["claim", "sync"]


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        "null",
        '["phase"]',
        '["phase", "x", null, "sync"]',
        '["phase", true, null, "sync"]',
        '["phase", NaN, null, "sync"]',
        '["other", 1, null, "sync"]',
        '["sample", 1, 0, 2]',
        '["sample", 1, null, 1, 2, 3, 4, 5]',
        '["sample", 1, 0, 1, 2, 3, 4, Infinity]',
        '["sample", 1, 0, 1, 2, 3, 4, "5"]',
        "[" * 100000,
        b"\xff\xfe".decode("latin-1"),
    ],
)
def test_what_is_no_line_of_it_is_passed_over(line):
    with open(course.path(ID), "w", encoding="latin-1") as out:
        out.write(line + '\n["phase", 1, null, "claim"]\n')
    assert course.read(ID) == ([["phase", 1, None, "claim"]], {})


def test_a_disk_that_takes_nothing_is_told_of_once_and_hinders_nobody(monkeypatch, caplog):
    one = course.Course(ID, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(course.os, "open", full)
        for _ in range(3):
            one.note("phase", "claim")
            one.flush()
    assert caplog.text.count("No space left") == 1
    one.note("phase", "sync")
    one.flush()
    assert [event[3] for event in course.read(ID).events] == ["sync"]


def test_it_is_never_synced(monkeypatch):
    def never(*_):
        raise AssertionError("synced")

    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(course.os, name, never)
    monkeypatch.setattr(course, "PER_DISK", 16)
    one = course.Course(ID, 1)
    for at in range(100):
        one._due.clear()
        one.sample(0, counts(at))
        one.flush()


def test_it_goes_with_its_journal_and_is_none_itself(monkeypatch):
    one = course.Course(ID, 1)
    one.note("phase", "claim")
    one.flush()
    assert journal.all_ids() == [ID]
    monkeypatch.setattr(journal, "KEPT", 0)
    journal.prune(also=course.forget)
    assert os.path.exists(course.path(ID)), "it still runs"
    Journal.load(ID).write(state="succeeded")
    journal.prune(also=course.forget)
    assert os.listdir(os.path.dirname(course.path(ID))) == []


def test_what_cannot_be_read_is_nothing_and_is_told(monkeypatch, caplog):
    os.mkdir(course.path(ID))
    assert course.read(ID) == ([], {}) and "cannot be read" in caplog.text
    course.Course(ID, 1).flush()
