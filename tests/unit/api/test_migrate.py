# SPDX-License-Identifier: LGPL-2.1-only
"""`migrate`: the other pool, the plan, the worker's start, and a VM that runs on another host."""

import json
import os

import pytest

from api_world import Time, pool  # noqa: F401
from fake_migration import ID, make_plan
from fake_pool import GIB, by_name, uuid_of
from full_disk import FullDisk
from plan_world import World
from storage_motion.api import dead_worker, migrate, other_hosts
from storage_motion.dom0 import launch
from storage_motion.errors import (
    BadArguments,
    BadCredentials,
    HostIsSlave,
    JournalNotWritten,
    LaunchFailed,
    WorkerDied,
)
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import progress


@pytest.mark.parametrize(
    "later, error",
    [({"alive": True, "state": "running"}, dead_worker.GOES_ON), (None, dead_worker.NOBODY)],
)
def test_who_waits_for_another_host_is_told_the_same_of_a_worker_that_died(
    pool, monkeypatch, later, error
):
    dead = {"migration": ID, "phase": "sync", "state": "running", "alive": False, "error": None}
    answers = {"migrate": {"migration": ID}, "status": dead}
    pool.handlers["host.call_plugin"] = lambda host, plugin, function, given: json.dumps(
        answers[function]
    )
    change = (lambda: answers.update(status=dict(dead, **later))) if later else lambda: None
    Time(monkeypatch, {30: change})
    request = type("Request", (), {"dry_run": False, "wait": True})
    with pytest.raises(WorkerDied) as raised:
        migrate._elsewhere(pool, by_name(pool, "host", "a2"), request, {})
    assert raised.value.failure() == ["SXM_WORKER_DIED", ID, "sync", error]


def test_a_worker_that_is_killed_before_it_has_said_who_it_is_is_waited_for(pool, monkeypatch):
    """The one that follows it drives the migration."""
    monkeypatch.setattr(migrate.waiting, "TICK", 1.0)
    task = {"worker": launch.Process.of(os.getpid()).to_json(), "task": "t"}
    Time(monkeypatch, {20: lambda: Journal.load(journal.all_ids()[0]).write(**task)})
    monkeypatch.setattr(migrate.launch, "start_unit", lambda *_: launch.Process(os.getpid(), -1))
    request = type("Request", (), {"remote": None, "retry_limit": 5, "bandwidth": 0})
    assert migrate._start(request, make_plan(kind="in-pool"))["task"] == "t"
    Time(monkeypatch, {})
    with pytest.raises(WorkerDied) as raised:
        migrate._start(request, make_plan(kind="in-pool"))
    assert raised.value.details[2] == dead_worker.NOBODY


@pytest.mark.parametrize("begun", [False, True])
def test_a_worker_that_has_died_before_it_was_seen(pool, monkeypatch, begun):
    """One that had begun is no failed start: it has a task by then, and is recovered."""

    def start(name, argv):
        if begun:
            task = {"worker": {"pid": 1, "started": -1}, "task": "t", "phase": "claim"}
            Journal.load(journal.all_ids()[0]).write(**task)
        raise LaunchFailed(name, "ended at once")

    monkeypatch.setattr(migrate.launch, "start_unit", start)
    request = type("Request", (), {"remote": None, "retry_limit": 5, "bandwidth": 0})
    if begun:
        assert migrate._start(request, make_plan(kind="in-pool"))["task"] == "t"
    else:
        with pytest.raises(LaunchFailed):
            migrate._start(request, make_plan(kind="in-pool"))
    entry = Journal.load(journal.all_ids()[0]).entry
    assert (entry["state"], entry["phase"]) == (
        (journal.RUNNING, "claim") if begun else (journal.FAILED, None)
    )


NOBODY = {
    "vm": "nobody",
    "remote-master": "10.0.0.1",
    "remote-username": "root",
    "remote-password": "hush",
}


def test_wrong_credentials_and_a_wrong_vm_are_named_together(pool, monkeypatch):
    def refuse(url, *_):
        raise BadCredentials(url)

    monkeypatch.setattr(migrate.sessions, "remote", refuse)
    with pytest.raises(BadArguments) as raised:
        migrate.migrate(pool, NOBODY)
    names = [detail.partition(":")[0] for detail in raised.value.details]
    assert names == ["vm", "remote-username, remote-password"] and "hush" not in str(raised.value)
    assert pool.calls == []


def test_a_slave_names_its_master(pool, monkeypatch):
    def refuse(url, *_):
        raise HostIsSlave(url, "10.0.0.9")

    monkeypatch.setattr(migrate.sessions, "remote", refuse)
    with pytest.raises(BadArguments) as raised:
        migrate.migrate(pool, NOBODY)
    assert "its master, 10.0.0.9" in raised.value.details[1]


def test_a_journal_that_cannot_be_begun_leaves_no_secret(pool, tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    disk.left = 0
    remote = type("Remote", (), {"username": "root", "password": "correct horse"})
    with pytest.raises(JournalNotWritten):
        migrate._start(
            type("Request", (), {"remote": remote, "retry_limit": 5, "bandwidth": 0}), make_plan()
        )
    assert journal.all_ids() == [] and os.listdir(str(tmp_path / "run/sxm")) == []


def test_a_worker_that_could_not_note_that_it_is_there(pool, monkeypatch):
    def start(name, argv):
        progress.tell_stopped(journal.all_ids()[0], ["SXM_JOURNAL_NOT_WRITTEN", "/x", "full"])
        return launch.Process(os.getpid(), -1)

    monkeypatch.setattr(migrate.launch, "start_unit", start)
    plan = make_plan(kind="in-pool")
    with pytest.raises(other_hosts.RemoteFailure) as raised:
        migrate._start(
            type("Request", (), {"remote": None, "retry_limit": 5, "bandwidth": 0}), plan
        )
    assert raised.value.code == "SXM_JOURNAL_NOT_WRITTEN"


def test_a_plan_is_made_of_what_a_scan_has_found(pool, monkeypatch):
    """What was read before is old then; what could not be scanned is told with the plan."""
    world, judged = World(), []
    monkeypatch.setattr(
        migrate.inventory,
        "host_uuid",
        lambda: uuid_of(world.a, "host", by_name(world.a, "host", "a1")),
    )
    monkeypatch.setattr(migrate.installed, "require", lambda *_: {})
    monkeypatch.setattr(migrate.xapi_verdict, "ask", lambda *_: None)

    def scan(source, destination, plan, problems):
        assert source is destination, "within the pool"
        world.disk["physical_utilisation"] = str(2 * GIB)
        return ["not scanned"]

    monkeypatch.setattr(migrate.up_to_date, "scan", scan)
    monkeypatch.setattr(migrate.room, "require", lambda *given: judged.append(given) or [])
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    plan = migrate.migrate(
        world.a, {"vm": world.vm["uuid"], "destination-sr-uuid": shared, "dry-run": "true"}
    )["plan"]
    ((_, source, view, planned, request, _, _),) = judged
    assert source is view and request.retry_limit == 5
    assert [disk.data for disk in planned.disks] == [GIB // 2, 2 * GIB]
    assert [disk["data"] for disk in plan["disks"]] == [GIB // 2, 2 * GIB]
    assert plan["warnings"] == ["not scanned"]

    def fails(source, destination, plan, problems):
        problems.add("vdi:x", "cannot be scanned")
        return []

    monkeypatch.setattr(migrate.up_to_date, "scan", fails)
    with pytest.raises(BadArguments, match="cannot be scanned"):
        migrate.migrate(world.a, {"vm": world.vm["uuid"], "destination-sr-uuid": shared})
    assert len(judged) == 1 and journal.all_ids() == []

    def destroyed(source, destination, plan, problems):
        world.a.xenapi.VM.destroy(world.vm_ref)
        return []

    monkeypatch.setattr(migrate.up_to_date, "scan", destroyed)
    with pytest.raises(BadArguments, match="destroyed meanwhile"):
        migrate.migrate(world.a, {"vm": world.vm["uuid"], "destination-sr-uuid": shared})
    assert len(judged) == 1 and journal.all_ids() == []
