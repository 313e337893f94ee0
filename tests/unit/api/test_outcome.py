# SPDX-License-Identifier: LGPL-2.1-only
"""Waiting for the end of a migration: how it ended, and what its worker died of."""

import os
import threading

import pytest

from api_world import Time, begin, pool  # noqa: F401
from fake_migration import ID
from storage_motion.api import commands, dead_worker, other_hosts, outcome
from storage_motion.dom0 import launch
from storage_motion.errors import WorkerDied
from storage_motion.migration import progress


def test_who_waits_is_told_what_to_do_if_nobody_follows_a_worker_that_died(pool, monkeypatch):
    begin(alive=False)
    passed = Time(monkeypatch, {})
    with pytest.raises(WorkerDied) as raised:
        outcome.wait(pool, ID)
    assert raised.value.failure() == ["SXM_WORKER_DIED", ID, "sync", dead_worker.NOBODY]
    assert 60 < passed.now < 70 and "fn=recover" in dead_worker.NOBODY


@pytest.mark.parametrize(
    "end, error",
    [
        ({"state": "succeeded"}, None),
        (
            {"state": "failed", "error": ["SXM_WORKER_DIED", ID, "sync"]},
            ["SXM_WORKER_DIED", ID, "sync"],
        ),
    ],
)
def test_who_waits_gets_the_end_that_another_worker_brings_it_to(pool, monkeypatch, end, error):
    entry = begin(alive=False)
    mine = launch.Process.of(os.getpid()).to_json()
    passed = Time(
        monkeypatch, {50: lambda: entry.write(worker=mine), 800: lambda: entry.write(**end)}
    )
    if error:
        with pytest.raises(other_hosts.RemoteFailure) as raised:
            outcome.wait(pool, ID)
        assert raised.value.failure() == error
    else:
        assert outcome.wait(pool, ID)["state"] == "succeeded"
    assert passed.now == 800


def test_who_waits_for_a_recovery_that_waits_itself_is_told_so(pool, monkeypatch):
    """As for another pool that does not answer. Another death in between is another wait."""
    entry = begin(alive=False)
    mine = launch.Process.of(os.getpid())
    dead = launch.Process(mine.pid, mine.started - 1).to_json()
    passed = Time(
        monkeypatch,
        {
            50: lambda: entry.write(worker=mine.to_json()),
            100: lambda: entry.write(worker=dead),
            150: lambda: entry.write(worker=mine.to_json()),
        },
    )
    with pytest.raises(WorkerDied) as raised:
        outcome.wait(pool, ID)
    assert raised.value.failure() == ["SXM_WORKER_DIED", ID, "sync", dead_worker.GOES_ON]
    assert 900 < passed.now < 905


@pytest.mark.parametrize(
    "state, error", [("succeeded", None), ("failed", ["SXM_MIRROR_BROKEN", "k", "cut"])]
)
def test_waiting_tells_how_it_ended(pool, state, error):
    entry = begin()
    timer = threading.Timer(0.1, lambda: entry.write(state=state, error=error))
    timer.start()
    if error:
        with pytest.raises(other_hosts.RemoteFailure) as raised:
            outcome.wait(pool, ID)
        assert raised.value.failure() == error
    else:
        assert outcome.wait(pool, ID)["state"] == state
    timer.join()


def test_waiting_tells_that_the_journal_could_not_be_written(pool):
    begin(alive=False)
    progress.tell_stopped(ID, ["SXM_JOURNAL_NOT_WRITTEN", "/x", "No space left on device"])
    for answer in (outcome.wait, lambda pool, found: commands.cancel(pool, {"migration": found})):
        with pytest.raises(other_hosts.RemoteFailure) as raised:
            answer(pool, ID)
        assert raised.value.failure() == [
            "SXM_JOURNAL_NOT_WRITTEN",
            "/x",
            "No space left on device",
        ]
    answer = commands.status_of(pool, {"migration": ID})
    assert (
        answer["error"][0] == "SXM_JOURNAL_NOT_WRITTEN"
        and answer["state"] == "running"
        and not answer["alive"]
    )
