# SPDX-License-Identifier: LGPL-2.1-only
"""The lock on other hosts of the source's pool: who is told, what a hook there makes of it, and
that nothing of it hinders a VM for long."""

import json
import os

import mock
import pytest

from fake_migration import make_plan
from fake_pool import by_name, failure, make_pool, uuid_of
from storage_motion.api import functions, hooks
from storage_motion.errors import BadArguments, JournalError, NoSuchMigration, NotNoted, Unreachable
from storage_motion.journal import arrival
from storage_motion.migration import recovery
from storage_motion.switch import pool_lock
from test_hooks import ID, OTHER, STRANGER, VM, moving, plugged, run

HOST = "55555555-2222-3333-4444-555555555555"
NOTE = {
    "migration": ID,
    "vm": VM,
    "host": HOST,
    "host-name": "a1",
    "disks": json.dumps(["s/l", "s/m"]),
}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


class Source:
    """A pool of three hosts, of which `a3` does not see the SR. `answers`: {host's uuid: what its
    plugin answers, or raises}."""

    def __init__(self, monkeypatch):
        self.pool = make_pool("A", ["a1", "a2", "a3"])
        self.calls, self.answers = [], {}
        self.pool.handlers["host.call_plugin"] = self.plugin
        self.pool.handlers["session.logout"] = lambda: None
        monkeypatch.setattr(pool_lock.sessions, "local", lambda timeout: self.pool)

    def uuid(self, name):
        return uuid_of(self.pool, "host", by_name(self.pool, "host", name))

    def plugin(self, ref, plugin, function, given):
        host = self.pool.tables["host"][ref]["uuid"]
        self.calls.append((host, function, given))
        answer = self.answers.get(host, {})
        if isinstance(answer, Exception):
            raise answer
        return json.dumps(answer)


@pytest.fixture
def source(monkeypatch):
    return Source(monkeypatch)


class M:
    """A migration from a1, as pool_lock sees it."""

    id = ID

    def __init__(self, source, sr):
        disk = make_plan().disks[0]._replace(source_sr=sr)
        self.plan = make_plan(
            vm=VM, source_host=source.uuid("a1"), source_host_name="a1", disks=[disk]
        )
        self.source, self.entry = source.pool, {}

    def note(self, **fields):
        self.entry.update(fields)

    def describe(self, error):
        return [str(error)]


def test_the_other_hosts_that_see_the_disk_are_told_and_told_when_it_is_over(source):
    shared = source.pool.add("SR", name_label="shared", PBDs=[])
    for name, attached in (("a1", True), ("a2", True), ("a3", False)):
        pbd = source.pool.add(
            "PBD",
            host=by_name(source.pool, "host", name),
            SR=shared,
            currently_attached=attached,
            device_config={},
        )
        source.pool.tables["SR"][shared]["PBDs"].append(pbd)
    uuid = uuid_of(source.pool, "SR", shared)
    m = M(source, uuid)
    pool_lock.put(m)
    ((host, function, given),) = source.calls
    assert (host, function, m.entry["locked"]) == (source.uuid("a2"), "lock", [source.uuid("a2")])
    assert given == {
        "migration": ID,
        "vm": VM,
        "host": source.uuid("a1"),
        "host-name": "a1",
        "disks": json.dumps([uuid + "/l"]),
    }
    functions.call("lock", None, given)
    assert pool_lock.read(ID)["disks"] == [uuid + "/l"]
    pool_lock.lift(m)
    assert (
        source.calls[-1] == (source.uuid("a2"), "unlock", {"migration": ID})
        and m.entry["locked"] == []
    )
    functions.call("unlock", None, {"migration": ID})
    functions.call("unlock", None, {"migration": ID})
    assert os.listdir(str(os.path.dirname(pool_lock._path(ID)))) == []
    pool_lock.lift(m)
    assert len(source.calls) == 2


@pytest.mark.parametrize(
    "error",
    [
        failure("HOST_OFFLINE"),
        failure("XENAPI_MISSING_PLUGIN", "sxm.py"),
        Unreachable("x", "y"),
        OSError("cut"),
    ],
)
def test_a_host_that_cannot_be_told_hinders_no_move(source, error):
    m = M(source, "unknown")
    m.entry["locked"] = [source.uuid("a2"), source.uuid("a3")]
    source.answers[source.uuid("a2")] = error
    pool_lock.put(m)
    pool_lock.lift(m)
    assert sorted((host, function) for host, function, _ in source.calls) == sorted(
        (source.uuid(name), function) for name in ("a2", "a3") for function in ("lock", "unlock")
    )


@pytest.mark.parametrize(
    "change", [{"vm": "v"}, {"host": ""}, {"disks": "[]"}, {"disks": "{"}, {"disks": "[1]"}]
)
def test_what_is_wrong_is_not_noted(root, change):
    with pytest.raises(BadArguments):
        pool_lock.lock(None, dict(NOTE, **change))
    assert not (root / "var").exists()


@pytest.mark.parametrize(
    "gate, fields, answer",
    [
        (None, {}, {"disks": [], "ended": False}),
        ("locked", {}, {"disks": ["s/l"], "ended": False}),
        ("open", {"committed": True, "state": "succeeded"}, {"disks": ["s/l"], "ended": True}),
        (
            "opening",
            {"state": "failed", "error": ["X"], "left": ["undecided"]},
            {"disks": ["s/l"], "ended": False},
        ),
        ("attached", {"state": "failed", "error": ["X"]}, {"disks": [], "ended": True}),
    ],
)
def test_what_the_host_of_the_journal_answers(gate, fields, answer):
    moving(gate=gate, **fields)
    assert pool_lock.told(None, {"migration": ID}) == answer


def test_of_a_journal_that_is_forgotten_nothing_is_handed_over_and_of_one_that_cannot_be_read_nobody_knows(  # noqa: E501
    root,
):
    assert pool_lock.told(None, {"migration": ID}) == {"disks": [], "ended": True}
    moving()
    (root / "var/lib/sxm" / (ID + ".json")).write_text("torn")
    with pytest.raises(JournalError):
        pool_lock.told(None, {"migration": ID})


def here(source, disks=("s/l",), root=None):
    """On a2, whose note says that the journal is a1's."""
    pool_lock.lock(None, dict(NOTE, host=source.uuid("a1")))
    if disks is not None:
        plugged(root, *disks)


@pytest.mark.parametrize(
    "answer, allowed, stays",
    [
        ({"disks": ["s/l"], "ended": False}, False, True),
        ({"disks": ["s/m"], "ended": False}, True, True),
        ({"disks": [], "ended": False}, True, True),
        ({"disks": [], "ended": True}, True, False),
        ({"disks": ["s/l"], "ended": True}, False, True),
        (failure("HOST_OFFLINE"), False, True),
        (failure("SXM_JOURNAL", "torn"), False, True),
        (Unreachable("x", "y"), False, True),
        ([], False, True),
        ({}, False, True),
    ],
)
def test_the_hook_asks_the_host_of_the_journal_and_refuses_if_nobody_answers(
    source, root, capsys, answer, allowed, stays
):
    here(source, root=root)
    source.answers[source.uuid("a1")] = answer
    assert run("vm-pre-start") == (0 if allowed else hooks.REFUSED)
    told = capsys.readouterr().out
    assert told == "" if allowed else ID in told and "a1" in told and "s/l" in told
    assert os.path.exists(pool_lock._path(ID)) == stays
    assert source.calls[0][1:] == ("handed-over", {"migration": ID})


@pytest.mark.parametrize(
    "answer, stays",
    [
        ({"disks": [], "ended": True}, False),
        ({"disks": [], "ended": False}, True),
        ({"disks": ["s/l"], "ended": True}, True),
        (failure("HOST_OFFLINE"), True),
        ([], True),
        ({}, True),
    ],
)
def test_a_recovery_asks_about_every_note(source, answer, stays):
    here(source, disks=None)
    source.answers[source.uuid("a1")] = answer
    assert recovery.recover(None, {}) == {"migrations": []}
    assert os.path.exists(pool_lock._path(ID)) == stays and len(source.calls) == 1


def test_one_that_cannot_be_read_hinders_no_recovery(root):
    with open(pool_lock._path(ID), "w") as stream:
        stream.write("torn")
    assert recovery.recover(None, {}) == {"migrations": []} and os.path.exists(pool_lock._path(ID))


def test_nobody_is_asked_for_a_vm_on_other_disks_or_another_vm(source, root):
    here(source, ("d/n", "s/other"), root)
    assert run("vm-pre-start") == run("vm-pre-start", vm=STRANGER) == 0 and source.calls == []
    pool_lock.lock(None, dict(NOTE, migration=OTHER, vm=STRANGER, **{"host-name": VM}))
    assert run("vm-pre-start") == 0 and source.calls == []


def test_one_that_has_arrived_here_needs_nobody_where_its_disks_cannot_be_seen(source, root):
    here(source, None, root)
    source.answers[source.uuid("a1")] = failure("HOST_OFFLINE")
    assert run("vm-pre-start") == hooks.REFUSED
    arrival.note(ID, VM)
    assert run("vm-pre-start") == 0


@pytest.mark.parametrize(
    "text", ["torn, of VM %s" % VM, json.dumps({"migration": ID, "vm": VM}), json.dumps([VM])]
)
def test_a_note_that_cannot_be_read_hinders_the_vm_that_it_names(root, capsys, text):
    path = pool_lock._path(ID)
    with open(path, "w") as stream:
        stream.write(text)
    assert (
        run("vm-pre-start") == hooks.REFUSED
        and "/var/lib/sxm/lock-%s.json" % ID in capsys.readouterr().out
    )
    assert run("vm-pre-start", vm=STRANGER) == 0


def test_a_note_that_is_gone_meanwhile_is_no_error(source, monkeypatch):
    """The journal's host has said `unlock` just now."""
    monkeypatch.setattr(pool_lock.journal, "all_ids", lambda side="": [ID])
    pool_lock.tidy()
    assert source.calls == []
    with pytest.raises(NoSuchMigration):
        pool_lock.read(ID)


def test_a_note_that_cannot_be_removed_does_not_change_the_answer(source, root, monkeypatch):
    here(source, root=root)
    source.answers[source.uuid("a1")] = {"disks": [], "ended": True}
    monkeypatch.setattr(pool_lock, "forget", mock.Mock(side_effect=NotNoted("x", "read-only")))
    assert pool_lock.ask(pool_lock.read(ID)) == set() and os.path.exists(pool_lock._path(ID))


def test_more_disks_than_anybody_has_are_not_read(root):
    disks = json.dumps(["s/l"])
    with pytest.raises(BadArguments):
        pool_lock.lock(None, dict(NOTE, disks=disks + " " * pool_lock.MAX_ARGUMENT))
    assert not (root / "var").exists()
