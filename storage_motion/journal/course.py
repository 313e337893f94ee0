# SPDX-License-Identifier: LGPL-2.1-only
"""The course that a migration takes: /var/lib/sxm/<id>.course, beside the journal. When each phase
and each state of a disk began, and samples of each disk, for the report that a person reads.

Nothing is decided by it, so it is never synced, and what is lost of it is lost. What is noted stays
in memory until `flush`, and longer while it is held, as it is from the begin of the move on: the
guest is suspended in that. The file has a line of JSON for each:

    [kind, seconds since the epoch, disk, value]      kind: one of KINDS
    ["sample", seconds since the epoch, disk, ...]    the rest: as SAMPLE says

`disk` is a disk's index in the journal, or null. There are PER_DISK samples of a disk at most, and
ALL_DISKS in all: of a disk that has so many each second one goes, and from then on it is sampled
half as often.
"""

import collections
import json
import logging
import math
import os
import threading
import time
from typing import Any, Deque, Dict, List, NamedTuple, Optional

from storage_motion.dom0 import root
from storage_motion.journal import journal

ENDING = ".course"
PER_DISK, ALL_DISKS = 2000, 10000
LEAST = 16  # samples of each disk, however many there are
EVENTS = 4000  # from there on half of them go, those in the middle
INTERVAL = 0.25  # seconds between two samples of a disk, at first
HELD_PART = 8  # while it is held half as many are taken after each such part of a disk's samples
MAX_BYTES = 8 << 20  # what is read

KINDS = ("phase", "state", "gate", "tries", "bandwidth")
"""Fields of the journal, of the migration or of a disk, whose values are noted with their time."""

SAMPLED = ("sent", "mirrored_bytes", "mirrored_writes", "waited")
SAMPLE = ("time",) + SAMPLED + ("longest",)
"""What a sample has. Of the mover's counts: bytes of the copy that were sent (not zeros, of which
only a command is), bytes and number of mirrored writes that are answered, seconds that these have
waited for it in all. `longest`: the longest of these waits since the sample before."""

log = logging.getLogger("sxm")


class Read(NamedTuple):
    """What a file tells. `events`: [kind, time, disk or None, value]; `samples`: {disk: [values of
    SAMPLE]}. In the order in which they were noted; the host's clock may have gone back."""

    events: List[List[Any]]
    samples: Dict[int, List[List[float]]]


class Course:
    """That of a migration with so many disks, for the process that drives it, from any thread."""

    def __init__(self, migration: str, disks: int) -> None:
        self._path = path(migration)
        self._most = max(LEAST, min(PER_DISK, ALL_DISKS // max(1, disks)))
        self._writing = threading.Lock()
        self._unwritten: Deque[List[Any]] = collections.deque()
        self._due: Dict[int, float] = {}
        self._latest: Dict[int, List[Any]] = {}  # SAMPLED, where no sample has it
        self._longest: Dict[int, float] = {}
        self._interval: Dict[int, float] = {}
        self._events = 0
        self._counts: Dict[int, int] = {}
        self._count(_read(self._path))  # of a worker that died
        self._told = False
        self._held: Optional[Dict[int, int]] = None  # {disk: samples since then}

    def hold(self, held: bool) -> None:
        """Whether `flush` writes nothing for now. A move's memory may take hours, so what is kept
        meanwhile grows ever slower."""
        if held != (self._held is not None):
            self._held = {} if held else None

    def note(self, kind: str, value: Any, disk: Optional[int] = None) -> None:
        """A field of the journal has this value now. `kind`: one of KINDS. With the state of a disk
        goes what was counted until then."""
        if kind == "state" and disk is not None and disk in self._latest:
            self._take(disk)
        self._unwritten.append([kind, round(time.time(), 3), disk, value])
        self._events += 1

    def sample(self, disk: int, counts: Dict[str, Any]) -> None:
        """What a disk's mover counts now: SAMPLED, and `recent_stall`. To be called as often as
        that is known."""
        longest = max(self._longest.get(disk, 0.0), counts.get("recent_stall", 0.0))
        self._longest[disk] = longest
        self._latest[disk] = [counts.get(name, 0) for name in SAMPLED]
        now = time.monotonic()
        if now >= self._due.get(disk, 0.0):
            self._due[disk] = now + self._interval.get(disk, INTERVAL) * self._slower(disk)
            self._take(disk)

    def _slower(self, disk: int) -> int:
        taken = self._held.get(disk, 0) if self._held is not None else 0
        found: int = 2 ** (taken // max(1, self._most // HELD_PART))
        return found

    def _take(self, disk: int) -> None:
        values = self._latest.pop(disk) + [self._longest.pop(disk, 0.0)]
        self._unwritten.append(["sample", round(time.time(), 3), disk] + values)
        self._counts[disk] = self._counts.get(disk, 0) + 1
        if self._held is not None:
            self._held[disk] = self._held.get(disk, 0) + 1

    def flush(self) -> None:
        """Put what was noted into the file, if it is not held. One that cannot be written is told
        of once."""
        if self._held is not None:
            return
        with self._writing:
            lines = []
            while self._unwritten:
                lines.append(json.dumps(self._unwritten.popleft()))
            if lines:
                self._append(lines)

    def _append(self, lines: List[str]) -> None:
        try:
            # The line before may be half a one, of a worker that was killed.
            text = "\n" + "\n".join(lines) + "\n"
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "w") as out:
                out.write(text)
            if self._events > EVENTS or any(n > self._most for n in self._counts.values()):
                self._thin_out()
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("the report will lack what cannot be written: %s", error)

    def _thin_out(self) -> None:
        found = _read(self._path)
        events = found.events
        if len(events) > EVENTS:
            events = events[: EVENTS // 4] + events[-(EVENTS // 4) :]
        samples = {}
        for disk, rows in found.samples.items():
            samples[disk] = rows
            if len(rows) > self._most:
                samples[disk] = halved(rows)
                self._interval[disk] = 2 * self._interval.get(disk, INTERVAL)
        lines = [json.dumps(event) for event in events]
        for disk, rows in samples.items():
            lines += [json.dumps(["sample", row[0], disk] + row[1:]) for row in rows]
        journal.replace(self._path, "\n".join(lines) + "\n", sync=False)
        self._count(Read(events, samples))

    def _count(self, found: Read) -> None:
        self._events = len(found.events)
        self._counts = {disk: len(rows) for disk, rows in found.samples.items()}


def halved(rows: List[List[float]]) -> List[List[float]]:
    """Each second sample, the latest among them. Counts go on growing, so only the longest wait of
    one that goes is still needed."""
    kept: List[List[float]] = []
    for at in range(len(rows) - 1, -1, -2):
        before = rows[at - 1][-1] if at else 0.0
        kept.append(rows[at][:-1] + [max(rows[at][-1], before)])
    return kept[::-1]


def read(migration: str) -> Read:
    """What is known of a migration's course: nothing, where there is no file to read."""
    return _read(path(migration))


def forget(migration: str) -> None:
    """Remove the file, if it is there."""
    try:
        os.unlink(path(migration))
    except FileNotFoundError:
        pass


def path(migration: str) -> str:
    """The file's."""
    return os.path.join(root.path(journal.DIRECTORY), journal.check_id(migration) + ENDING)


def _read(path: str) -> Read:
    found = Read([], {})
    try:
        with open(path, "rb") as source:
            text = source.read(MAX_BYTES)
    except FileNotFoundError:
        return found
    except OSError as error:
        log.warning("a report lacks what cannot be read: %s", error)
        return found
    for line in text.split(b"\n"):
        try:
            entry = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            continue  # torn, or none
        if not isinstance(entry, list) or len(entry) < 4 or not _is_number(entry[1]):
            continue
        kind, at, disk = entry[:3]
        if kind == "sample":
            row = [at] + entry[3:]
            if isinstance(disk, int) and len(row) == len(SAMPLE) and all(map(_is_number, row)):
                found.samples.setdefault(disk, []).append(row)
        elif kind in KINDS and (disk is None or isinstance(disk, int)):
            found.events.append(entry[:4])
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
