# SPDX-License-Identifier: LGPL-2.1-only
"""Syncing a pool's database: what counts as a proof, and what does not."""

import json

import pytest
import XenAPI

from storage_motion.errors import NotDurable
from storage_motion.xapi import database


class Pool:
    """A xapi. `task`: what the call's task is at each look, the last one for good; `disk`: the same
    for the master's generation."""

    def __init__(self, task, disk=(0,), now=10):
        self.task_states, self.disk, self.now, self.destroyed = list(task), list(disk), now, []
        self.xenapi = _Calls(self)

    def call(self, name, arguments):
        if name == "pool.get_all":
            return ["OpaqueRef:pool"]
        if name == "pool.get_master":
            return "OpaqueRef:master"
        if name == "event.inject":
            assert arguments == ("pool", "OpaqueRef:pool")
            return "%020d,%020d" % (self.now, 0)
        if name == "Async.pool.sync_database":
            return "OpaqueRef:task"
        if name == "task.get_status":
            return _next(self.task_states)
        if name == "task.get_error_info":
            return ["CANNOT_CONTACT_HOST", "OpaqueRef:member"]
        if name == "task.destroy":
            return self.destroyed.append(arguments[0])
        assert (name, arguments[:3]) == (
            "host.call_plugin",
            ("OpaqueRef:master", "sxm.py", "database-generation"),
        )
        return json.dumps({"generation": _next(self.disk)})


def _next(script):
    found = script[0] if len(script) == 1 else script.pop(0)
    if isinstance(found, Exception):
        raise found
    return found


class _Calls:
    def __init__(self, pool, name=""):
        self._pool, self._name = pool, name

    def __getattr__(self, name):
        return _Calls(self._pool, "%s.%s" % (self._name, name) if self._name else name)

    def __call__(self, *arguments):
        return self._pool.call(self._name, arguments)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    for name in ("POLL", "PROMPT", "LOOK", "AGAIN"):
        monkeypatch.setattr(database, name, 0.01)


def test_the_end_of_the_call_is_a_proof():
    pool = Pool(["pending", "success"])
    database.sync(pool)
    assert pool.destroyed == ["OpaqueRef:task"]


def test_while_a_member_hangs_the_masters_own_disk_is_one():
    database.sync(Pool(["pending"], [9, 10, 11]))


@pytest.mark.parametrize("generation", [-1, 9, 10])
def test_a_file_that_is_older_than_the_call_is_none(generation):
    with pytest.raises(NotDurable) as raised:
        database.sync(Pool(["pending"], [generation]), 0.1)
    assert "older than the call" in raised.value.details[0]


def test_a_call_that_fails_for_a_member_has_written_the_masters_file():
    database.sync(Pool(["failure"], [11]), 0.1)
    with pytest.raises(NotDurable) as raised:
        database.sync(Pool(["failure"], [10]), 0.1)
    assert raised.value.details == ["CANNOT_CONTACT_HOST OpaqueRef:member"]


@pytest.mark.parametrize(
    "lost",
    [
        ConnectionRefusedError(111, "Connection refused"),
        XenAPI.Failure(["HANDLE_INVALID", "task", "x"]),
    ],
)
def test_a_xapi_that_is_restarted_is_asked_anew(lost):
    database.sync(Pool(["pending", lost, "success"]))


def test_a_xapi_that_stays_away_proves_nothing():
    with pytest.raises(NotDurable) as raised:
        database.sync(Pool([ConnectionRefusedError(111, "Connection refused")]), 0.1)
    assert raised.value.details == ["Connection refused"]
