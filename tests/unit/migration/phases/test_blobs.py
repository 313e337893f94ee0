# SPDX-License-Identifier: LGPL-2.1-only
"""A blob has come along when what is in it has been read at the destination; what has not is kept;
whatever happens is no more than a warning."""

import contextlib
import os

import pytest

from fake_migration import make_plan
from fake_pool import add_vm, by_name, failure, make_pool, uuid_of
from storage_motion.dom0 import inventory, root
from storage_motion.errors import JournalNotWritten, Unreachable
from storage_motion.journal import kept_files
from storage_motion.migration import durable
from storage_motion.migration.phases import blobs as phase
from storage_motion.xapi import blobs, unanswered

MASTER = "https://b0"
ID = "11111111-2222-3333-4444-555555555555"


class Moved:
    """A VM that has arrived in pool B, with two blobs in pool A. `files`: {(where, ref): bytes};
    where: a host of A, or MASTER. `spoil(bytes)`: what the destination takes of them."""

    def __init__(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SXM_ROOT", str(tmp_path))
        monkeypatch.setattr(root, "free_bytes", lambda here: 1 << 40)
        self.source, self.destination = make_pool("A", ["a1", "a2"]), make_pool("B", ["b1"])
        self.master, self.member = [by_name(self.source, "host", name) for name in ("a1", "a2")]
        self.silent = set()  # of the hosts of A
        own = uuid_of(self.source, "host", self.member)
        monkeypatch.setattr(inventory, "host_uuid", lambda: own)
        guests = by_name(self.destination, "network", "guests")
        self.there = add_vm(self.destination, by_name(self.destination, "host", "b1"), [], guests)
        self.destination.tables["VM"][self.there]["blobs"] = {}
        uuid = uuid_of(self.destination, "VM", self.there)
        self.files = {}
        self.about = {"note": self._blob(b"a note", self.master), "shot": self._blob(b"", None)}
        self.vm = self.source.add("VM", uuid=uuid, blobs=dict(self.about))
        self.plan = make_plan(vm=uuid, master=MASTER)
        self.id, self.warnings, self.entry, self.sent = ID, [], {}, []
        self.spoil = lambda content: content
        self.destination.handlers["VM.create_new_blob"] = self._create
        self.source.handlers["host.migrate_receive"] = lambda host, network, options: {
            "xenops": "https://%s/services/xenops" % uuid_of(self.source, "host", host),
            "session_id": "s",
        }
        monkeypatch.setattr(blobs.receiving_host, "leave", lambda *_: None)
        monkeypatch.setattr(blobs, "at", self._at)
        monkeypatch.setattr(blobs, "send", self._send)
        monkeypatch.setattr(durable.database, "sync", lambda session: session.sync())

    def _blob(self, content, where, size=None):
        fields = {"mime_type": "text/plain", "public": False, "name_label": "label"}
        size = str(len(content) if size is None else size)
        ref = self.source.add("blob", size=size, name_description="", **fields)
        if where:
            self.files[where, ref] = content
        return ref

    def _create(self, vm, name, mime_type, public):
        assert vm == self.there and (mime_type, public) == ("text/plain", False)
        ref = self.destination.add("blob", size="0", name_label="", name_description="")
        self.destination.tables["VM"][vm]["blobs"][name] = ref
        return ref

    @contextlib.contextmanager
    def _at(self, url, session, ref):
        master = "https://" + uuid_of(self.source, "host", self.master)
        where = {"": self.member, MASTER: MASTER, master: self.master}[url]
        if where in self.silent:
            raise Unreachable(url, "no answer")
        content = self.files.get((where, ref))
        yield content if content is None else unanswered.Content(len(content), iter([content]))

    def _send(self, url, session, ref, length, pieces):
        content = b"".join(pieces)
        assert url == MASTER and length == len(content)
        self.sent.append(content)
        self.files[MASTER, ref] = self.spoil(content)
        self.destination.tables["blob"][ref]["size"] = str(len(self.files[MASTER, ref]))

    def warn(self, text, **fields):
        self.warnings.append(text)
        self.note(**fields)

    def note(self, key=None, **fields):
        self.entry.update(fields)

    def move(self):
        """{name: what is in it at the destination, None without a file}."""
        phase.move(self)
        refs = self.destination.tables["VM"][self.there]["blobs"]
        return {name: self.files.get((MASTER, ref)) for name, ref in refs.items()}

    def kept(self):
        directory = root.path("/var/lib/sxm")
        names = os.listdir(directory) if os.path.isdir(directory) else []
        return [open(os.path.join(directory, name), "rb").read() for name in names]


@pytest.fixture
def moved(monkeypatch, tmp_path):
    return Moved(monkeypatch, tmp_path)


def test_they_move_with_what_is_in_them_and_said_of_them(moved):
    assert moved.move() == {"note": b"a note", "shot": None}
    assert moved.warnings == [] and moved.destination.syncs == 1 and moved.kept() == []
    ref = moved.destination.tables["VM"][moved.there]["blobs"]["note"]
    assert moved.destination.tables["blob"][ref]["name_label"] == "label"


def test_what_has_come_along_is_its_owners(moved):
    """Also for a worker that takes up again what was killed, and that lacks no blob."""
    moved.move()
    ref = moved.destination.tables["VM"][moved.there]["blobs"]["note"]
    moved.files[MASTER, ref] = b"edited"
    assert moved.move()["note"] == b"edited" and moved.sent == [b"a note"]


def test_one_that_was_begun_is_gone_on_with(moved):
    ref = moved._create(moved.there, "note", "text/plain", False)
    moved.files[MASTER, ref] = b"a n"
    assert moved.move() == {"note": b"a note", "shot": None}
    assert len(moved.destination.tables["blob"]) == 2


def test_one_that_the_destination_forgets_is_moved_again(moved):
    sync, forgotten = moved.destination.sync, []

    def forget(bound=None):
        if not forgotten:
            forgotten.append(moved.destination.tables["VM"][moved.there]["blobs"].pop("note"))
        sync()

    moved.destination.sync = forget
    assert moved.move() == {"note": b"a note", "shot": None} and moved.warnings == []


@pytest.mark.parametrize("spoil", [lambda content: content[:-1], lambda content: b"A note"])
def test_what_has_not_arrived_whole_is_told_and_kept(moved, spoil):
    moved.spoil = spoil
    moved.move()
    (warning,) = moved.warnings
    assert "blob note of VM web could not be moved to its new pool" in warning
    assert "it is kept for 30 days in /var/lib/sxm/kept-%s-" % ID in warning
    assert moved.kept() == [b"a note"] and moved.sent == [b"a note"] * 2, "tried twice"


def test_the_hosts_file_that_is_as_long_as_xapi_says_is_it(moved):
    """It is where somebody has put it; the members' copies of the master's are of yesterday."""
    ref = moved.about["note"]
    moved.files[moved.member, ref] = moved.files[moved.master, ref]
    moved.files[moved.master, ref] = b"older"
    assert moved.move()["note"] == b"a note"


def test_one_that_no_host_has_is_told(moved):
    del moved.files[moved.master, moved.about["note"]]
    moved.move()
    (warning,) = moved.warnings
    assert "no host of the pool has it" in warning and "nothing of it at the source" in warning


def test_one_that_is_too_large_is_told(moved, monkeypatch):
    monkeypatch.setattr(blobs, "LARGEST", 3)
    moved.move()
    assert moved.sent == [] and "it has more than" in moved.warnings[0]
    assert moved.kept() == [b"a note"]


@pytest.mark.parametrize(
    "trouble",
    [
        Unreachable("b", "PUT /blob: refused"),
        OSError(5, "no"),
        failure("INTERNAL_ERROR", "x"),
        AttributeError("of what is no struct"),
    ],
    ids=lambda trouble: trouble.__class__.__name__,
)
@pytest.mark.parametrize("where", ["send", "find", "make", "of_vm", "sync"])
def test_nothing_of_it_makes_the_migration_fail(moved, monkeypatch, where, trouble):
    """And what the destination may not have, or may forget, is kept: the VM goes next."""
    of_vm = blobs.of_vm

    def fail(*_):
        raise trouble

    def not_there(session, vm):
        return of_vm(session, vm) if session is moved.source else fail()

    if where == "sync":
        moved.destination.sync = fail
    else:
        monkeypatch.setattr(blobs, where, not_there if where == "of_vm" else fail)
    phase.move(moved)
    assert moved.warnings and all("could not be moved" in warning for warning in moved.warnings)
    assert moved.kept() == [b"a note"]


def test_while_the_source_does_not_say_which_there_are_none_is_deleted(moved, monkeypatch):
    monkeypatch.setattr(blobs, "of_vm", lambda *_: (_ for _ in ()).throw(OSError(5, "no")))
    with pytest.raises(OSError):
        phase.move(moved)


def test_what_is_kept_is_not_tried_nor_told_again(moved):
    """By a clean-up that is repeated."""
    moved.spoil = lambda content: b""
    moved.move()
    assert len(moved.sent) == 2 and len(moved.warnings) == 1
    moved.move()
    assert len(moved.sent) == 2 and len(moved.warnings) == 1 and moved.kept() == [b"a note"]


def test_what_there_was_no_room_for_is_tried_again(moved, monkeypatch):
    moved.spoil = lambda content: b""
    monkeypatch.setattr(kept_files, "MOST", 1)
    moved.move()
    assert "is not kept" in moved.warnings[0] and moved.kept() == []
    moved.spoil = lambda content: content
    assert moved.move()["note"] == b"a note"


def test_one_whose_length_the_destination_forgets_is_moved_again(moved):
    """Its database of minutes ago has the record, as it was made."""
    sync, forgotten = moved.destination.sync, []

    def forget(bound=None):
        if not forgotten:
            forgotten.append(moved.destination.tables["VM"][moved.there]["blobs"]["note"])
            moved.destination.tables["blob"][forgotten[0]]["size"] = "0"
        sync()

    moved.destination.sync = forget
    moved.move()
    assert moved.destination.tables["blob"][forgotten[0]]["size"] == "6"
    assert moved.sent == [b"a note"] * 2 and moved.warnings == []


def test_one_of_a_host_in_maintenance_moves(moved):
    ref = moved.about["note"]
    moved.source.tables["host"][moved.member]["enabled"] = False
    moved.files[moved.member, ref] = moved.files.pop((moved.master, ref))
    assert moved.move()["note"] == b"a note" and moved.warnings == []


def test_an_older_file_does_not_count_while_a_host_is_silent(moved):
    """The silent one may have what xapi speaks of. What there is, is kept."""
    moved.files[moved.master, moved.about["note"]] = b"older"
    moved.silent.add(moved.member)
    moved.move()
    assert moved.sent == [] and moved.kept() == [b"older"]
    warning = [text for text in moved.warnings if "blob note" in text][0]
    assert "not of the 6 bytes that xapi says, and there may be a newer one" in warning
    assert "no answer" in warning


def test_an_older_file_counts_where_all_hosts_answer(moved):
    """Then it is all that there is."""
    moved.files[moved.master, moved.about["note"]] = b"older"
    assert moved.move()["note"] == b"older" and moved.warnings == []


def test_a_journal_that_cannot_be_written_stops_the_worker(moved):
    def warn(text, **_):
        raise JournalNotWritten("p", "full")

    moved.spoil, moved.warn = (lambda content: b""), warn
    with pytest.raises(JournalNotWritten):
        moved.move()


def test_when_there_is_nothing_to_do(moved):
    moved.plan = moved.plan._replace(kind="intra-pool")
    assert moved.move() == {}
    moved.plan = moved.plan._replace(kind="cross-pool")
    moved.source.tables["VM"].clear()
    assert moved.move() == {} and moved.warnings == [] and moved.destination.syncs == 0
