# SPDX-License-Identifier: LGPL-2.1-only
"""Files and block devices that nobody writes to any more, read as they are on the disk.

Whoever wrote them went around the page cache, or did so on another host: what this host's cache
holds of them may be older than the disk. So it is read around here too, with O_DIRECT; a file
system that knows none is asked to forget what it holds.
"""

import collections
import errno
import io
import itertools
import mmap
import os
import stat
from typing import TYPE_CHECKING, Iterable, Iterator, List, Tuple

from storage_motion.errors import BadImage

if TYPE_CHECKING:
    import concurrent.futures

SECTOR = 512
ALIGNMENT = 4096  # bytes; no disk has larger sectors
BUFFER = 64 << 10  # bytes, a multiple of ALIGNMENT
BATCH = 32  # reads that one thread does in a row
BATCHES = 8  # under way for one file


class FrozenFile(object):
    """An image file or device. `size`: bytes; `is_device`; `identity`: equal for two names of one
    file or device.

    A context manager. Every method raises BadImage, with the path, where the file cannot be read or
    is too short.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            status = os.stat(path)
            # Looked at before it is opened: to open a pipe would wait for its writer.
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
                raise BadImage(path, "neither a file nor a block device")
            self.is_device = stat.S_ISBLK(status.st_mode)
            self.identity = (
                (0, status.st_rdev) if self.is_device else (status.st_dev, status.st_ino)
            )
            self._reader = _Reader(path, path)
            self.size = self._reader.file.seek(0, os.SEEK_END)
        except OSError as error:
            raise BadImage(path, error.strerror)

    def __enter__(self) -> "FrozenFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.file.close()

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes at `offset`, neither of which need be aligned."""
        return self._read(self._reader, offset, length)

    def _read(self, reader: "_Reader", offset: int, length: int) -> bytes:
        if offset + length > self.size:
            raise BadImage(
                self.path, "ends at %d, but refers to %d bytes at %d" % (self.size, length, offset)
            )
        return reader.read(offset, length)

    def read_each(
        self, offsets: Iterable[int], length: int, pool: "concurrent.futures.Executor"
    ) -> Iterator[bytes]:
        """As `read`, at each of `offsets`: an iterator, in their order. The threads of `pool` read
        ahead.

        Nothing is cached, so that reads one by one would take a disk's latency each.
        """
        offsets = iter(offsets)
        under_way: "collections.deque[concurrent.futures.Future[List[bytes]]]" = collections.deque()
        for batch in iter(lambda: list(itertools.islice(offsets, BATCH)), []):
            under_way.append(pool.submit(self._read_batch, batch, length))
            if len(under_way) == BATCHES:
                yield from under_way.popleft().result()
        for reading in under_way:
            yield from reading.result()

    def _read_batch(self, offsets: List[int], length: int) -> List[bytes]:
        """By a file position of its own, of the same file even if it has been renamed since."""
        reader = _Reader("/proc/self/fd/%d" % self._reader.file.fileno(), self.path)
        with reader.file:
            return [self._read(reader, offset, length) for offset in offsets]

    def data_ranges(self, limit: int) -> Iterator[Tuple[int, int]]:
        """(start, end) in bytes, ascending, of what is no hole below `limit`. A device has no holes
        that could be seen."""
        end = 0
        while end < limit:
            start, end = self._next_data(end, limit)
            if start < end:
                yield start, end

    def _next_data(self, position: int, limit: int) -> Tuple[int, int]:
        if self.is_device:
            return position, limit
        descriptor = self._reader.file.fileno()
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return limit, limit
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return position, limit
            raise BadImage(self.path, "holes after %d: %s" % (position, error.strerror))
        return min(start, limit), min(end, limit)


class _Reader(object):
    """A position in an open file, and a buffer that is aligned as O_DIRECT wants it. `name`: for
    the errors."""

    def __init__(self, path: str, name: str) -> None:
        self.file = io.FileIO(path, opener=_open)
        self._name = name
        self._buffer = memoryview(mmap.mmap(-1, BUFFER))

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes at `offset`. Raises BadImage."""
        found = bytearray()
        while len(found) < length:
            at = offset + len(found)
            skipped = at % ALIGNMENT
            wanted = min(length - len(found), BUFFER - skipped)
            padded = skipped + wanted + -(skipped + wanted) % ALIGNMENT
            try:
                self.file.seek(at - skipped)
                count = self.file.readinto(self._buffer[:padded])
            except OSError as error:
                raise BadImage(self._name, "%d bytes at %d: %s" % (wanted, at, error.strerror))
            if count < skipped + wanted:
                raise BadImage(
                    self._name,
                    "%d bytes at %d: only %d were read" % (wanted, at, max(count - skipped, 0)),
                )
            found += self._buffer[skipped : skipped + wanted]
        return bytes(found)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    descriptor = os.open(path, flags)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor
