# SPDX-License-Identifier: LGPL-2.1-only
"""Raw images: what they hold, and whether two are the same."""

import os
import random

MIB = 1 << 20
GIB = 1 << 30
NOISE = MIB  # bytes of noise, used again and again: it is copied, not compressed


def whole(size):
    """All of `size` bytes is data: [(offset, length)]."""
    return [(0, size)]


def scattered(size, share, seed=4):
    """About `share` of `size` bytes is data, in pieces of 64 KiB to 2 MiB as a file system leaves
    them: [(offset, length)]."""
    generator, extents, offset = random.Random(seed), [], 0
    while offset < size:
        data = min(65536 * generator.randint(1, 32), size - offset)
        extents.append((offset, data))
        offset += data + 65536 * int(round(generator.randint(1, 32) * (1 - share) / share))
    return extents


def spread(size, data, pieces=64):
    """`data` bytes in so many `pieces`, evenly over `size`: [(offset, length)]."""
    length, step = data // pieces, size // pieces
    return [(number * step, length) for number in range(pieces)]


def make(path, size, extents=()):
    """A raw image of `size` bytes at `path`, noise in `extents` and holes elsewhere; the path."""
    with open(path, "wb", buffering=0) as target:
        target.truncate(size)
        noise = os.urandom(NOISE)
        for offset, length in extents:
            target.seek(offset)
            for done in range(0, length, NOISE):
                # no two pieces alike, so that one in the wrong place is found
                mark = (offset + done).to_bytes(8, "little")
                target.write((mark + noise[8:])[: length - done])
        os.fsync(target.fileno())  # nothing is left to be written while others are timed
    return path


def data_of(path):
    """The extents of the file that are not holes: [[offset, length]]."""
    extents = []
    with open(path, "rb") as source:
        size = os.fstat(source.fileno()).st_size
        offset = 0
        while offset < size:
            try:
                start = os.lseek(source.fileno(), offset, os.SEEK_DATA)
            except OSError:  # ENXIO: only holes from here on
                break
            offset = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            extents.append([start, offset - start])
    return extents


def same(one, other):
    """Whether two raw images have the same size and content; holes are zeros."""
    if os.path.getsize(one) != os.path.getsize(other):
        return False
    extents = data_of(one)
    if data_of(other) != extents:
        extents = extents + data_of(other)
    buffers = bytearray(8 * MIB), bytearray(8 * MIB)  # read into again and again: new pages cost
    with open(one, "rb", buffering=0) as left, open(other, "rb", buffering=0) as right:
        for offset, length in extents:
            for done in range(0, length, 8 * MIB):
                found = [memoryview(buffer)[: length - done] for buffer in buffers]
                counts = [
                    os.preadv(file.fileno(), [view], offset + done)
                    for file, view in zip((left, right), found)
                ]
                # the whole buffers, which is quick: behind what was read both hold the same still
                if counts != [len(view) for view in found] or buffers[0] != buffers[1]:
                    return False
    return True
