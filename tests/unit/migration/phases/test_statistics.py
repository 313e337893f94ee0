# SPDX-License-Identifier: LGPL-2.1-only
"""Statistics go to where the VM is, are looked for there, and leave the source only then; whatever
happens is no more than a warning."""

import os

import pytest

from fake_migration import make_plan
from fake_pool import add_vm, by_name, failure, make_pool, uuid_of
from storage_motion.dom0 import root
from storage_motion.errors import JournalNotWritten, Unreachable
from storage_motion.migration.phases import statistics
from storage_motion.xapi import rrd

OURS, FRESH = b"ours", b"fresh"
MASTER = "https://b0"
HOST = "https://b1"
ID = "11111111-2222-3333-4444-555555555555"


class Moved:
    """A VM that has arrived on host b1 of pool B (`cross_pool`), or on a2 of its own; and what each
    rrdd has of it: `memory` and `archive` at the source, `there`: {url: RRD}. `deaf`: urls where
    nothing arrives."""

    def __init__(self, monkeypatch, cross_pool=True, live=True, **plan):
        self.source = make_pool("A", ["a1", "a2"])
        self.destination = make_pool("B", ["b1"]) if cross_pool else self.source
        self.where = by_name(self.destination, "host", "b1" if cross_pool else "a2")
        guests = by_name(self.destination, "network", "guests")
        self.vm = add_vm(self.destination, self.where, [], guests)
        uuid = uuid_of(self.destination, "VM", self.vm)
        if cross_pool:
            self.source.add("VM", uuid=uuid)
        self.plan = make_plan(
            kind="cross-pool" if cross_pool else "intra-pool",
            live=live,
            vm=uuid,
            master=MASTER if cross_pool else "",
            source_host=uuid_of(self.source, "host", by_name(self.source, "host", "a1")),
            destination_host=uuid_of(self.destination, "host", self.where),
            network=uuid_of(self.destination, "network", guests),
            **plan,
        )
        self.id, self.warnings, self.steps = ID, [], []
        self.memory, self.archived = OURS if live else None, None
        self.there, self.deaf = {HOST: FRESH}, ()
        self.dated = True  # what rrdd there reads
        self.destination.handlers["host.migrate_receive"] = self._receive
        for name in ("in_memory", "of_own_pool", "at", "send", "archive"):
            monkeypatch.setattr(rrd, name, getattr(self, "_" + name))
        monkeypatch.setattr(rrd, "holds", lambda there, ours: there.startswith(ours))
        monkeypatch.setattr(statistics.receiving_host, "leave", lambda *_: self.steps.append("end"))

    def host(self):
        return self.where

    def warn(self, text):
        self.warnings.append(text)

    def move(self):
        statistics.move(self)
        return self.steps

    def _receive(self, host, network, options):
        assert host == self.where
        return {"xenops": HOST + "/services/xenops?session_id=s", "session_id": "s"}

    def _in_memory(self, vm):
        assert vm == self.plan.vm
        return self.memory

    def _of_own_pool(self, session, vm):
        assert session is self.source
        return self.memory or self.archived

    def _at(self, url, session, vm):
        assert session is self.destination
        return self.there.get(url)

    def _send(self, url, session, vm, document, archive, dated):
        self.steps.append(("send", url, archive))
        if url not in self.deaf and dated == self.dated:
            self.there[url] = document + b" and what came since"

    def _archive(self, session, host, vm):
        assert session is self.source and uuid_of(session, "host", host) == self.plan.source_host
        self.steps.append("archive")
        self.memory, self.archived = None, self.memory


@pytest.fixture(autouse=True)
def dom0(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    monkeypatch.setattr(root, "free_bytes", lambda here: 1 << 40)


@pytest.fixture(params=[True, False], ids=["cross-pool", "intra-pool"])
def moved(request, monkeypatch):
    return Moved(monkeypatch, cross_pool=request.param)


def test_they_go_to_the_vms_host(moved):
    assert moved.move() == [("send", HOST, False), "end", "archive"]
    assert moved.there[HOST].startswith(OURS) and moved.warnings == []


def test_an_older_rrdd_has_them_as_it_reads_them(moved):
    moved.dated = False
    assert moved.move() == [("send", HOST, False)] * 2 + ["end", "archive"]
    assert moved.there[HOST].startswith(OURS) and moved.warnings == []


def test_an_older_rrdd_may_cut_the_connection_at_what_it_does_not_read(moved, monkeypatch):
    moved.dated, send = False, rrd.send

    def cut(url, session, vm, document, archive, dated):
        if dated:
            raise Unreachable(url, "PUT /rrd: handshake failed")
        send(url, session, vm, document, archive, dated)

    monkeypatch.setattr(rrd, "send", cut)
    assert moved.move() == [("send", HOST, False), "end", "archive"] and moved.warnings == []


def test_what_has_arrived_is_not_put_over_what_came_since(moved):
    """By a worker that was killed, or while the source's archive gave no answer."""
    moved.there[HOST] = OURS + b" and more"
    assert moved.move() == ["end", "archive"]
    assert moved.there[HOST] == OURS + b" and more"


def test_once_they_are_moved_nothing_is_left_to_do(moved):
    moved.move()
    del moved.steps[:]
    assert [step for step in moved.move() if step != "end"] == []


def test_what_does_not_arrive_stays(moved):
    """Or is kept, where it goes with the VM."""
    moved.deaf = (HOST,)
    assert moved.move() == [("send", HOST, False)] * 2 + ["end"]
    (warning,) = moved.warnings
    assert "statistics (RRD) of VM web could not be moved to host i" in warning
    assert moved.memory == OURS
    path = "/var/lib/sxm/kept-%s-rrd.xml" % ID
    if moved.plan.cross_pool:
        assert "it is kept for 30 days in %s of host" % path in warning
        with open(root.path(path), "rb") as file:
            assert file.read() == OURS
    else:
        assert path not in warning and not os.path.exists(root.path(path))


def test_what_the_peer_says_is_what_is_told(moved, monkeypatch):
    def refuse(url, *_):
        raise Unreachable(url, "PUT /rrd: HTTP status 500, behind a 200")

    monkeypatch.setattr(rrd, "send", refuse)
    moved.move()
    assert "PUT /rrd: HTTP status 500, behind a 200" in moved.warnings[0]


@pytest.mark.parametrize(
    "trouble",
    [
        Unreachable(HOST, "PUT /rrd: refused"),
        OSError(5, "no"),
        failure("PIF_HAS_NO_NETWORK", "x"),
        AttributeError("of what is no struct"),
    ],
    ids=lambda trouble: trouble.__class__.__name__,
)
@pytest.mark.parametrize("call", ["in_memory", "at", "send", "archive"])
def test_nothing_of_it_makes_the_migration_fail(moved, monkeypatch, call, trouble):
    def fail(*arguments, **named):
        raise trouble

    monkeypatch.setattr(rrd, call, fail)
    moved.move()
    (warning,) = moved.warnings
    assert moved.memory == OURS
    assert ("have moved" in warning) == (call == "archive"), "else they could not be"


def test_a_xapi_that_is_just_restarted_costs_nothing(moved, monkeypatch):
    send, failed = rrd.send, []

    def fail_once(url, *arguments):
        if not failed:
            failed.append(url)
            raise Unreachable(url, "PUT /rrd: Connection refused")
        send(url, *arguments)

    monkeypatch.setattr(rrd, "send", fail_once)
    sent = ("send", HOST, False)
    assert moved.move() == [sent, "end", sent, "end", "archive"], "the first is of the other form"
    assert moved.warnings == [] and failed == [HOST]


def test_a_journal_that_cannot_be_written_is_told(moved):
    def warn(text):
        raise JournalNotWritten("p", "full")

    moved.deaf, moved.warn = (HOST,), warn
    with pytest.raises(JournalNotWritten):
        moved.move()


def test_those_that_the_master_has_by_now_go_as_well(monkeypatch):
    """The source's xapi has noted the VM as halted before."""
    moved = Moved(monkeypatch)
    moved.memory, moved.archived = None, OURS
    assert moved.move() == [("send", HOST, False), "end"]


def test_of_a_vm_that_does_not_run_the_new_master_keeps_them(monkeypatch):
    halted = Moved(monkeypatch, live=False)
    halted.archived = OURS
    assert halted.move() == [("send", MASTER, True)]
    ended = Moved(monkeypatch)
    ended.destination.tables["VM"][ended.vm]["power_state"] = "Halted"
    assert ended.move() == [("send", MASTER, True), "archive"]


def test_within_the_pool_the_master_keeps_them(monkeypatch):
    ended = Moved(monkeypatch, cross_pool=False)
    ended.destination.tables["VM"][ended.vm]["power_state"] = "Halted"
    assert ended.move() == ["archive"]
    assert Moved(monkeypatch, cross_pool=False, live=False).move() == []


def test_a_vm_without_any(moved):
    moved.memory = None
    assert moved.move() == [] and moved.warnings == []


def test_on_the_same_host_nothing_is_done(monkeypatch):
    moved = Moved(monkeypatch, cross_pool=False)
    moved.plan = moved.plan._replace(destination_host=moved.plan.source_host)
    assert moved.plan.same_host and moved.move() == []


def test_when_the_vm_is_gone_at_the_source_nothing_is_done(monkeypatch):
    moved = Moved(monkeypatch)
    moved.source.tables["VM"].clear()
    assert moved.move() == []
