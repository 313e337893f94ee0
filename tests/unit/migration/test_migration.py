# SPDX-License-Identifier: LGPL-2.1-only
"""What the phases ask of a migration: the plugin of a destination whose xapi is away, and signs of
life; what is told of one that has stopped."""

import os
import types

import pytest
import XenAPI

from fake_migration import ID, FakeTask, make_plan
from storage_motion.api import status
from storage_motion.journal import course, journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration, progress
from storage_motion.migration.phases import table


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


def test_a_destination_whose_xapi_is_away_does_not_end_it(root, monkeypatch):
    def gone(*_):
        raise ConnectionRefusedError(111, "refused")

    destination = types.SimpleNamespace(
        xenapi=types.SimpleNamespace(pool=types.SimpleNamespace(get_all=gone))
    )
    one = migration.Migration(
        Journal.create(ID, **migration.initial(make_plan())),
        make_plan(),
        None,
        destination,
        FakeTask(),
    )
    monkeypatch.setattr(migration, "KEEP_ALIVE", -1.0)
    one.pulse()


def test_the_word_that_it_has_stopped_ends_with_the_next_who_drives_it(root):
    progress.tell_stopped(ID, ["SXM_JOURNAL_NOT_WRITTEN", "/x", "full"])
    entry = Journal.create(ID, **migration.initial(make_plan()))
    assert status.brief(entry.entry)["error"] == ["SXM_JOURNAL_NOT_WRITTEN", "/x", "full"]
    migration.Migration(entry, make_plan(), None, None, FakeTask())
    assert status.brief(entry.entry)["error"] is None


def test_one_that_has_ended_tells_its_own_error(root):
    progress.tell_stopped(ID, ["SXM_JOURNAL_NOT_WRITTEN", "/x", "full"])
    entry = Journal.create(ID, **dict(migration.initial(make_plan()), state=journal.SUCCEEDED))
    assert status.brief(entry.entry)["error"] is None


def test_what_it_warns_of_is_told_once_behind_what_the_plan_has_warned_of(root):
    plan = make_plan(warnings=("of the plan",))
    entry = Journal.create(ID, **migration.initial(plan))
    assert status.of(Journal.load(ID).entry)["warnings"] == ["of the plan"]
    one = migration.Migration(entry, plan, None, None, FakeTask())
    for _ in range(2):
        one.warn("of the end", ha_restart_priority="")
    one.warn("once more")
    noted = Journal.load(ID).entry
    assert status.of(noted)["warnings"] == ["of the plan", "of the end", "once more"]
    assert noted["ha_restart_priority"] == ""


@pytest.mark.parametrize(
    "function, code, failures, waits, answers",
    [
        ("receive-end", "HOST_OFFLINE", 3, 5, True),
        ("receive-end", "CANNOT_CONTACT_HOST", 3, 2, False),
        ("receive-stop", "HANDLE_INVALID task", 1, 5, True),
        ("receive-stop", "HANDLE_INVALID VM", 1, 5, False),
        ("receive-end", "SXM_RECEIVER_FAILED", 1, 5, False),
        ("receive-renew", "HANDLE_INVALID task", 1, 5, False),
        ("receive-renew", "HOST_OFFLINE", 1, 5, False),
    ],
)
def test_a_member_whose_xapi_is_restarted_is_waited_for_where_the_call_may_be_repeated(
    monkeypatch, tmp_path, function, code, failures, waits, answers
):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    asked, waited = [], []

    def call_plugin(host, plugin, name, arguments):
        asked.append((host, plugin, name, arguments))
        if len(asked) <= failures:
            raise XenAPI.Failure(code.split() + ["host"])
        return "{}"

    hosts = types.SimpleNamespace(get_by_uuid=lambda uuid: "ref", call_plugin=call_plugin)
    m = migration.Migration(
        Journal.create(ID, **migration.initial(make_plan())),
        make_plan(),
        None,
        types.SimpleNamespace(xenapi=types.SimpleNamespace(host=hosts)),
        FakeTask(),
    )
    m.outage_there = types.SimpleNamespace(
        begins=lambda why: None,
        ends=lambda: waited.append("ended"),
        wait=lambda tries: (waited.append(tries), len(waited) <= waits)[1],
    )
    if answers:
        assert m.plugin(function, vm="v") == "{}" and waited == list(range(failures)) + ["ended"]
    else:
        with pytest.raises(XenAPI.Failure):
            m.plugin(function, vm="v")
        assert "ended" not in waited
    assert set(map(str, asked)) == {str(("ref", "sxm.py", function, {"vm": "v", "migration": ID}))}


def test_the_course_is_not_written_from_the_begin_of_the_move_until_its_end(root):
    """The guest is suspended in it: nothing of book-keeping costs it time."""
    entry = Journal.create(ID, **migration.initial(make_plan()))
    one = migration.Migration(entry, make_plan(), None, None, FakeTask())

    def told():
        return [event[3] for event in course.read(ID).events if event[0] == "phase"]

    one.note(phase="remap")
    one.note(phase="move")
    assert told() == ["remap", "move"]
    before = os.stat(course.path(ID))
    one.note_steps({one.plan.disks[0].key: "detached"})
    one.progress.report(force=True)
    after = os.stat(course.path(ID))
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    one.note(phase="complete")
    assert told()[-1] == "complete" and len(course.read(ID).events) == 4
    one.note(phase="move")
    one.note(state=journal.FAILED, error=["SXM_UNDECIDED"])
    assert told()[-1] == "move"
    one.note(phase="move")
    one.note(tries=2)
    one.note(phase="undo move")
    assert told()[-1] == "undo move"


def test_that_phase_is_called_so():
    assert migration.MOVE in table.NAMES
