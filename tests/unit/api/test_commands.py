# SPDX-License-Identifier: LGPL-2.1-only
"""What the administrator calls of a migration that has begun: its status, cancelling, resuming, its
bandwidth."""

import json
import os
import threading

import pytest

from api_world import Time, begin, pool  # noqa: F401
from fake_migration import ID
from storage_motion.api import commands, dead_worker
from storage_motion.errors import BadArguments, NothingToResume, NotRunning, TooLate, WorkerDied
from storage_motion.journal import late_word, secret_files
from storage_motion.migration import bandwidth, migration, resume
from tests.eventually import eventually


def test_the_status_has_all_that_is_promised(pool):
    entry = begin()
    entry.entry["disks"]["k"].update(to_copy=100, copied=30, skipped=20)
    entry.write()
    answer = commands.status_of(pool, {"migration": ID})
    assert {
        "migration",
        "vm",
        "vm_name",
        "kind",
        "state",
        "phase",
        "doing",
        "phases",
        "error",
        "task",
        "started",
        "updated",
        "bytes_to_move",
        "bytes_moved",
        "downtime",
        "disks",
        "saved",
    } <= set(answer)
    assert (answer["bytes_moved"], answer["bytes_to_move"], answer["alive"]) == (50, 100, True)
    assert answer["disks"][0]["estimated"] is False
    assert {
        "vdi",
        "device",
        "name",
        "destination_sr",
        "destination_vdi",
        "size",
        "state",
        "to_copy",
        "copied",
        "verified",
        "skipped",
        "mirrored_bytes",
        "mirrored_writes",
        "longest_stall",
    } <= set(answer["disks"][0])
    json.dumps(answer)


def test_of_a_copy_it_says_so_and_which_vm_that_is(pool):
    entry = begin()
    told = commands.status_of(pool, {"migration": ID})
    assert (told["copy"], told["new_vm"]) == (False, "")
    plan = dict(entry.entry["plan"], copy=True, live=False)
    entry.write(plan=plan, new_vm="another")
    told = commands.status_of(pool, {"migration": ID})
    assert (told["copy"], told["new_vm"], told["phases"][-1]) == (True, "another", "let-go")
    entry.write(plan={name: value for name, value in plan.items() if name != "copy"})
    assert commands.status_of(pool, {"migration": ID})["copy"] is False, "of a plugin of before"


def test_a_cancel_reaches_the_worker(pool, tmp_path):
    entry, told = begin(), tmp_path / "run/sxm" / ID / migration.CANCEL
    reached = []

    def worker():
        try:
            reached.append(eventually(told.exists, "it is told"))
        finally:
            entry.write(state="cancelled", error=["SXM_CANCELLED", ID])

    thread = threading.Thread(target=worker)
    thread.start()
    assert commands.cancel(pool, {"migration": ID}) == {"migration": ID, "state": "cancelled"}
    thread.join()
    assert reached


def test_a_cancel_reaches_the_worker_that_follows_one_that_has_died(pool, tmp_path, monkeypatch):
    entry = begin(alive=False)

    def follower():
        assert (tmp_path / "run/sxm" / ID / migration.CANCEL).exists()
        entry.write(state="cancelled", error=["SXM_CANCELLED", ID])

    Time(monkeypatch, {40.0: follower})
    assert commands.cancel(pool, {"migration": ID}) == {"migration": ID, "state": "cancelled"}


def test_a_cancel_that_nobody_sees_to_says_what_to_do(pool, monkeypatch):
    begin(alive=False)
    Time(monkeypatch, {})
    with pytest.raises(WorkerDied) as raised:
        commands.cancel(pool, {"migration": ID})
    assert raised.value.details[2] == dead_worker.NOBODY


def test_a_cancel_that_is_too_late_says_so(pool):
    begin().write(committed=True, phase="clean-up")
    with pytest.raises(TooLate) as raised:
        commands.cancel(pool, {"migration": ID})
    assert raised.value.failure() == ["SXM_TOO_LATE", ID, "clean-up"]


def test_resume_reaches_a_worker_that_waits(pool, tmp_path):
    entry = begin()
    with pytest.raises(NothingToResume):
        commands.resume_now(pool, {"migration": ID})
    entry.write(broken={"attempt": 2, "limit": 5})
    assert commands.resume_now(pool, {"migration": ID})["broken"]["attempt"] == 2
    assert (tmp_path / "run/sxm" / ID / resume.RESUME).exists()
    entry.write(state="failed", broken=None)
    with pytest.raises(NothingToResume):
        commands.resume_now(pool, {"migration": ID})


def test_what_it_has_to_tell_is_beside_what_its_plan_has(pool):
    entry = begin()
    assert commands.status_of(pool, {"migration": ID})["warnings"] == []
    entry.entry["plan"]["warnings"] = ["planned"]
    entry.write(warnings=["met"])
    assert commands.status_of(pool, {"migration": ID})["warnings"] == ["planned", "met"]


def test_a_bandwidth_is_changed_while_it_runs_and_only_then(pool):
    entry = begin()
    given = {"migration": ID, "bandwidth": "3MiB"}
    assert commands.limit(pool, given) == {"migration": ID, "bandwidth": 3 << 20}
    assert commands.status_of(pool, {"migration": ID})["bandwidth"] == 3 << 20
    with pytest.raises(BadArguments):
        commands.limit(pool, {"migration": ID, "bandwidth": "3"})
    assert commands.status_of(pool, {"migration": ID})["bandwidth"] == 3 << 20
    entry.write(state="failed")
    with pytest.raises(NotRunning):
        commands.limit(pool, given)


@pytest.mark.parametrize("pruned", [False, True])
def test_a_bandwidth_that_comes_as_it_ends_leaves_nothing_behind(
    pool, tmp_path, monkeypatch, pruned
):
    entry, change = begin(), bandwidth.change

    def as_it_ends(*given):
        entry.write(state="succeeded")
        secret_files.forget_all(ID)
        if pruned:
            os.unlink(entry.path)
        change(*given)

    monkeypatch.setattr(bandwidth, "change", as_it_ends)
    with pytest.raises(NotRunning) as raised:
        commands.limit(pool, {"migration": ID, "bandwidth": "3MiB"})
    assert raised.value.details == [ID, late_word.FORGOTTEN if pruned else "succeeded"]
    assert os.listdir(str(tmp_path / "run/sxm")) == []


def test_a_resume_and_a_cancel_that_come_as_it_ends_leave_nothing_behind(
    pool, tmp_path, monkeypatch
):
    entry = begin()
    entry.write(broken={"attempt": 2, "limit": 5})

    def as_it_ends(leave):
        def leave_late(found):
            entry.write(state="cancelled")
            secret_files.forget_all(ID)
            leave(found)

        return leave_late

    monkeypatch.setattr(resume, "ask", as_it_ends(resume.ask))
    with pytest.raises(NothingToResume):
        commands.resume_now(pool, {"migration": ID})
    entry.write(state="running")
    monkeypatch.setattr(migration, "ask_to_cancel", as_it_ends(migration.ask_to_cancel))
    assert commands.cancel(pool, {"migration": ID})["state"] == "cancelled"
    assert os.listdir(str(tmp_path / "run/sxm")) == []


def test_what_a_recovery_wants_is_not_taken_away_with_a_late_word(pool, tmp_path, monkeypatch):
    entry, change = begin(), bandwidth.change

    def as_it_ends(*given):
        entry.write(state="failed", left=["something"])
        change(*given)

    monkeypatch.setattr(bandwidth, "change", as_it_ends)
    directory = tmp_path / "run/sxm" / ID
    directory.mkdir(parents=True)
    (directory / "r0.ctl").write_text("")
    with pytest.raises(NotRunning):
        commands.limit(pool, {"migration": ID, "bandwidth": "3MiB"})
    assert os.listdir(str(directory)) == ["r0.ctl"]


def test_resume_tells_of_a_worker_that_died(pool):
    begin(alive=False).write(broken={"attempt": 2, "limit": 5})
    with pytest.raises(WorkerDied):
        commands.resume_now(pool, {"migration": ID})
