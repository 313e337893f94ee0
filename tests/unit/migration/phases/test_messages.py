# SPDX-License-Identifier: LGPL-2.1-only
"""Messages go at the source when they have been seen at the destination, one by one; whatever
happens is no more than a warning."""

import pytest

from fake_migration import make_plan
from fake_pool import add_vm, by_name, failure, make_pool, uuid_of
from storage_motion.errors import JournalNotWritten, Unreachable
from storage_motion.migration.phases import messages
from storage_motion.xapi import sent_messages


class Moved:
    """A VM that has arrived in pool B, with two messages about it in pool A. `lost(record)`:
    whether the destination loses that one."""

    def __init__(self, monkeypatch):
        self.source, self.destination = make_pool("A", ["a1"]), make_pool("B", ["b1"])
        host = by_name(self.destination, "host", "b1")
        guests = by_name(self.destination, "network", "guests")
        uuid = uuid_of(self.destination, "VM", add_vm(self.destination, host, [], guests))
        self.source.add("VM", uuid=uuid)
        self.about = [self._message(uuid, "one"), self._message(uuid, "two")]
        self.other = self._message("another VM's", "three")
        self.plan = make_plan(vm=uuid, master="https://b")
        self.id, self.warnings, self.sent = "m", [], []
        self.lost = lambda record: False
        monkeypatch.setattr(sent_messages, "send", self._send)

    def _message(self, uuid, body):
        return self.source.add(
            "message", name="ALARM", priority="3", cls="VM", obj_uuid=uuid, timestamp="t", body=body
        )

    def _send(self, url, session, vm, found):
        assert (url, session, vm) == ("https://b", self.destination, self.plan.vm)
        self.sent.append(sorted(found))
        table = self.destination.tables.setdefault("message", {})
        for ref, record in found.items():
            if not self.lost(record):
                table.setdefault(ref, record)

    def warn(self, text):
        self.warnings.append(text)

    def move(self):
        messages.move(self)
        return sorted(self.source.tables["message"])

    def there(self):
        return sorted(self.destination.tables.get("message", {}))


@pytest.fixture
def moved(monkeypatch):
    return Moved(monkeypatch)


def test_they_move(moved):
    assert moved.move() == [moved.other]
    assert moved.there() == moved.about and moved.warnings == []


def test_what_has_not_arrived_stays_and_is_told(moved):
    moved.lost = lambda record: record["body"] == "one"
    assert moved.move() == sorted([moved.about[0], moved.other])
    (warning,) = moved.warnings
    assert "1 messages (alerts) about VM web could not be moved" in warning
    assert "xe message-list obj-uuid=%s" % moved.plan.vm in warning
    moved.lost = lambda record: False  # a recovery
    assert moved.move() == [moved.other]


def test_what_has_arrived_otherwise_has_not(moved):
    record = dict(moved.source.tables["message"][moved.about[0]], body="on")
    moved.destination.tables["message"] = {moved.about[0]: record}
    assert moved.move() == sorted([moved.about[0], moved.other])


def test_those_that_were_sent_before_a_kill_are_not_sent_again(moved):
    moved.destination.tables["message"] = {
        ref: dict(moved.source.tables["message"][ref]) for ref in moved.about[:1]
    }
    assert moved.move() == [moved.other] and moved.sent == [moved.about[1:]]
    assert moved.move() == [moved.other] and len(moved.sent) == 1


def test_one_that_somebody_has_deleted_meanwhile(moved):
    destroy = []

    def gone(ref):
        destroy.append(ref)
        raise failure("HANDLE_INVALID", "message", ref)

    moved.source.handlers["message.destroy"] = gone
    moved.move()
    assert destroy == moved.about and moved.warnings == []


@pytest.mark.parametrize(
    "trouble",
    [
        Unreachable("b", "PUT /messages: refused"),
        OSError(5, "no"),
        failure("INTERNAL_ERROR", "x"),
        AttributeError("of what is no struct"),
    ],
    ids=lambda trouble: trouble.__class__.__name__,
)
@pytest.mark.parametrize("where", ["get at the source", "get", "destroy", "send"])
def test_nothing_of_it_makes_the_migration_fail(moved, monkeypatch, where, trouble):
    def fail(*_):
        raise trouble

    if where == "send":
        monkeypatch.setattr(sent_messages, "send", fail)
    else:
        pool = moved.destination if where == "get" else moved.source
        pool.handlers["message." + where.split()[0]] = fail
    assert set(moved.move()) == set(moved.about + [moved.other])
    (warning,) = moved.warnings
    assert "the messages (alerts) about VM web could not be moved" in warning


def test_a_journal_that_cannot_be_written_stops_the_worker(moved):
    def warn(text):
        raise JournalNotWritten("p", "full")

    moved.lost, moved.warn = (lambda record: True), warn
    with pytest.raises(JournalNotWritten):
        moved.move()


def test_a_xapi_that_is_just_restarted_costs_nothing(moved, monkeypatch):
    send, failed = sent_messages.send, []

    def fail_once(url, *arguments):
        if not failed:
            failed.append(url)
            raise Unreachable(url, "PUT /messages: Connection refused")
        send(url, *arguments)

    monkeypatch.setattr(sent_messages, "send", fail_once)
    assert moved.move() == [moved.other] and moved.warnings == []


def test_when_there_is_nothing_to_do(moved):
    moved.plan = moved.plan._replace(kind="intra-pool")
    assert len(moved.move()) == 3
    moved.plan = moved.plan._replace(kind="cross-pool")
    moved.source.tables["VM"].clear()  # xapi tells messages of no VM that it does not know
    assert len(moved.move()) == 3 and moved.warnings == []
