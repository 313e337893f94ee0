# SPDX-License-Identifier: LGPL-2.1-only
"""VHDs built byte by byte, after Microsoft's specification: chains, and damage, that qemu-img
cannot make."""

import os
import struct
import uuid

SECTOR = 512
BLOCK = 2 << 20
UNUSED = 0xFFFFFFFF


def sector_data(image, sector):
    """What image number `image` of a chain writes into a sector: never zeros."""
    return struct.pack(">QQ", image + 1, sector) * (SECTOR // 16)


def checksum(raw, at):
    """`raw` with its checksum at `at`."""
    raw = bytearray(raw)
    raw[at : at + 4] = bytes(4)
    raw[at : at + 4] = struct.pack(">I", ~sum(raw) & 0xFFFFFFFF)
    return bytes(raw)


class Vhd(object):
    """One image to be built; every field of it may be changed before `write`.

    `written`: {sector of the disk: its 512 bytes}. `parent`: a Vhd, or the path of a raw image.
    """

    def __init__(self, path, size, written=(), parent=None, block=BLOCK):
        self.path = str(path)
        self.size = size
        self.written = dict(written)
        self.parent = parent
        self.block = block
        self.uuid = uuid.uuid4().bytes
        self.kind = 3 if parent is None else 4
        self.creator, self.version = b"test", 0x10000
        self.cookie, self.header_cookie = b"conectix", b"cxsparse"
        self.entries = -(-size // block)
        self.full = None  # the batmap, if it has one: which blocks
        self.batmap_version = 0x10002
        self.parent_uuid = bytes(16)
        self.locators = []  # (platform code, bytes)
        self.places = {}  # block -> sector in the file, as they are written
        if parent is not None:
            raw = isinstance(parent, str)
            name = os.path.basename(parent if raw else parent.path)
            self.parent_uuid = bytes(16) if raw else parent.uuid
            self.locators = [
                (b"MacX", ("file://./" + name).encode()),
                (
                    b"W2ku",
                    (os.path.dirname(self.path) + "/" + name)
                    .replace("/", "\\")
                    .encode("utf-16-le"),
                ),
                (b"W2ru", (".\\" + name).encode("utf-16-le")),
            ]

    def footer(self):
        """512 bytes."""
        return checksum(
            struct.pack(
                ">8sIIQI4sIIQQIII16sB427x",
                self.cookie,
                2,
                0x10000,
                UNUSED << 32 | UNUSED if self.kind == 2 else SECTOR,
                0,
                self.creator,
                self.version,
                0x5769326B,
                self.size,
                self.size,
                0,
                self.kind,
                0,
                self.uuid,
                0,
            ),
            64,
        )

    def header(self, table_offset, locators):
        """1024 bytes."""
        name = (
            os.path.basename(self.parent if isinstance(self.parent, str) else self.parent.path)
            if self.parent
            else ""
        )
        return checksum(
            struct.pack(
                ">8sQQIIII16sII512s192s256x",
                self.header_cookie,
                UNUSED << 32 | UNUSED,
                table_offset,
                0x10000,
                self.entries,
                self.block,
                0,
                self.parent_uuid,
                0,
                0,
                name.encode("utf-16-be"),
                locators,
            ),
            36,
        )

    def write(self):
        """Write the file; returns its path."""
        with open(self.path, "wb") as out:
            if self.kind == 2:
                self._write_fixed(out)
            else:
                self._write_dynamic(out)
            out.write(self.footer())
        return self.path

    def _write_fixed(self, out):
        for sector, data in sorted(self.written.items()):
            out.seek(sector * SECTOR)
            out.write(data)
        out.seek(self.size)

    def _write_dynamic(self, out):
        table_offset = 3 * SECTOR
        at = table_offset + -(-4 * self.entries // SECTOR) * SECTOR
        if self.full is not None:
            at = self._write_batmap(out, at)
        entries = b""
        for code, data in self.locators:
            out.seek(at)
            out.write(data)
            space = -(-len(data) // SECTOR)
            entries += code + struct.pack(">IIIQ", space, len(data), 0, at)
            at += space * SECTOR
        per_block = self.block // SECTOR
        table = [UNUSED] * self.entries
        for block in sorted({sector // per_block for sector in self.written}):
            table[block] = self.places[block] = at // SECTOR
            bitmap = bytearray(-(-per_block // 8 // SECTOR) * SECTOR)
            for sector in sorted(sector for sector in self.written if sector // per_block == block):
                bit = sector % per_block
                bitmap[bit // 8] |= 0x80 >> bit % 8
                out.seek(at + len(bitmap) + bit * SECTOR)
                out.write(self.written[sector])
            out.seek(at)
            out.write(bitmap)
            at += len(bitmap) + self.block
        out.seek(0)
        out.write(
            self.footer()
            + self.header(table_offset, entries)
            + struct.pack(">%dI" % self.entries, *table)
        )
        out.truncate(at)
        out.seek(at)

    def _write_batmap(self, out, at):
        length = max(-(-(self.entries // 8) // SECTOR), 1) * SECTOR
        batmap = bytearray(length)
        for block in self.full:
            batmap[block // 8] |= 0x80 >> block % 8
        total = sum(
            byte - 256 if self.batmap_version == 0x10001 and byte > 127 else byte for byte in batmap
        )
        out.seek(at)
        out.write(
            struct.pack(
                ">8sQIII",
                b"tdbatmap",
                at + SECTOR,
                length // SECTOR,
                self.batmap_version,
                ~total & 0xFFFFFFFF,
            ).ljust(SECTOR, b"\0")
            + batmap
        )
        return at + SECTOR + length
