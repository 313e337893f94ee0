# SPDX-License-Identifier: LGPL-2.1-only
"""What the guest writes into a sector: bytes that tell which disk, sector and generation they are.

A sector is one 64-byte label, eight times over: magic, disk key, sector number, generation, and a
digest over those. So whatever a sector holds, a reader can tell whose it is and how old, and a torn
sector does not pass.
"""

import hashlib
import struct

SECTOR = 512
MAGIC = b"SXMGUEST"
LABEL = struct.Struct(">8s8sQQ32s")
HEAD = struct.Struct(">8s8sQQ")
REPEATS = SECTOR // LABEL.size
BLANK = bytes(SECTOR)

FOREIGN = -1
"""The generation of a sector that is neither blank nor one of ours."""


def disk_key(seed, device):
    """The 8 bytes that name one disk of one guest, the same on every host and after every start."""
    return hashlib.blake2b(("%s/%s" % (seed, device)).encode(), digest_size=8).digest()


def sector_bytes(key, sector, generation):
    """The 512 bytes of `sector` in `generation` (1, 2, ...; generation 0 is blank)."""
    if generation == 0:
        return BLANK
    head = HEAD.pack(MAGIC, key, sector, generation)
    return (head + hashlib.blake2b(head, digest_size=32).digest()) * REPEATS


def extent_bytes(key, first, generations):
    """The bytes of consecutive sectors from `first`, one generation each."""
    return b"".join(
        [
            sector_bytes(key, first + index, generation)
            for index, generation in enumerate(generations)
        ]
    )


def generation_of(key, sector, data):
    """The generation that these 512 bytes are of `sector`: 0 if blank, FOREIGN if not one of
    ours."""
    if data == BLANK:
        return 0
    magic, found_key, found_sector, generation, _ = LABEL.unpack_from(data)
    if (
        magic == MAGIC
        and found_key == key
        and found_sector == sector
        and data == sector_bytes(key, sector, generation)
    ):
        return generation
    return FOREIGN
