# SPDX-License-Identifier: LGPL-2.1-only
"""Which images make up a disk: the headers of qcow2 files, read without QEMU."""

import errno
import os
import stat
import struct

from . import records

QCOW2_MAGIC = b"QFI\xfb"
# magic, version, backing_file_offset, backing_file_size, cluster_bits, size (docs/interop/qcow2.txt
# of QEMU)
_HEADER = struct.Struct(">4sIQIIQ")
LONGEST_CHAIN = 64
VHD = "vhd"
FILE = ".file"
CACHE = {"direct": False, "no-flush": True}
SECTOR = 512


class Image(object):
    """One image: its type ("qcow2" or "aio"), its path, its size in bytes as a disk, its parent's
    path or None."""

    def __init__(self, kind, path, size, parent):
        self.kind = kind
        self.path = path
        self.size = size
        self.parent = parent

    def __str__(self):
        return "%s:%s" % (self.kind, self.path)


def read(args):
    """The chain of a disk named as for `tap-ctl -a` ("type:path"), leaf first. OSError: ENOENT for
    a missing file or a type that tapdisk does not know, ENOTSUP for one that only this stand-in
    does not know, EINVAL for no type or a bad image."""
    kind, colon, path = args.partition(":")
    if not colon:
        raise records.failure(errno.EINVAL)
    if kind in _TYPES_OF_TAPDISK and not (kind == VHD and _is_called_vhd(path)):
        raise records.not_imitated("image type %s" % kind)
    if kind not in _READERS:
        raise records.failure(errno.ENOENT)
    images = [_READERS[kind](path)]
    while images[-1].parent is not None:
        if len(images) == LONGEST_CHAIN:
            raise records.failure(errno.ELOOP)
        images.append(_read_any(images[-1].parent))
    return images


def _read_any(path):
    """An image by what is in it. One that is called a VHD is one, though it has QCOW2 inside
    (lab/sm/cowutil.py)."""
    if _is_called_vhd(path):
        inside = _read_qcow2(path)
        return Image(VHD, path, inside.size, inside.parent)
    with open(path, "rb") as image:
        return _READERS["qcow2" if image.read(4) == QCOW2_MAGIC else "aio"](path)


def _is_called_vhd(path):
    """By the name of a file, or of a logical volume."""
    return path.endswith("." + VHD) or os.path.basename(path).startswith(VHD.upper() + "-")


def _read_qcow2(path):
    with open(path, "rb") as image:
        header = image.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise records.failure(errno.EINVAL)
        magic, _, backing_offset, backing_length, _, size = _HEADER.unpack(header)
        if magic != QCOW2_MAGIC:
            raise records.failure(errno.EINVAL)
        parent = None
        if backing_offset:
            image.seek(backing_offset)
            # a relative name is relative to the image that has it
            parent = os.path.join(os.path.dirname(path), image.read(backing_length).decode())
    return Image("qcow2", path, size, parent)


def _read_raw(path):
    with open(path, "rb") as image:
        return Image("aio", path, image.seek(0, os.SEEK_END) // SECTOR * SECTOR, None)


_READERS = {"qcow2": _read_qcow2, "aio": _read_raw, VHD: _read_any}
_TYPES_OF_TAPDISK = (
    "vhd",
    "ram",
    "vhdsync",
    "sync",
    "vindex",
    "lcache",
    "llecache",
    "llpcache",
    "valve",
    "nbd",
    "log",
)


def node(images, name, readonly):
    """The options of blockdev-add that open a chain as node `name`; the images below are NAME.1 and
    so on, and what an image is in is called as it, with FILE added.

    No image is locked, since tapdisk locks none: the same file may be open elsewhere, for writing
    too. Nothing is synced (`no-flush`), as tapdisk's writes are not; but what QEMU caches reaches
    the kernel with each flush.
    """
    options = child = dict(one(images[0], readonly), **_named(images[0], name, readonly))
    for number, image in enumerate(images[1:], 1):
        child["backing"] = dict(one(image, True), **_named(image, "%s.%d" % (name, number), True))
        child = child["backing"]
    return options


def one(image, readonly):
    """The options of an image of a chain, without its name, and those of its children."""
    options = {
        "driver": "raw" if image.kind == "aio" else "qcow2",
        "cache": CACHE,
        "read-only": readonly,
    }
    if image.kind != "aio":
        options["backing"] = None
    return options


def _named(image, name, readonly):
    is_device = stat.S_ISBLK(os.stat(image.path).st_mode)
    return {
        "node-name": name,
        "file": {
            "driver": "host_device" if is_device else "file",
            "filename": image.path,
            "node-name": name + FILE,
            "locking": "off",
            "cache": CACHE,
            "read-only": readonly,
        },
    }
