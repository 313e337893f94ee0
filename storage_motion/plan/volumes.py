# SPDX-License-Identifier: LGPL-2.1-only
"""How large the storage manager makes what holds a disk: logical volumes, and images that are
empty.

By sm's source, upstream's 4.1 (lvhdutil.py, vhdutil.py, LVHDSR.py) and XCP-ng's 3.2.12-21
(lvmcowutil.py, vhdutil.py, qcow2util.py, LVMSR.py), which agree on VHD. All in bytes.
"""

from storage_motion.plan import formats

MIB = 1024**2
TYPES = formats.ON_LVM
EXTENT = 4 * MIB  # lvutil.LVM_SIZE_INCREMENT
JOURNAL = 4 * MIB  # journaler.LV_SIZE: a volume for what is under way
VHD_BLOCK = 2 * MIB
VHD_BITMAP = 4096  # before each block
# What the metadata of each VHD on LVM is made for, so that it may grow (lvhdutil.MSIZE).
VHD_LARGEST = 2 * 1024**4
CLUSTER = 64 * 1024  # of QCOW2


def roundup(size: int, unit: int) -> int:
    """`size`, or the next multiple of `unit`."""
    return -(-size // unit) * unit


def smallest(kind: str, size: int) -> int:
    """The volume of an image for a disk of `size` bytes while nothing is in it."""
    if kind == formats.QCOW2:
        return roundup(_empty_qcow2(size), EXTENT)
    return roundup(_empty_vhd(VHD_LARGEST), EXTENT)


def file(kind: str, size: int) -> int:
    """The file of such an image while nothing is in it; QCOW2's tables grow with its data."""
    if kind == formats.QCOW2:
        return (3 + _first_tables(size)) * CLUSTER
    return _empty_vhd(size)


def full(kind: str, size: int) -> int:
    """The volume in which such an image may be written to: whatever the SR's allocation is, SM
    makes it as large as the disk may ever need (calcSizeVHDLV, calcVolumeSize)."""
    if kind == formats.RAW:
        return roundup(size, EXTENT)
    if kind == formats.QCOW2:
        return roundup(size + _empty_qcow2(size), EXTENT)
    bitmaps = -(-size // VHD_BLOCK) * VHD_BITMAP
    return roundup(size + _empty_vhd(VHD_LARGEST) + bitmaps, EXTENT)


def _empty_vhd(size: int) -> int:
    """Footer and its copy, header, locators; the table of blocks, a map of them."""
    blocks = size // MIB // 2
    return roundup(roundup(3 * 1024 + 4 * blocks, 512) + blocks // 8, 4096)


def _empty_qcow2(size: int) -> int:
    """What `qemu-img measure` has as required: a header, the tables of both levels, and the counts
    of all clusters that there may be."""
    clusters = -(-size // CLUSTER)
    known, counts = 1 + _first_tables(size) + _second_tables(size), 0
    while True:
        table = max(1, -(-counts * 8 // CLUSTER))
        needed = -(-(clusters + known + counts + table) * 2 // CLUSTER)
        if needed == counts:
            return (known + counts + table) * CLUSTER
        counts = needed


def _second_tables(size: int) -> int:
    return -(-(roundup(size, CLUSTER) // CLUSTER) * 8 // CLUSTER)


def _first_tables(size: int) -> int:
    return max(1, -(-_second_tables(size) * 8 // CLUSTER))
