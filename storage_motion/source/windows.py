# SPDX-License-Identifier: LGPL-2.1-only
"""What there is to copy of a disk: the extents of its snapshot, in windows."""

import json
from typing import Iterable, Iterator, List, Optional

from storage_motion.errors import DataPathError
from storage_motion.source.ranges import Range, RangeSet
from storage_motion.wire import nbd

WINDOW = (
    2048  # sectors: 1 MiB, the best size measured (docs/facts/qemu-storage-daemon.md section 2.2)
)


def windows(ranges: Iterable[Range], size: int = WINDOW) -> Iterator[List[Range]]:
    """Group ascending, disjoint `ranges` of sectors by aligned windows of `size`: an iterator of
    lists of (start, end)."""
    current: Optional[int] = None
    parts: List[Range] = []
    for start, end in ranges:
        while start < end:
            window = start // size
            stop = min(end, (window + 1) * size)
            if window != current and parts:
                yield parts
                parts = []
            current = window
            parts.append((start, stop))
            start = stop
    if parts:
        yield parts


def read_extents(path: str, size: int) -> RangeSet:
    """The extents, in sectors, that the file `path` lists (the answer of `vdi_extents`) for a disk
    of `size` bytes: a RangeSet.

    Raises DataPathError if they are not those of such a disk.
    """
    try:
        with open(path) as source:
            answer = json.load(source)
        extents = RangeSet()
        if answer["size"] != size:
            raise DataPathError(
                "the extents are those of a disk of %s bytes, not %d" % (answer["size"], size)
            )
        for offset, length in answer["extents"]:
            if (
                nbd.request_fault(offset, nbd.SECTOR, size)
                or length % nbd.SECTOR
                or not 0 < length <= size - offset
            ):
                raise DataPathError("an extent of %s bytes at %s" % (length, offset))
            extents.add(offset // nbd.SECTOR, (offset + length) // nbd.SECTOR)
        return extents
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataPathError("%s: %s" % (path, error))
