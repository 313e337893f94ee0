# SPDX-License-Identifier: LGPL-2.1-only
"""What there is to copy of a disk: the extents of its snapshot, in windows."""

import json
from typing import Any, Dict, Iterable, Iterator, List, Optional

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


def listed(answer: Dict[str, Any]) -> str:
    """The text of a file for `read_extents`, of what `vdi_extents` has answered ({"size",
    "extents"}): a line each, so that a mover need not have all of it in memory as JSON."""
    lines = [{"size": answer["size"]}] + answer["extents"]
    return "".join(json.dumps(line) + "\n" for line in lines)


def read_extents(path: str, size: int) -> RangeSet:
    """The extents, in sectors, that the file `path` lists (`listed`) for a disk of `size` bytes: a
    RangeSet.

    Raises DataPathError if they are not those of such a disk.
    """
    try:
        extents = RangeSet()
        with open(path) as source:
            found = json.loads(source.readline())["size"]
            if found != size:
                raise DataPathError(
                    "the extents are those of a disk of %s bytes, not %d" % (found, size)
                )
            for line in source:
                offset, length = json.loads(line)
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
