# SPDX-License-Identifier: LGPL-2.1-only
"""What the administrator calls: waiting, cancelling, and finding a migration on the host that has
it."""

import json
import os
import threading

import pytest

from fake_migration import ID, make_plan
from fake_pool import GIB, by_name, failure, make_pool, uuid_of
from full_disk import FullDisk
from plan_world import World
from storage_motion.api import commands, dead_worker, status
from storage_motion.dom0 import launch
from storage_motion.errors import (
    BadArguments,
    JournalNotWritten,
    NoSuchMigration,
    NothingToResume,
    NotRunning,
    TooLate,
    WorkerDied,
)
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration, progress, resume
from tests.eventually import eventually


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    monkeypatch.setattr(commands, "POLL", 0.02)
    found = make_pool("A", ["a1", "a2"])
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/xensource-inventory").write_text(
        "INSTALLATION_UUID='%s'\n" % uuid_of(found, "host", by_name(found, "host", "a1"))
    )
    return found


def begin(alive=True):
    entry = Journal.create(ID, **migration.initial(make_plan()))
    process = launch.Process.of(os.getpid())
    entry.write(
        worker=(process if alive else launch.Process(process.pid, process.started - 1)).to_json(),
        phase="sync",
    )
    return entry


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


class Time:
    """Passes with each look of who waits; `at`: {seconds: what happens then}."""

    def __init__(self, monkeypatch, at):
        self.now, self._at = 0.0, dict(at)
        for module in (commands.time, dead_worker.time):
            monkeypatch.setattr(module, "sleep", self._sleep)
            monkeypatch.setattr(module, "monotonic", lambda: self.now)

    def _sleep(self, _):
        self.now += 1.0
        self._at.pop(self.now, lambda: None)()


def test_who_waits_is_told_what_to_do_if_nobody_follows_a_worker_that_died(pool, monkeypatch):
    begin(alive=False)
    passed = Time(monkeypatch, {})
    with pytest.raises(WorkerDied) as raised:
        commands.wait(pool, ID)
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
        with pytest.raises(commands.RemoteFailure) as raised:
            commands.wait(pool, ID)
        assert raised.value.failure() == error
    else:
        assert commands.wait(pool, ID)["state"] == "succeeded"
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
        commands.wait(pool, ID)
    assert raised.value.failure() == ["SXM_WORKER_DIED", ID, "sync", dead_worker.GOES_ON]
    assert 900 < passed.now < 905


@pytest.mark.parametrize(
    "later, error",
    [({"alive": True, "state": "running"}, dead_worker.GOES_ON), (None, dead_worker.NOBODY)],
)
def test_the_same_where_the_vm_runs_on_another_host(pool, monkeypatch, later, error):
    dead = {"migration": ID, "phase": "sync", "state": "running", "alive": False, "error": None}
    answers = {"migrate": {"migration": ID}, "status": dead}
    pool.handlers["host.call_plugin"] = lambda host, plugin, function, given: json.dumps(
        answers[function]
    )
    change = (lambda: answers.update(status=dict(dead, **later))) if later else lambda: None
    Time(monkeypatch, {30: change})
    request = type("Request", (), {"dry_run": False, "wait": True})
    with pytest.raises(WorkerDied) as raised:
        commands._elsewhere(pool, by_name(pool, "host", "a2"), request, {})
    assert raised.value.failure() == ["SXM_WORKER_DIED", ID, "sync", error]


def test_a_worker_that_is_killed_before_it_has_said_who_it_is_is_waited_for(pool, monkeypatch):
    """The one that follows it drives the migration."""
    monkeypatch.setattr(commands.waiting, "TICK", 1.0)
    task = {"worker": launch.Process.of(os.getpid()).to_json(), "task": "t"}
    Time(monkeypatch, {20: lambda: Journal.load(journal.all_ids()[0]).write(**task)})
    monkeypatch.setattr(commands.launch, "start_unit", lambda *_: launch.Process(os.getpid(), -1))
    request = type("Request", (), {"remote": None, "retry_limit": 5, "bandwidth": 0})
    assert commands._start(request, make_plan(kind="in-pool"))["task"] == "t"
    Time(monkeypatch, {})
    with pytest.raises(WorkerDied) as raised:
        commands._start(request, make_plan(kind="in-pool"))
    assert raised.value.details[2] == dead_worker.NOBODY


@pytest.mark.parametrize(
    "state, error", [("succeeded", None), ("failed", ["SXM_MIRROR_BROKEN", "k", "cut"])]
)
def test_waiting_tells_how_it_ended(pool, state, error):
    entry = begin()
    timer = threading.Timer(0.1, lambda: entry.write(state=state, error=error))
    timer.start()
    if error:
        with pytest.raises(commands.RemoteFailure) as raised:
            commands.wait(pool, ID)
        assert raised.value.failure() == error
    else:
        assert commands.wait(pool, ID)["state"] == state
    timer.join()


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


def test_resume_tells_of_a_worker_that_died(pool):
    begin(alive=False).write(broken={"attempt": 2, "limit": 5})
    with pytest.raises(WorkerDied):
        commands.resume_now(pool, {"migration": ID})


def test_it_is_found_on_the_host_that_has_it(pool):
    asked = []

    def call_plugin(host, plugin, function, given):
        asked.append((pool.tables["host"][host]["name_label"], plugin, function, given))
        return json.dumps({"state": "running"})

    pool.handlers["host.call_plugin"] = call_plugin
    assert commands.status_of(pool, {"migration": ID}) == {"state": "running"}
    assert asked == [("a2", "sxm.py", "status", {"migration": ID, "local": "true"})]
    with pytest.raises(NoSuchMigration):
        commands.status_of(pool, {"migration": ID, "local": "true"})


def test_nobody_has_it(pool):
    def call_plugin(*_):
        raise failure("SXM_NO_SUCH_MIGRATION", ID)

    pool.handlers["host.call_plugin"] = call_plugin
    with pytest.raises(NoSuchMigration):
        commands.status_of(pool, {"migration": ID})


def test_a_list_of_all_hosts(pool):
    begin()
    pool.handlers["host.call_plugin"] = lambda *_: json.dumps(
        {"migrations": [dict(status.brief(Journal.load(ID).entry), started=0)]}
    )
    assert len(commands.list_all(pool, {})["migrations"]) == 2
    assert len(commands.list_all(pool, {"local": "true"})["migrations"]) == 1


def test_wrong_credentials_and_a_wrong_vm_are_named_together(pool, monkeypatch):
    def refuse(url, *_):
        raise commands.BadCredentials(url)

    monkeypatch.setattr(commands.sessions, "remote", refuse)
    with pytest.raises(BadArguments) as raised:
        commands.migrate(
            pool,
            {
                "vm": "nobody",
                "remote-master": "10.0.0.1",
                "remote-username": "root",
                "remote-password": "hush",
            },
        )
    names = [detail.partition(":")[0] for detail in raised.value.details]
    assert names == ["vm", "remote-username, remote-password"] and "hush" not in str(raised.value)
    assert pool.calls == []


def test_a_slave_names_its_master(pool, monkeypatch):
    def refuse(url, *_):
        raise commands.HostIsSlave(url, "10.0.0.9")

    monkeypatch.setattr(commands.sessions, "remote", refuse)
    with pytest.raises(BadArguments) as raised:
        commands.migrate(
            pool,
            {
                "vm": "nobody",
                "remote-master": "10.0.0.1",
                "remote-username": "root",
                "remote-password": "hush",
            },
        )
    assert "its master, 10.0.0.9" in raised.value.details[1]


def test_a_journal_that_is_damaged_hides_no_other(pool):
    begin()
    other = "99999999-2222-3333-4444-555555555555"
    with open(os.path.join(os.path.dirname(Journal.load(ID).path), other + ".json"), "w") as out:
        out.write('{"version": 1, "migration": "%s", "state": "running"}' % other)
    answer = commands.list_all(pool, {"local": "true"})
    assert [entry["migration"] for entry in answer["migrations"]] == [ID]
    assert [failure[0] for failure in answer["unreadable"]] == ["SXM_JOURNAL"]


def test_waiting_tells_that_the_journal_could_not_be_written(pool):
    begin(alive=False)
    progress.tell_stopped(ID, ["SXM_JOURNAL_NOT_WRITTEN", "/x", "No space left on device"])
    for answer in (commands.wait, lambda pool, found: commands.cancel(pool, {"migration": found})):
        with pytest.raises(commands.RemoteFailure) as raised:
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


def test_a_journal_that_cannot_be_begun_leaves_no_secret(pool, tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    disk.left = 0
    remote = type("Remote", (), {"username": "root", "password": "correct horse"})
    with pytest.raises(JournalNotWritten):
        commands._start(
            type("Request", (), {"remote": remote, "retry_limit": 5, "bandwidth": 0}), make_plan()
        )
    assert journal.all_ids() == [] and os.listdir(str(tmp_path / "run/sxm")) == []


def test_a_worker_that_could_not_note_that_it_is_there(pool, monkeypatch):
    def start(name, argv):
        progress.tell_stopped(journal.all_ids()[0], ["SXM_JOURNAL_NOT_WRITTEN", "/x", "full"])
        return launch.Process(os.getpid(), -1)

    monkeypatch.setattr(commands.launch, "start_unit", start)
    plan = make_plan(kind="in-pool")
    with pytest.raises(commands.RemoteFailure) as raised:
        commands._start(
            type("Request", (), {"remote": None, "retry_limit": 5, "bandwidth": 0}), plan
        )
    assert raised.value.code == "SXM_JOURNAL_NOT_WRITTEN"


def test_a_plan_is_made_of_what_a_scan_has_found(pool, monkeypatch):
    """What was read before is old then; what could not be scanned is told with the plan."""
    world, judged = World(), []
    monkeypatch.setattr(
        commands.inventory,
        "host_uuid",
        lambda: uuid_of(world.a, "host", by_name(world.a, "host", "a1")),
    )
    monkeypatch.setattr(commands.installed, "require", lambda *_: {})
    monkeypatch.setattr(commands.xapi_verdict, "ask", lambda *_: None)

    def scan(source, destination, plan, problems):
        assert source is destination, "within the pool"
        world.disk["physical_utilisation"] = str(2 * GIB)
        return ["not scanned"]

    monkeypatch.setattr(commands.up_to_date, "scan", scan)
    monkeypatch.setattr(commands.room, "require", lambda *given: judged.append(given))
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    plan = commands.migrate(
        world.a, {"vm": world.vm["uuid"], "destination-sr-uuid": shared, "dry-run": "true"}
    )["plan"]
    ((_, source, view, planned, request, _),) = judged
    assert source is view and request.retry_limit == 5
    assert [disk.data for disk in planned.disks] == [GIB // 2, 2 * GIB]
    assert [disk["data"] for disk in plan["disks"]] == [GIB // 2, 2 * GIB]
    assert plan["warnings"] == ["not scanned"]

    def fails(source, destination, plan, problems):
        problems.add("vdi:x", "cannot be scanned")
        return []

    monkeypatch.setattr(commands.up_to_date, "scan", fails)
    with pytest.raises(BadArguments, match="cannot be scanned"):
        commands.migrate(world.a, {"vm": world.vm["uuid"], "destination-sr-uuid": shared})
    assert len(judged) == 1 and journal.all_ids() == []

    def destroyed(source, destination, plan, problems):
        world.a.xenapi.VM.destroy(world.vm_ref)
        return []

    monkeypatch.setattr(commands.up_to_date, "scan", destroyed)
    with pytest.raises(BadArguments, match="destroyed meanwhile"):
        commands.migrate(world.a, {"vm": world.vm["uuid"], "destination-sr-uuid": shared})
    assert len(judged) == 1 and journal.all_ids() == []
