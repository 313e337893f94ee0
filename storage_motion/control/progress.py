"""How far a migration is: on the Task of the pool, and in a file for `status`, which is not worth a sync."""
import contextlib
import json
import logging
import os
import time

from storage_motion.control import journal

INTERVAL = 0.5        # seconds between two reports
FILE = "progress"
STOPPED = "stopped"   # why whoever drove the migration has left it where it was, when the journal could not be told
# What a mover's status says of a disk, and what we call it.
COPY_FIELDS = ("to_copy", "copied", "verified", "skipped", "same")
MIRROR_FIELDS = ("mirrored_bytes", "mirrored_writes", "longest_stall")

log = logging.getLogger("sxm")


class Progress:
    """Reports. `task`: the ProgressTask. `disks`: {key: the entry of the journal}."""

    def __init__(self, migration, task, plan, disks):
        self._path = os.path.join(journal.run_directory(migration), FILE + ".json")
        self._task = task
        self._plan = plan
        self._disks = disks
        self._next = 0.0
        self._shown = 0.0

    def take(self, key, status):
        """Put what a mover says into the disk's entry."""
        copy = status.get("copy") or {}
        entry = self._disks[key]
        for fields, values in ((COPY_FIELDS, copy), (MIRROR_FIELDS, status)):
            for field in fields:
                if isinstance(values.get(field), (int, float)):
                    entry[field] = values[field]
        # Of all movers that this disk has had: each found at the destination what those before it had brought there.
        entry["saved"] = entry.get("saved_before", 0) + copy.get("saved", 0)

    def report(self, force=False):
        """Show where the disks are, at most every INTERVAL seconds."""
        if time.monotonic() < self._next and not force:
            return
        self._next = time.monotonic() + INTERVAL
        moved, whole = totals(self._plan, self._disks)
        journal.replace(self._path, json.dumps({"disks": self._disks, "updated": time.time()}), sync=False)
        # The rest of the way, the move itself, is not counted in bytes: the task is at 1 only when all is done. It never goes back, though there
        # may be more to copy than the pool has estimated, once that is known, or once more, when a mirror is made anew.
        self._shown = max(self._shown, 0.99 * moved / whole if whole else 0.0)
        self._task.progress(self._shown)


def totals(plan, disks):
    """(bytes moved, bytes to move) of all disks. Until it is known what holds data in a disk, the pool's estimate counts.

    What the copy left out, since the guest wrote it anew and the mirror carried that, or since it was there, has moved as well."""
    moved = sum(disks[disk.key].get(field, 0) for disk in plan.disks for field in ("copied", "skipped", "same"))
    whole = sum(disks[disk.key].get("to_copy", disk.data) for disk in plan.disks)
    return moved, max(moved, whole)


def read(migration):
    """What was reported last, or None."""
    return _read(migration, FILE)


def tell_stopped(migration, failure):
    """Leave word that the journal cannot be written, which is why it does not say so itself: [code, detail, ...]."""
    try:
        journal.replace(os.path.join(journal.run_directory(migration), STOPPED + ".json"), json.dumps(failure), sync=False)
    except OSError as error:
        log.error("%s: status will not tell that %s: %s", migration, failure, error)


def stopped(migration):
    """That word, or None."""
    return _read(migration, STOPPED)


def forget_stopped(migration):
    """Take that word back."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(migration, STOPPED))


def _read(migration, name):
    try:
        with open(_path(migration, name)) as source:
            return json.load(source)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _path(migration, name):
    return os.path.join(journal.root.path(journal.RUN), migration, name + ".json")
