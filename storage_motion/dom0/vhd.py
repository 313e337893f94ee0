# SPDX-License-Identifier: LGPL-2.1-only
"""VHD: fixed, dynamic and differencing images, and the chains that these form on files and on
logical volumes.

By Microsoft's "Virtual Hard Disk Image Format Specification" 1.0, and what tapdisk and vhd-util
make of it (read from blktap 4.0.8: vhd/lib/libvhd.c, drivers/block-vhd.c): the batmap, whose bits
tell the blocks that are full; a parent without a uuid is a raw image; parents are named relative to
where the child is seen.

Images are frozen while they are read, and never written. Nothing in them is believed unchecked:
what does not add up raises BadImage. Memory: 4 bytes for each block (2 MiB) of each image of a
chain.

One file, though long: it is the reader of one format, whose structures and checks only make sense
together.
"""

import array
import concurrent.futures
import contextlib
import functools
import heapq
import os
import re
import struct
import sys
from typing import Any, Collection, Iterator, List, Optional, Tuple, Union

from storage_motion.dom0.uncached import SECTOR, FrozenFile
from storage_motion.errors import BadImage, ImagesUnrelated

FOOTER = struct.Struct(">8sIIQI4sIIQQIII16sB427x")
FOOTER_CHECKSUM = 64  # where it lies in the footer
HEADER = struct.Struct(">8sQQIIII16sII512s192s256x")
HEADER_CHECKSUM = 36
LOCATOR = struct.Struct(">IIIIQ")
BATMAP = struct.Struct(">8sQIII")

COOKIE = b"conectix"
POISON = b"v_poison"  # vhd-util's mark on an image that must not be used
HEADER_COOKIE = b"cxsparse"
BATMAP_COOKIE = b"tdbatmap"
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
HEADER_VERSION = 0x10000
UNUSED = 0xFFFFFFFF  # in the block allocation table
RAW_PARENT = bytes(16)  # in place of the parent's uuid

# Versions of tapdisk's own images: (major << 16) + minor. 0.1 had its bitmaps the other way round;
# tapdisk refuses it.
TAPDISK = b"tap"
TAPDISK_OLDEST, TAPDISK_NEWEST = 0x00000002, 0x00010003
SIGNED_BATMAP = 0x00010001  # the batmap version whose checksum adds signed bytes

BLOCK_SIZES = [1 << power for power in range(12, 22)]  # up to 2 MiB, which is what everybody uses
MAX_BLOCKS = 1 << 21  # 4 TiB; the format ends at 2 TiB
MAX_CHAIN = 128  # sm stops at 30
MAX_LOCATOR = 64 << 10  # bytes
READERS = 8  # threads that read bitmaps: some disks answer several reads as soon as one

# How a locator of each platform code names the parent: (encoding, what precedes the path).
LOCATORS = {
    b"MacX": ("utf-8", ("file://",)),
    b"W2ku": ("utf-16-le", ("C:", "c:")),
    b"W2ru": ("utf-16-le", ("C:", "c:")),
}
DEVICES = "/dev/mapper"  # where vhd-util takes logical volumes to be

_ONES = re.compile("1+")


@contextlib.contextmanager
def ranges(
    path: str, base: Optional[str] = None
) -> Iterator[Tuple[int, Iterator[Tuple[int, int]]]]:
    """A context manager that gives (size in bytes, iterator of ranges (start, end) in bytes,
    ascending by start).

    Without `base`: where the chain that begins at `path` has data; the rest reads as zeros. With
    it: where the two disks can differ. Ranges may overlap. To be used up before the context ends.
    Raises BadImage, ImagesUnrelated, the iterator too.
    """
    with contextlib.ExitStack() as opened:
        chain, _ = _open_chain(opened, path)
        size = chain[0].size
        if base is None:
            find = functools.partial(_visible, chain)
        else:
            known = [image.identity for image in chain]
            base_only, shared = _open_chain(opened, base, known)
            if shared is None:
                raise ImagesUnrelated(path, base)
            depth = known.index(shared)
            base_size = (base_only or chain[depth:])[0].size
            find = functools.partial(_own, chain[:depth] + base_only, size, base_size)
        with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
            yield size, heapq.merge(*find(pool))


def data_end(path: str) -> int:
    """Where the data of an image ends, and its footer may follow (libvhd.c, vhd_get_phys_size). Of
    one that is written to it is what is on the disk by now. Raises BadImage."""
    with FrozenFile(path) as descriptor:
        return VhdImage(descriptor).data_end()


@contextlib.contextmanager
def raw_ranges(
    path: str, base: Optional[str] = None
) -> Iterator[Tuple[int, Iterator[Tuple[int, int]]]]:
    """The same for a raw image, which has no base."""
    if base is not None:
        raise ImagesUnrelated(path, base)
    with RawImage(FrozenFile(path)) as image:
        yield image.size, image.ranges(image.size)


def _visible(
    chain: "List[_Image]", pool: concurrent.futures.Executor
) -> Iterator[Iterator[Tuple[int, int]]]:
    """For each image its ranges that are not beyond the end of an image above it: from there on
    zeros are read."""
    limit = chain[0].size
    for image in chain:
        limit = min(limit, image.size)
        yield image.ranges(limit, pool)


def _own(
    images: "List[_Image]", size: int, base_size: int, pool: concurrent.futures.Executor
) -> Iterator[Iterator[Tuple[int, int]]]:
    """For each image its ranges; and what only some of the disks and images reach, where the others
    read as zeros."""
    for image in images:
        yield image.ranges(image.size, pool)
    end = min([size, base_size] + [image.size for image in images])
    if end < size:
        yield iter([(end, size)])


def _open_chain(
    opened: contextlib.ExitStack, path: str, known: Collection[Tuple[int, int]] = ()
) -> "Tuple[List[_Image], Optional[Tuple[int, int]]]":
    """The images from `path` downwards, and None; or those above the first whose identity is in
    `known`, and that."""
    images: "List[_Image]" = []
    seen = set()
    link: Optional[_Link] = _Link(path, None)
    while link is not None:
        descriptor = opened.enter_context(FrozenFile(link.path))
        if descriptor.identity in known:
            return images, descriptor.identity
        if descriptor.identity in seen or len(images) == MAX_CHAIN:
            raise BadImage(
                path,
                "a chain that comes back to %s" % link.path
                if descriptor.identity in seen
                else "a chain of more than %d images" % MAX_CHAIN,
            )
        seen.add(descriptor.identity)
        image = RawImage(descriptor) if link.uuid == RAW_PARENT else VhdImage(descriptor)
        if link.uuid not in (None, RAW_PARENT, image.uuid):
            raise BadImage(
                link.path, "not the image of which %s was made a child" % images[-1].path
            )
        images.append(image)
        link = image.parent()
    return images, None


class _Link(object):
    """Where an image lies, and which uuid it has to have: None if any, RAW_PARENT if it is raw."""

    def __init__(self, path: str, uuid: Optional[bytes]) -> None:
        self.path = path
        self.uuid = uuid


class RawImage(object):
    """A disk as it is, byte for byte. `size`: whole sectors."""

    uuid: Optional[bytes] = None

    def __init__(self, descriptor: FrozenFile) -> None:
        self._file = descriptor
        self.path = descriptor.path
        self.identity = descriptor.identity
        self.size = descriptor.size - descriptor.size % SECTOR

    def __enter__(self) -> "RawImage":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def ranges(
        self, limit: int, _pool: Optional[concurrent.futures.Executor] = None
    ) -> Iterator[Tuple[int, int]]:
        """(start, end) of data below `limit` bytes, ascending."""
        return self._file.data_ranges(min(limit, self.size))

    def parent(self) -> Optional[_Link]:
        """None: it stands alone."""
        return None


class VhdImage(object):
    """One VHD. `size`: of the disk, bytes, whole sectors; `uuid`: its 16 bytes."""

    uuid: bytes
    _type: int
    _block: int
    _parent_uuid: bytes
    _locators: bytes

    def __init__(self, descriptor: FrozenFile) -> None:
        self._file = descriptor
        self.path = descriptor.path
        self.identity = descriptor.identity
        (
            _,
            _,
            _,
            header_offset,
            _,
            creator,
            version,
            _,
            _,
            size,
            _,
            self._type,
            _,
            self.uuid,
            _,
        ) = self._footer()
        self.size = size - size % SECTOR
        self._by_tapdisk = creator.startswith(TAPDISK)
        if self._by_tapdisk and not TAPDISK_OLDEST <= version <= TAPDISK_NEWEST:
            raise self._bad("of tapdisk's version %#x, which is not known" % version)
        if self._type == FIXED:
            if size > descriptor.size:
                raise self._bad(
                    "a fixed disk of %d bytes that ends at %d" % (size, descriptor.size)
                )
        elif self._type in (DYNAMIC, DIFFERENCING):
            self._read_header(header_offset)
        else:
            raise self._bad("of type %d" % self._type)

    def ranges(self, limit: int, pool: concurrent.futures.Executor) -> Iterator[Tuple[int, int]]:
        """(start, end) of what this image itself holds below `limit` bytes, ascending; exact to the
        sector.

        `pool`: an executor whose threads read bitmaps ahead.
        """
        limit = min(limit, self.size)
        return (
            self._file.data_ranges(limit)
            if self._type == FIXED
            else self._block_ranges(limit, pool)
        )

    def data_end(self) -> int:
        """Bytes up to the end of its last block, or of its headers and tables, and a footer."""
        if self._type == FIXED:
            return self._file.size
        length = self._bitmap_padded + self._block
        ends = [sector * SECTOR + length for sector in self._table if sector != UNUSED]
        return max(ends + [self._tables_end]) + SECTOR

    def parent(self) -> Optional[_Link]:
        """The _Link to the image below, or None. Raises BadImage if there should be one and it is
        not to be found."""
        if self._type != DIFFERENCING:
            return None
        names = list(self._parent_names())
        for name in names:
            for directory in self._directories():
                path = os.path.join(directory, name)
                if os.path.exists(path):
                    return _Link(os.path.normpath(path), self._parent_uuid)
        raise self._bad(
            "its parent is not to be found: %s" % (", ".join(names) or "no locator names it")
        )

    def _bad(self, why: str) -> BadImage:
        return BadImage(self.path, why)

    def _footer(self) -> Tuple[Any, ...]:
        """The one at the end, or, if that is torn, its copy at the beginning. Old images have one
        of only 511 bytes."""
        end = self._file.size
        places = [end - SECTOR] + ([end - SECTOR + 1] if end % SECTOR == SECTOR - 1 else []) + [0]
        for place in places:
            if place < 0 or end < SECTOR:
                continue
            raw = self._file.read(place, min(SECTOR, end - place)).ljust(SECTOR, b"\0")
            if raw[:8] in (COOKIE, POISON) and _checksum(raw, FOOTER_CHECKSUM):
                if raw.startswith(POISON):
                    raise self._bad("marked as not to be used")
                return FOOTER.unpack(raw)
        raise self._bad("no VHD: neither footer is whole")

    def _read_header(self, offset: int) -> None:
        raw = self._file.read(offset, HEADER.size)
        (
            cookie,
            _,
            table_offset,
            version,
            entries,
            self._block,
            _,
            self._parent_uuid,
            _,
            _,
            _,
            self._locators,
        ) = HEADER.unpack(raw)
        if cookie != HEADER_COOKIE or not _checksum(raw, HEADER_CHECKSUM):
            raise self._bad("the header at %d is not whole" % offset)
        if version != HEADER_VERSION:
            raise self._bad("of header version %#x" % version)
        if self._block not in BLOCK_SIZES:
            raise self._bad("has blocks of %d bytes" % self._block)
        blocks = -(-self.size // self._block)
        if blocks > min(entries, MAX_BLOCKS):
            raise self._bad("a disk of %d blocks with a table of %d" % (blocks, entries))
        self._bitmap = self._block // SECTOR // 8  # bytes, before each block's data
        self._bitmap_padded = self._bitmap + -self._bitmap % SECTOR
        self._table = array.array("I", self._file.read(table_offset, 4 * blocks))
        if sys.byteorder == "little":
            self._table.byteswap()
        self._check_table(
            max(-(-(table_offset + 4 * blocks) // SECTOR), -(-(offset + HEADER.size) // SECTOR))
        )
        batmap_offset = table_offset + 4 * entries + -(4 * entries) % SECTOR
        batmap = SECTOR + entries // 8 + -(entries // 8) % SECTOR if self._by_tapdisk else 0
        self._tables_end = batmap_offset + batmap
        self._full = self._read_batmap(batmap_offset, blocks) if self._by_tapdisk else b""

    def _check_table(self, first: int) -> None:
        """No block lies over the headers or over another one."""
        length = (self._bitmap_padded + self._block) // SECTOR
        previous = None
        for sector in sorted(entry for entry in self._table if entry != UNUSED):
            if sector < first or previous is not None and sector < previous + length:
                raise self._bad(
                    "its table refers to sector %d, which is in use for something else" % sector
                )
            previous = sector

    def _read_batmap(self, offset: int, blocks: int) -> bytes:
        """tapdisk's map of the blocks that are full, or nothing: it is not needed, and may be old
        or torn.

        A bit that is set is right also in an old one, as no sector of an image is ever taken back.
        """
        if offset + SECTOR > self._file.size:
            return b""
        cookie, map_offset, sectors, version, checksum = BATMAP.unpack(
            self._file.read(offset, BATMAP.size)
        )
        # As long as tapdisk reads it: it may leave the last few blocks out.
        length = max(-(-(self.size // self._block // 8) // SECTOR), 1) * SECTOR
        if (
            cookie != BATMAP_COOKIE
            or length > sectors * SECTOR
            or map_offset + length > self._file.size
        ):
            return b""
        found = self._file.read(map_offset, length)
        total = sum(found)
        if version == SIGNED_BATMAP:
            total -= 256 * sum(byte >> 7 for byte in found)
        return found if checksum == ~total & 0xFFFFFFFF else b""

    def _is_full(self, block: int) -> bool:
        return block // 8 < len(self._full) and bool(self._full[block // 8] & 0x80 >> block % 8)

    def _block_ranges(
        self, limit: int, pool: concurrent.futures.Executor
    ) -> Iterator[Tuple[int, int]]:
        offsets = (
            sector * SECTOR for block, sector in self._allocated(limit) if not self._is_full(block)
        )
        bitmaps = self._file.read_each(offsets, self._bitmap, pool)
        for block, sector in self._allocated(limit):
            start = block * self._block
            sectors = min(self._block, limit - start) // SECTOR
            runs = [(0, sectors)] if self._is_full(block) else _runs(next(bitmaps), sectors)
            if runs:
                data_end = sector * SECTOR + self._bitmap_padded + runs[-1][1] * SECTOR
                if data_end > self._file.size:
                    raise self._bad(
                        "ends at %d, with data of block %d up to %d"
                        % (self._file.size, block, data_end)
                    )
            for first, last in runs:
                yield start + first * SECTOR, start + last * SECTOR

    def _allocated(self, limit: int) -> Iterator[Tuple[int, int]]:
        """(block, its sector in the file) of those that are there and begin below `limit` bytes."""
        for block in range(-(-limit // self._block)):
            if self._table[block] != UNUSED:
                yield block, self._table[block]

    def _parent_names(self) -> Iterator[str]:
        """The parent's path, absolute or relative, as each locator that can be read names it."""
        for at in range(0, len(self._locators), LOCATOR.size):
            code, space, length, _, offset = LOCATOR.unpack_from(self._locators, at)
            encoding, prefixes = LOCATORS.get(struct.pack(">I", code), (None, ()))
            if encoding is None or not 0 < length <= MAX_LOCATOR:
                continue
            try:  # tapdisk takes no other than ASCII names
                name = (
                    self._file.read(offset, length).decode(encoding).encode("ascii").decode("ascii")
                )
            except UnicodeError:
                continue
            prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
            name = (
                name[len(prefix) :]
                if encoding == "utf-8"
                else name[len(prefix) :].replace("\\", "/")
            )
            if name and "\0" not in name:
                yield name

    def _directories(self) -> Iterator[str]:
        """Where a relative name may begin: where the image is seen, where it lies, and where
        volumes are."""
        yield os.path.dirname(os.path.abspath(self.path))
        yield os.path.dirname(os.path.realpath(self.path))
        if self._file.is_device:
            yield DEVICES


_Image = Union[RawImage, VhdImage]


def _checksum(raw: bytes, at: int) -> bool:
    """Whether the big-endian checksum at `at` is that of all other bytes: their sum, inverted."""
    (stored,) = struct.unpack_from(">I", raw, at)
    return stored == ~(sum(raw) - sum(raw[at : at + 4])) & 0xFFFFFFFF


def _runs(bitmap: bytes, sectors: int) -> List[Tuple[int, int]]:
    """The runs of ones among the first `sectors` bits, most significant first: [(first, one past
    the last), ...]."""
    width = 8 * len(bitmap)
    value = int.from_bytes(bitmap, "big") >> (width - sectors)
    if value == 0:
        return []
    if value == (1 << sectors) - 1:
        return [(0, sectors)]
    return [match.span() for match in _ONES.finditer(format(value, "0%db" % sectors))]
