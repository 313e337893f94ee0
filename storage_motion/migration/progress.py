# SPDX-License-Identifier: LGPL-2.1-only
"""How far a migration is: on the Task of the pool, and in a file for `status`, which is not worth a
sync."""

import contextlib
import json
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from storage_motion.dom0 import root
from storage_motion.journal import journal

if TYPE_CHECKING:
    from storage_motion.journal.course import Course
    from storage_motion.plan.plan import Plan
    from storage_motion.xapi.tasks import ProgressTask

INTERVAL = 0.5  # seconds between two reports
FILE = "progress"
# why whoever drove the migration has left it where it was, when the journal could not be told
STOPPED = "stopped"
# What a mover's status says of a disk, and what we call it.
COPY_FIELDS = ("to_copy", "copied", "sent", "verified", "zeros", "skipped", "same")
MIRROR_FIELDS = ("mirrored_bytes", "mirrored_writes", "longest_stall", "waited", "recent_stall")

log = logging.getLogger("sxm")


class Progress:
    """Reports. `task`: the ProgressTask. `disks`: {key: the entry of the journal}. `course`: takes
    the samples."""

    def __init__(
        self,
        migration: str,
        task: "ProgressTask",
        plan: "Plan",
        disks: Dict[str, Dict[str, Any]],
        course: "Course",
    ) -> None:
        self._path = os.path.join(journal.run_directory(migration), FILE + ".json")
        self._task = task
        self._plan = plan
        self._disks = disks
        self._course = course
        self._next = 0.0
        self._shown = 0.0

    def take(self, key: str, status: Dict[str, Any]) -> None:
        """Put what a mover says into the disk's entry."""
        copy = status.get("copy") or {}
        entry = self._disks[key]
        for fields, values in ((COPY_FIELDS, copy), (MIRROR_FIELDS, status)):
            for field in fields:
                if isinstance(values.get(field), (int, float)):
                    entry[field] = values[field]
        # Of all movers that this disk has had: each found at the destination what those before it
        # had brought there.
        entry["saved"] = entry.get("saved_before", 0) + copy.get("saved", 0)
        self._course.sample(entry["index"], entry)

    def report(self, force: bool = False) -> None:
        """Show where the disks are, at most every INTERVAL seconds."""
        if time.monotonic() < self._next and not force:
            return
        self._next = time.monotonic() + INTERVAL
        moved, whole = totals(self._plan, self._disks)
        journal.replace(
            self._path, json.dumps({"disks": self._disks, "updated": time.time()}), sync=False
        )
        self._course.flush()
        # The rest of the way, the move itself, is not counted in bytes: the task is at 1 only when
        # all is done. It never goes back, though there may be more to copy than the pool has
        # estimated, once that is known, or once more, when a mirror is made anew.
        self._shown = max(self._shown, 0.99 * moved / whole if whole else 0.0)
        self._task.progress(self._shown)


def totals(plan: "Plan", disks: Dict[str, Dict[str, Any]]) -> Tuple[int, int]:
    """(bytes moved, bytes to move) of all disks. Until it is known what holds data in a disk, the
    pool's estimate counts.

    What the copy left out, since the guest wrote it anew and the mirror carried that, or since it
    was there, has moved as well."""
    moved = sum(
        disks[disk.key].get(field, 0)
        for disk in plan.sent
        for field in ("copied", "skipped", "same")
    )
    whole = sum(disks[disk.key].get("to_copy", disk.data) for disk in plan.sent)
    return moved, max(moved, whole)


def read(migration: str) -> Optional[Dict[str, Any]]:
    """What was reported last, or None."""
    found: Optional[Dict[str, Any]] = _read(migration, FILE)
    return found


def tell_stopped(migration: str, failure: List[str]) -> None:
    """Leave word that the journal cannot be written, which is why it does not say so itself: [code,
    detail, ...]."""
    try:
        journal.replace(
            os.path.join(journal.run_directory(migration), STOPPED + ".json"),
            json.dumps(failure),
            sync=False,
        )
    except OSError as error:
        log.error("%s: status will not tell that %s: %s", migration, failure, error)


def stopped(migration: str) -> Optional[List[str]]:
    """That word, or None."""
    found: Optional[List[str]] = _read(migration, STOPPED)
    return found


def forget_stopped(migration: str) -> None:
    """Take that word back."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(migration, STOPPED))


def _read(migration: str, name: str) -> Any:
    try:
        with open(_path(migration, name)) as source:
            return json.load(source)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _path(migration: str, name: str) -> str:
    return os.path.join(root.path(journal.RUN), migration, name + ".json")
