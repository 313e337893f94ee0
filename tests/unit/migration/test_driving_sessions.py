# SPDX-License-Identifier: LGPL-2.1-only
"""The sessions of who drives a migration: those of one that was killed are ended by who follows
him, surely, and what could not be ended stays noted."""

import errno
import os
import types

import pytest
import XenAPI

from fake_pool import failure
from storage_motion.dom0.root import path as root_path
from storage_motion.errors import NotNoted
from storage_motion.journal import journal, secret_files
from storage_motion.migration import driving_sessions
from storage_motion.migration.driving_sessions import DESTINATION, SOURCE

ID = "11111111-2222-3333-4444-555555555555"
PLACE = "/run/sxm/" + ID


@pytest.fixture(autouse=True)
def ended(tmp_path, monkeypatch):
    """The references of the sessions that were ended, in order."""
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    found = []
    monkeypatch.setattr(driving_sessions.sessions, "end_surely", lambda _, one: found.append(one))
    monkeypatch.setattr(driving_sessions.sessions, "logout", lambda one: found.append(one.handle))
    return found


def of(name):
    return types.SimpleNamespace(handle=name)


def noted():
    return secret_files.get(ID, driving_sessions.NAME)


def test_who_follows_ends_those_of_who_was_killed(ended):
    driving_sessions.begin(ID, SOURCE, of("one"))
    driving_sessions.begin(ID, DESTINATION, of("there"))
    assert ended == []
    driving_sessions.begin(ID, SOURCE, of("two"))
    assert ended == ["one"] and noted() == {SOURCE: ["two"], DESTINATION: ["there"]}
    driving_sessions.begin(ID, SOURCE, of("two"))
    assert ended == ["one"]
    driving_sessions.begin(ID, DESTINATION, of("there again"))
    assert ended == ["one", "there"]


def test_what_ends_in_order_leaves_nothing(ended):
    one, two = of("one"), of("two")
    driving_sessions.begin(ID, SOURCE, one)
    driving_sessions.begin(ID, DESTINATION, two)
    driving_sessions.end(ID, DESTINATION, two)
    assert noted()[SOURCE] == ["one"]
    driving_sessions.end(ID, SOURCE, one)
    assert ended == ["two", "one"] and os.listdir(root_path(PLACE)) == []
    driving_sessions.end(ID, SOURCE, one)


def test_what_cannot_be_ended_stays_noted(ended, monkeypatch):
    """As where a member's master is away: the next recovery ends it."""
    driving_sessions.begin(ID, SOURCE, of("one"))

    def away(*_):
        raise failure("HOST_STILL_BOOTING")

    with monkeypatch.context() as patched:
        patched.setattr(driving_sessions.sessions, "end_surely", away)
        two = of("two")
        with pytest.raises(XenAPI.Failure):
            driving_sessions.begin(ID, SOURCE, two)
        driving_sessions.end(ID, SOURCE, two)
    assert noted() == {SOURCE: ["one"]}
    driving_sessions.begin(ID, SOURCE, of("three"))
    assert ended == ["two", "one"] and noted() == {SOURCE: ["three"]}


def test_the_one_of_a_pool_that_does_not_answer_is_ended_when_it_does(ended):
    driving_sessions.begin(ID, SOURCE, of("one"))
    driving_sessions.begin(ID, DESTINATION, of("there"))
    two = of("two")
    driving_sessions.begin(ID, SOURCE, two)
    driving_sessions.end(ID, SOURCE, two)
    driving_sessions.begin(ID, DESTINATION, of("later"))
    assert ended == ["one", "two", "there"]


def test_each_that_is_logged_in_anew_is_ended_by_who_follows(ended):
    """Threads that share one may log in at once, and any of the new ones may be what a call of the
    dead one is made by."""
    one = of("one")
    driving_sessions.begin(ID, SOURCE, of("zero"))
    driving_sessions.begin(ID, SOURCE, one)
    for name in ("two", "three"):
        one.began(name)
    assert noted() == {SOURCE: ["one", "two", "three"]}
    driving_sessions.begin(ID, SOURCE, of("four"))
    assert ended == ["zero", "one", "two", "three"]


def test_of_those_logged_in_anew_none_is_left_in_the_end(ended):
    one = of("one")
    driving_sessions.begin(ID, SOURCE, one)
    one.began("two")
    one.handle = "two"
    driving_sessions.end(ID, SOURCE, one)
    assert ended == ["two"] and os.listdir(root_path(PLACE)) == []


def test_when_the_migration_has_ended_nothing_is_noted_any_more():
    one = of("one")
    driving_sessions.begin(ID, SOURCE, one)
    secret_files.forget_all(ID)
    one.began("two")
    assert not os.path.exists(root_path(PLACE))


def test_it_is_for_root_alone():
    driving_sessions.begin(ID, SOURCE, of("one"))
    (name,) = os.listdir(root_path(PLACE))
    assert os.stat(root_path(PLACE) + "/" + name).st_mode & 0o077 == 0


def test_what_cannot_be_noted_is_not_begun(ended, monkeypatch):
    one = of("one")
    driving_sessions.begin(ID, SOURCE, one)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(journal, "replace", full)
    with pytest.raises(NotNoted):
        driving_sessions.begin(ID, SOURCE, of("two"))
    assert ended == []
    one.began("three")  # in the middle of a call: that goes on


def test_what_a_recovery_has_come_to_is_not_lost_by_a_note(ended, monkeypatch):
    """It would be told as one that waits for room."""
    one, there = of("one"), of("there")
    driving_sessions.begin(ID, SOURCE, one)
    driving_sessions.begin(ID, DESTINATION, there)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(journal, "replace", full)
    driving_sessions.end(ID, DESTINATION, there)
    assert ended == ["there"]
