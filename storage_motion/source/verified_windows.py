# SPDX-License-Identifier: LGPL-2.1-only
"""Which windows of a disk the destination has as the snapshot has them, in a file that outlives the
mover: so a copy that is taken up again need not read both disks to find that out.

For each window the file has two bits, and each is only ever set, so a kill at any moment leaves it
right:

* *verified*: all of the window that the copy was about has been found the same at the destination:
  read back, by a digest, or by an earlier mover of whose file that is known. Or the copy was about
  nothing of it: where the disk there began as zeros, and the snapshot holds no data; where it began
  as a clone of what the snapshot is based on, and does not differ from that;
* *written*: the guest has written to it since the snapshot. It is set when a write arrives, before
  that is sent anywhere: one that the source's disk never got may have reached the destination.

Verified and not written: the destination has what the snapshot has, for as long as nobody else
writes there. That it is the same snapshot, and the same disk that nobody else has had, the file
does not prove by itself: its heading says of which it tells, and the worker compares that
(migration/verified_before.py).

On a tmpfs, as the mover's other files are: gone with the host, as the guest is.
"""

import json
import mmap
import os
import re
from typing import Any, Dict, Iterable, List, Optional

from storage_motion.errors import DataPathError
from storage_motion.source.ranges import Range, RangeSet
from storage_motion.source.windows import WINDOW

HEADING = 4096  # bytes for the heading, JSON and then NULs; all NULs until the copy begins
# With more of them what the copy has left would be so scattered that a guest's write had to wait
# while those before it are taken from that (merge.py, confine).
MOST_RANGES = 1 << 13
_ONES = re.compile(b"\xff+|[^\x00\xff]")


class VerifiedWindows(object):
    """Those of one mirror and its copy. `wrote` is for the thread of the mirror, all else for that
    of the copy: each sets bits of its own."""

    def __init__(self, path: str, sectors: int) -> None:
        """A new file at `path`, in place of any other, for a disk of `sectors`. Raises
        DataPathError."""
        self._length = _bytes_for(_windows_of(sectors))  # of one bitmap
        self._verified, self._written = HEADING, HEADING + self._length
        length = HEADING + 2 * self._length
        try:
            descriptor = os.open(path + ".new", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                # its pages as well: to write to one that cannot be had would end the process
                os.posix_fallocate(descriptor, 0, length)
                self._file = mmap.mmap(descriptor, length)
            finally:
                os.close(descriptor)
            os.rename(path + ".new", path)
        except OSError as error:
            raise DataPathError("%s: %s" % (path, error))

    def wrote(self, start: int, end: int) -> None:
        """A write of the guest's to the sectors [start, end) has arrived."""
        for window in range(start // WINDOW, (end - 1) // WINDOW + 1):
            self._file[self._written + (window >> 3)] |= 1 << (window & 7)

    def begin(self, heading: Dict[str, Any]) -> None:
        """The copy begins: from here on the file tells of what `heading` names."""
        text = json.dumps(heading).encode("utf-8")
        if len(text) >= HEADING:
            raise DataPathError("a heading of %d bytes" % len(text))
        self._file[: len(text)] = text

    def verified(self, start: int, end: int) -> None:
        """All that the copy was about is the same in the windows that lie in the sectors
        [start, end), or that these lie in."""
        self._set(start // WINDOW, (end - 1) // WINDOW + 1)

    def all_but(self, ranges: Iterable[Range], sectors: int) -> None:
        """Every window is, in which none of `ranges` (ascending) of a disk of `sectors` has
        anything."""
        done = 0
        for start, end in ranges:
            self._set(done, start // WINDOW)
            done = max(done, (end - 1) // WINDOW + 1)
        self._set(done, _windows_of(sectors))

    def _set(self, first: int, last: int) -> None:
        """The windows [first, last)."""
        while first < last and first & 7:
            self._file[self._verified + (first >> 3)] |= 1 << (first & 7)
            first += 1
        whole = max(0, last - first) >> 3
        if whole:
            at = self._verified + (first >> 3)
            self._file[at : at + whole] = b"\xff" * whole
            first += whole << 3
        while first < last:
            self._file[self._verified + (first >> 3)] |= 1 << (first & 7)
            first += 1


def _windows_of(sectors: int) -> int:
    return -(-sectors // WINDOW)


def _bytes_for(bits: int) -> int:
    return -(-bits // 8)


def heading_of(path: str) -> Optional[Dict[str, Any]]:
    """What the file at `path` tells of; None where there is none, or no copy has begun."""
    try:
        with open(path, "rb") as source:
            text = source.read(HEADING).rstrip(b"\0")
        found: Optional[Dict[str, Any]] = json.loads(text.decode("utf-8")) if text else None
        return found
    except (OSError, ValueError):
        return None


def known(
    path: str, sectors: int, changed: Iterable[Range], most_ranges: int = MOST_RANGES
) -> RangeSet:
    """The sectors of whole windows that the destination has, by the file at `path` for a disk of
    `sectors`, but for the windows in which anything of `changed` lies: a RangeSet.

    A disk that is too scattered for `most_ranges` of them: the longest of them. Raises
    DataPathError if it is no such file."""
    length = _bytes_for(_windows_of(sectors))
    try:
        with open(path, "rb") as source:
            source.seek(HEADING)
            bitmaps = source.read(2 * length + 1)
    except OSError as error:
        raise DataPathError("%s: %s" % (path, error))
    if len(bitmaps) != 2 * length:
        raise DataPathError("%s: not of a disk of %d sectors" % (path, sectors))
    verified, written = (
        int.from_bytes(part, "little") for part in (bitmaps[:length], bitmaps[length:])
    )
    good = bytearray((verified & ~written).to_bytes(length, "little"))
    for start, end in changed:
        for window in range(start // WINDOW, (end - 1) // WINDOW + 1):
            good[window >> 3] &= ~(1 << (window & 7))
    found, shortest = _ranges(good, 1, most_ranges), 1
    while found is None:
        shortest *= 2
        found = _ranges(good, shortest, most_ranges)
    return RangeSet((start * WINDOW, min(end * WINDOW, sectors)) for start, end in found)


def _ranges(bits: bytearray, shortest: int, most: int) -> Optional[List[Range]]:
    """The runs of at least `shortest` ones, lowest bit first; None if they are more than `most`."""
    found: List[Range] = []
    begun = end = 0
    for match in _ONES.finditer(bits):
        first = 8 * match.start()
        if match.group()[0] == 0xFF:
            runs = [(first, 8 * match.end())]
        else:
            text = format(match.group()[0], "08b")[::-1]
            runs = [(first + one.start(), first + one.end()) for one in re.finditer("1+", text)]
        for start, stop in runs:
            if start == end:
                end = stop
                continue
            if end - begun >= shortest:
                found.append((begun, end))
                if len(found) > most:
                    return None
            begun, end = start, stop
    if end - begun >= shortest:
        found.append((begun, end))
    return found if len(found) <= most else None
