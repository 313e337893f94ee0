# SPDX-License-Identifier: LGPL-2.1-only
"""The journal: after a crash at any point it is the old one or the new one, whole."""

import copy
import errno
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from storage_motion.errors import JournalError, JournalNotWritten, NoSuchMigration
from storage_motion.journal import journal, secret_files
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration
from storage_motion.plan.plan import Plan

ID = "11111111-2222-3333-4444-555555555555"
PLAN = Plan(
    kind="cross-pool",
    live=True,
    vm="v",
    vm_name="web",
    source_host="h",
    source_host_name="a1",
    destination_host="d",
    destination_host_name="b1",
    master="https://10.0.0.1",
    network="n",
    address="10.0.0.2",
    disks=[],
    staying=[],
    cds=[],
    vifs=[],
    check_cpu=True,
    compress=False,
)


def begin(one=ID, **fields):
    return Journal.create(one, **dict(migration.initial(PLAN), **fields))


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return tmp_path


def test_it_comes_back(root):
    begin().write(phase="sync")
    entry = Journal.load(ID).entry
    assert (
        entry["phase"] == "sync"
        and Plan.from_json(entry["plan"]) == PLAN
        and entry["state"] == "running"
    )
    assert os.stat(str(root / "var/lib/sxm")).st_mode & 0o777 == 0o700
    assert os.stat(str(root / "var/lib/sxm" / (ID + ".json"))).st_mode & 0o777 == 0o600


def test_a_line_for_each_field(root):
    """By which rpm/migrations.lua knows one that runs, whatever a field may hold."""
    one = journal.Journal.create(ID, disks={"a": {"gate": 'x"\n "state": "running"'}})
    one.write(state=journal.FAILED)
    with open(one.path) as source:
        lines = source.read().split("\n")
    assert [lines[0], lines[-1]] == ["{", "}"]
    names = [line.split('"')[1] for line in lines[1:-1]]
    assert names == sorted(one.entry) and all(line.startswith(' "') for line in lines[1:-1])
    assert ' "state": "failed",' in lines


def test_there_is_one_of_each():
    begin()
    with pytest.raises(JournalError):
        begin()
    Journal.create(ID, journal.RECEIVING)
    assert journal.all_ids() == [ID] and journal.all_ids(journal.RECEIVING) == [ID]


CALLS = ("open", "fdopen", "fsync", "rename", "close")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("count", range(1, 4))
@pytest.mark.parametrize("after", (False, True))
def test_a_crash_at_every_call(monkeypatch, name, count, after):
    kept = begin(phase="old")
    left = [count]
    real = getattr(os, name)

    def crashing(*arguments, **options):
        left[0] -= 1
        if left[0]:
            return real(*arguments, **options)
        if after:
            real(*arguments, **options)
        raise Crash()

    with monkeypatch.context() as patched:
        patched.setattr(os, name, crashing)
        try:
            kept.write(phase="new")
            crashed = False
        except Crash:
            crashed = True
    found = Journal.load(ID).entry["phase"]
    assert found in ("old", "new") and (crashed or found == "new")
    Journal.load(ID).write(phase="newer")
    assert Journal.load(ID).entry["phase"] == "newer"


def test_file_and_directory_are_synced_around_the_rename(monkeypatch):
    kept, order = begin(), []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os,
            name,
            lambda *arguments, name=name, real=real: (order.append(name), real(*arguments))[1],
        )
    kept.write()
    assert order == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version": 2}',
        b'{"version": 1, "migration": "x", "state": "running"}',
        json.dumps({"version": 1, "migration": ID, "state": "dreaming"}).encode(),
        b"\xff",
        b"[" * 100000,
    ],
)
def test_what_is_no_journal_is_refused(root, text):
    begin()
    (root / "var/lib/sxm" / (ID + ".json")).write_bytes(text)
    with pytest.raises(JournalError):
        Journal.load(ID)


@pytest.mark.parametrize(
    "field, value",
    [
        ("plan", {}),
        ("plan", dict(PLAN.to_json(), vm=7)),
        ("disks", None),
        ("worker", {"pid": "1"}),
        ("worker", 4),
        ("begun", [None]),
        ("committed", 1),
        ("started", "now"),
        ("phase", 3),
        ("error", []),
        ("warnings", "a sentence"),
        ("warnings", [1]),
        ("ha_restart_priority", None),
        ("cbt_disabled", "a UUID"),
        ("cbt_disabled", [None]),
    ],
)
def test_a_field_that_is_not_what_it_should_be(field, value):
    begin(**{field: value})
    with pytest.raises(JournalError):
        Journal.load(ID)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path, text):
    os.environ["SXM_ROOT"] = str(tmp_path)
    directory = tmp_path / "var/lib/sxm"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / (ID + ".json")).write_bytes(text)
    with pytest.raises(JournalError):
        Journal.load(ID)


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc/passwd", ID + "/..", ID + "\n", ID.replace("1", "A"), 7, None]
)
def test_an_id_is_an_id(name):
    with pytest.raises(NoSuchMigration):
        Journal.load(name)
    with pytest.raises(NoSuchMigration):
        secret_files.keep(name, "remote", {})


def test_unknown():
    with pytest.raises(NoSuchMigration):
        Journal.load(ID)


def test_the_oldest_that_ended_are_forgotten(monkeypatch):
    monkeypatch.setattr(journal, "KEPT", 1)
    ids = ["%08d-2222-3333-4444-555555555555" % number for number in range(4)]
    for number, one in enumerate(ids):
        entry = begin(one)
        entry.write(state="succeeded" if number else "running")
        os.utime(entry.path, (number, number))
    journal.prune()
    assert journal.all_ids() == [ids[3], ids[0]], "one that runs is kept, whatever its age"


def test_secrets_are_for_root_alone_and_go(root):
    secret_files.keep(ID, "remote", {"password": "hush"})
    path = root / "run/sxm" / ID
    assert (
        os.stat(str(path)).st_mode & 0o777 == 0o700
        and os.stat(str(path / "remote.json")).st_mode & 0o777 == 0o600
    )
    assert secret_files.get(ID, "remote") == {"password": "hush"}
    secret_files.forget_all(ID)
    secret_files.forget_all(ID)
    assert not path.exists()


@pytest.mark.parametrize("whole", [True, False])
def test_a_word_that_goes_or_comes_while_all_is_removed_is_no_error(root, monkeypatch, whole):
    """Who leaves one too late takes it away himself (late_word.py)."""
    secret_files.keep(ID, "remote", {"password": "hush"})
    path = root / "run/sxm" / ID
    (path / "resume").write_text("")
    unlink, rmdir = os.unlink, os.rmdir

    def meanwhile(name, *arguments, **options):
        if os.path.basename(str(name)) == "resume" and (path / "resume").exists():
            unlink(str(path / "resume"))
        return unlink(name, *arguments, **options)

    def removing(name, *arguments, **options):
        if not whole:
            (path / "cancel").write_text("")
        return rmdir(name, *arguments, **options)

    monkeypatch.setattr(os, "unlink", meanwhile)
    monkeypatch.setattr(os, "rmdir", removing)
    secret_files.forget_all(ID)
    assert path.exists() is not whole and not (path / "remote.json").exists()


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("function", ["open", "fsync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_what_could_not_be_written_is_not_so(root, monkeypatch, function, number):
    entry = begin()
    entry.write_disks({"k": {"state": "waiting"}})
    before, on_disk = copy.deepcopy(entry.entry), open(entry.path).read()
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, function, failing(number))
        for write in (
            lambda: entry.write(phase="sync"),
            lambda: entry.write_disks({"k": {"state": "copying"}}),
            lambda: entry.write_disks({"new": {"state": "waiting"}}),
            lambda: begin(ID[:-1] + "6"),
        ):
            with pytest.raises(JournalNotWritten) as raised:
                write()
            assert (
                raised.value.code == "SXM_JOURNAL_NOT_WRITTEN"
                and os.strerror(number) in raised.value.details
            )
            assert entry.entry == before and open(entry.path).read() == on_disk
    assert os.listdir(str(root / "var/lib/sxm")) == [ID + ".json"], "nothing half written stays"
    entry.write_disks({"k": {"state": "copying"}})
    assert Journal.load(ID).entry == entry.entry and entry.entry["disks"]["k"] == {
        "state": "copying"
    }


def test_who_holds_a_disk_of_it_sees_it_change():
    entry = begin()
    entry.write_disks({"k": {"state": "waiting"}})
    disk = entry.entry["disks"]["k"]
    entry.write_disks({"k": {"gate": "open"}})
    assert disk == {"state": "waiting", "gate": "open"}


def test_one_that_cannot_be_removed(monkeypatch):
    entry = begin()
    monkeypatch.setattr(journal.os, "unlink", failing(errno.EROFS))
    with pytest.raises(JournalNotWritten):
        entry.remove()
    assert journal.all_ids() == [ID]


def test_one_that_cannot_be_read(monkeypatch):
    begin()
    monkeypatch.setattr("builtins.open", failing(errno.EIO))
    with pytest.raises(JournalError):
        Journal.load(ID)


def test_one_that_nobody_can_read_any_more_is_kept_for_whoever_looks_at_it(monkeypatch):
    monkeypatch.setattr(journal, "KEPT", 0)
    ids = ["%08d-2222-3333-4444-555555555555" % number for number in range(2)]
    for one in ids:
        begin(one).write(state="succeeded")
    with open(journal._path(ids[0], journal.SOURCE), "w") as stream:
        stream.write("torn")
    journal.prune()
    assert journal.all_ids() == ids[:1], "and the others go all the same"


def test_one_that_is_larger_than_any_journal_is_not_read_to_its_end(root, monkeypatch):
    path = begin().path
    monkeypatch.setattr(journal, "MAX_BYTES", os.path.getsize(path))
    assert Journal.load(ID).entry["migration"] == ID
    with open(path, "a") as stream:
        stream.write(" ")
    with pytest.raises(JournalError, match="more than %d bytes" % journal.MAX_BYTES):
        Journal.load(ID)


def test_where_there_can_be_no_directory_for_journals_nothing_begins(root):
    (root / "var").write_text("a file is in its place")
    for begun in (begin, lambda: journal.one_at_a_time().__enter__()):
        with pytest.raises(JournalNotWritten) as raised:
            begun()
        assert raised.value.details == [str(root / "var/lib/sxm"), "Not a directory"]
