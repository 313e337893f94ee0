# SPDX-License-Identifier: LGPL-2.1-only
"""What a host says of itself to `sxm doctor`."""

import os
import time

import pytest

import storage_motion
from fake_migration import ID, make_plan
from fake_pool import make_pool
from storage_motion.api import functions, host_facts
from storage_motion.dom0.launch import Process
from storage_motion.journal.journal import RECEIVING, Journal
from storage_motion.migration import migration
from storage_motion.sm.disks.record import COPY, NEW, Record

OTHER = "99999999-2222-3333-4444-555555555555"
THIRD = "88888888-2222-3333-4444-555555555555"
VM = "66666666-2222-3333-4444-555555555555"
GONE = {"pid": 1, "started": 1}


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return make_pool("A", ["a1"])


def facts(pool):
    return functions.call("doctor", pool, {})


def test_a_host_without_anything(pool, monkeypatch):
    monkeypatch.setattr(host_facts.programs, "run", lambda command, seconds: (127, "", "no rpm"))
    found = facts(pool)
    assert found["version"] == storage_motion.__version__
    assert found["packages"] == {"xapi-core": None, "sm": None}
    assert found["installed"]["driver"] is False
    assert (found["journals"], found["unreadable"], found["room"]) == ([], [], None)
    assert abs(found["time"] - time.time()) < 60
    first, last = found["ports"]
    assert 1024 <= first <= found["port"] <= last <= 65535


def test_versions_of_packages(pool, monkeypatch):
    monkeypatch.setattr(
        host_facts.programs, "run", lambda command, seconds: (0, "of %s\n" % command[-1], "")
    )
    assert facts(pool)["packages"] == {"xapi-core": "of xapi-core", "sm": "of sm"}


def receiving(migration, process, **fields):
    receivers = [{"number": 1, "process": process, "keys": [], "port": None}] if process else []
    Journal.create(migration, RECEIVING, vm=VM, disks={}, srs=[], receivers=receivers, **fields)


def test_only_migrations_without_an_end_are_told(pool):
    Journal.create(ID, **migration.initial(make_plan())).write(worker=GONE)
    Journal.create(OTHER, **migration.initial(make_plan())).write(state="succeeded")
    Journal.create(THIRD, **migration.initial(make_plan())).write(state="failed", left=["x: y"])
    mine = Process.of(os.getpid()).to_json()
    receiving(OTHER, GONE)
    receiving(THIRD, mine)
    receiving(ID, None, busy=mine)
    found = facts(pool)
    assert found["unreadable"] == [] and found["room"] > 0
    told = {(one["side"], one["migration"]): one for one in found["journals"]}
    assert sorted(told) == [
        ("destination", ID),
        ("destination", THIRD),
        ("destination", OTHER),
        ("source", ID),
        ("source", THIRD),
    ]
    assert told["source", ID]["vm_name"] == make_plan().vm_name
    assert told["source", ID]["state"] == "running"
    assert told["source", THIRD]["left"] == ["x: y"]
    alive = {key for key, one in told.items() if one["alive"]}
    assert alive == {("destination", THIRD), ("destination", ID)}


def test_what_is_open_to_be_read_for_no_migration(pool):
    """A record that is being written is none yet; one of a disk that receives is no leftover."""
    for role, vdi in ((COPY, "lost"), (COPY, "base"), (COPY, "copied"), ("receive", "new")):
        Record(role, vdi).write({})
    os.rename(Record(COPY, "base")._path, Record(COPY, "base")._path + NEW)
    entry = Journal.create(ID, **migration.initial(make_plan()))
    (key,) = entry.entry["disks"]
    entry.write_disks({key: {"copy_open": "copied"}})
    assert facts(pool)["read"] == ["lost"]


def test_a_journal_that_cannot_be_trusted_is_told(pool):
    path = Journal.create(ID, **migration.initial(make_plan())).path
    with open(path, "w") as out:
        out.write("{")
    found = facts(pool)
    assert found["journals"] == []
    ((code, *details),) = found["unreadable"]
    assert code == "SXM_JOURNAL" and path in details[0]
