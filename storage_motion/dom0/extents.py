# SPDX-License-Identifier: LGPL-2.1-only
"""Ranges of data, as they are found in images, become the extents of a disk."""

from typing import Iterable, List, Tuple

SECTOR = 512
MAX_EXTENTS = 1 << 18  # of one disk: some 40 MB of memory, and 10 MB of JSON
FIRST_GAP = 4096  # bytes: the least that is given away once there are too many extents


def to_extents(
    ranges: Iterable[Tuple[int, int]], size: int, max_extents: int = MAX_EXTENTS
) -> List[Tuple[int, int]]:
    """(start, end) in bytes, ascending by start, as extents [(offset, length), ...] of whole
    sectors below `size`.

    None touches another. A disk that is too scattered for `max_extents` gets extents that reach
    over the smallest gaps: whoever copies them copies a little that need not have been, and nothing
    wrong.
    """
    joined: List[List[int]] = []
    gap = 0
    for start, end in ranges:
        start -= start % SECTOR
        end = min(end + -end % SECTOR, size)
        if start >= end:
            continue
        _append(joined, start, end, gap)
        while len(joined) > max_extents:
            gap = max(gap * 2, FIRST_GAP)
            scattered, joined = joined, []
            for extent in scattered:
                _append(joined, extent[0], extent[1], gap)
    return [(start, end - start) for start, end in joined]


def _append(joined: List[List[int]], start: int, end: int, gap: int) -> None:
    if joined and start <= joined[-1][1] + gap:
        joined[-1][1] = max(end, joined[-1][1])
    else:
        joined.append([start, end])
