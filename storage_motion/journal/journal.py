# SPDX-License-Identifier: LGPL-2.1-only
"""The journal of a migration: /var/lib/sxm/<id>.json, all that is known of it if every process were
killed now.

Replaced atomically and synced, before and after each step that touches the world. One process
writes it: at the source the worker, at the destination the plugin's one call at a time. No secret
is ever in it.

What cannot be written is not so: JournalNotWritten is raised, and `entry` is as it was. Whoever
notes a step before he does it does not do it then; whoever notes what he has done finds it undone,
and does it once more, when the journal can be written again.
"""

import contextlib
import fcntl
import json
import os
import time
import uuid
from typing import Any, Callable, Dict, Iterator, List, Mapping

from storage_motion import strict_json
from storage_motion.dom0 import root
from storage_motion.errors import JournalError, JournalNotWritten, NoSuchMigration
from storage_motion.journal import trust
from storage_motion.uuids import UUID

DIRECTORY = "/var/lib/sxm"
RUN = "/run/sxm"
VERSION = 1
MAX_BYTES = 16 * 1024 * 1024
KEPT = 100  # journals of migrations that have ended
RUNNING, SUCCEEDED, FAILED, CANCELLED = "running", "succeeded", "failed", "cancelled"
STATES = (RUNNING, SUCCEEDED, FAILED, CANCELLED)
SOURCE, RECEIVING = "", "receive-"  # how the file names of the two sides' journals begin
LOCK = "lock-"  # and of the notes of other hosts (switch/pool_lock.py)


def new_id() -> str:
    """An id for a migration."""
    return str(uuid.uuid4())


def check_id(migration: object) -> str:
    """`migration`, if it is an id. Raises NoSuchMigration for anything else, before it becomes part
    of a path."""
    if not isinstance(migration, str) or not UUID.match(migration):
        raise NoSuchMigration(str(migration)[:64])
    return migration


def run_directory(migration: str) -> str:
    """/run/sxm/<id>, made where it is missing: sockets and secrets, for root alone. Its path
    here."""
    root.private_directory(RUN)
    return root.private_directory("%s/%s" % (RUN, check_id(migration)))


def replace(path: str, text: str, sync: bool = True) -> None:
    """Put `text` in the place of a file, atomically; with `sync`, so that it also outlives a crash
    of the host."""
    temporary = "%s.%d" % (path, os.getpid())
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
            out.flush()
            if sync:
                os.fsync(out.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # what has failed is what matters
            os.unlink(temporary)
        raise
    if sync:
        sync_directory(os.path.dirname(path))


def forget_file(path: str) -> None:
    """Remove a file, if it is there, so that it stays away after a crash of the host."""
    if os.path.exists(path):
        os.unlink(path)
        sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make the names in a directory outlive a crash."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """For whoever makes a migration his: of several who want it one is the first. The lock ends
    with its process."""
    descriptor = os.open(_directory(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Journal:
    """One journal. `entry`: its content, JSON values; change it through `write` and `write_disks`,
    which raise JournalNotWritten."""

    def __init__(self, path: str, entry: Dict[str, Any]) -> None:
        self.path = path
        self.entry = entry

    @classmethod
    def create(cls, migration: str, side: str = SOURCE, **fields: Any) -> "Journal":
        """Begin one. Raises JournalError if there is one of that id already."""
        path = _path(migration, side)
        if os.path.exists(path):
            raise JournalError(path, "exists")
        now = time.time()
        entry = dict(
            {
                "version": VERSION,
                "migration": migration,
                "state": RUNNING,
                "started": now,
                "updated": now,
            },
            **fields,
        )
        journal = cls(path, entry)
        journal.write()
        return journal

    @classmethod
    def load(cls, migration: str, side: str = SOURCE) -> "Journal":
        """The journal of a migration. Raises NoSuchMigration, or JournalError if it is not one to
        trust."""
        path = _path(migration, side)
        try:
            with open(path, "rb") as source:
                text = source.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise NoSuchMigration(migration)
        except OSError as error:
            raise JournalError(path, str(error))
        return cls(path, _parse(path, text, migration, side))

    def write(self, **fields: Any) -> None:
        """Set fields and put the whole in the file's place."""
        fields["updated"] = time.time()
        self._put(dict(self.entry, **fields))
        self.entry.update(fields)

    def write_disks(self, changes: Mapping[str, Dict[str, Any]]) -> None:
        """The same for fields of disks: {key: {field: value}}. A disk that is not there yet is
        added."""
        known, now = self.entry["disks"], time.time()
        changed = {key: dict(known.get(key, {}), **fields) for key, fields in changes.items()}
        self._put(dict(self.entry, disks=dict(known, **changed), updated=now))
        for key, fields in changes.items():
            known.setdefault(key, {}).update(fields)
        self.entry["updated"] = now

    def remove(self) -> None:
        """Forget it. Raises JournalNotWritten."""
        with self._told():
            os.unlink(self.path)
            sync_directory(os.path.dirname(self.path))

    def _put(self, entry: Dict[str, Any]) -> None:
        with self._told():
            replace(self.path, _text(entry))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JournalNotWritten(self.path, error.strerror or str(error))


def _text(entry: Dict[str, Any]) -> str:
    """The file: a line for each field, which rpm/migrations.lua goes by. Within a field nothing is
    indented: json indents in Python, which takes ten milliseconds for the disks of a guest that is
    suspended meanwhile (switch/disk_switch.py)."""
    encode = json.JSONEncoder(sort_keys=True).encode
    return "{\n%s\n}" % ",\n".join(
        " %s: %s" % (encode(name), encode(entry[name])) for name in sorted(entry)
    )


def all_ids(side: str = SOURCE) -> List[str]:
    """The ids of the journals of this host, newest first."""
    directory = root.path(DIRECTORY)
    names = os.listdir(directory) if os.path.isdir(directory) else []
    found = []
    for name in names:
        migration = name[len(side) : -len(".json")]
        if name == side + migration + ".json" and UUID.match(migration):
            found.append((os.path.getmtime(os.path.join(directory, name)), migration))
    return [migration for _, migration in sorted(found, reverse=True)]


def prune(also: Callable[[str], None] = lambda migration: None) -> None:
    """Forget the oldest journals of migrations that have ended, beyond KEPT. `also(migration)`:
    forgets what is beside one."""
    for migration in all_ids()[KEPT:]:
        try:
            journal = Journal.load(migration)
        except JournalError:
            continue  # somebody will want to look at that one
        if journal.entry["state"] != RUNNING and not journal.entry.get("left"):
            journal.remove()
            also(migration)


def _path(migration: str, side: str) -> str:
    return os.path.join(_directory(), "%s%s.json" % (side, check_id(migration)))


def _directory() -> str:
    try:
        return root.private_directory(DIRECTORY)
    except OSError as error:
        raise JournalNotWritten(root.path(DIRECTORY), error.strerror or str(error))


def _parse(path: str, text: bytes, migration: str, side: str) -> Dict[str, Any]:
    if len(text) > MAX_BYTES:
        raise JournalError(path, "more than %d bytes" % MAX_BYTES)
    try:
        entry = strict_json.loads(text.decode("utf-8"))
    except ValueError as error:
        raise JournalError(path, str(error))
    if not isinstance(entry, dict) or entry.get("version") != VERSION:
        raise JournalError(path, "not of version %d" % VERSION)
    if entry.get("migration") != migration or entry.get("state") not in STATES:
        raise JournalError(path, "not the journal of migration %s" % migration)
    doubt = trust.doubt(entry, side == RECEIVING)
    if doubt:
        raise JournalError(path, doubt)
    return entry
