# SPDX-License-Identifier: LGPL-2.1-only
"""The log files of changed blocks. Upstream runs /usr/sbin/cbt-util for each of these; here the
file itself is read and written, which is laid out as that program's (cbt-util.h of blktap): a
header and a bit for each block of 64 KiB. No tapdisk of the lab sets a bit."""

import errno
import os
import struct
import uuid

from sm.core import util

CBTLOG_TAG = "cbtlog"
CBT_BLOCK_SIZE = 64 * 1024
NOBODY = str(uuid.UUID(int=0))

_HEADER = struct.Struct("=16s16si4xQ")  # parent, child, whether it is consistent, the disk's size
_PARENT, _CHILD, _CONSISTENT, _SIZE = range(4)


def create_cbt_log(file_name, size):
    """Make the log of a disk of `size` bytes: nothing has changed, and it is nobody's parent or
    child. Raises CommandException, as all of these."""
    with _opened(file_name, "wb") as log:
        log.write(_HEADER.pack(bytes(16), bytes(16), 0, int(size)))
        log.truncate(_HEADER.size + _bitmap_size(int(size)))


def get_cbt_parent(file_name):
    """The UUID of the VDI whose log comes before this one; NOBODY."""
    return str(uuid.UUID(bytes=_read(file_name)[_PARENT]))


def set_cbt_parent(file_name, parent_uuid):
    _write(file_name, _PARENT, uuid.UUID(str(parent_uuid)).bytes)


def get_cbt_child(file_name):
    """The UUID of the one whose log follows; NOBODY."""
    return str(uuid.UUID(bytes=_read(file_name)[_CHILD]))


def set_cbt_child(file_name, child_uuid):
    _write(file_name, _CHILD, uuid.UUID(str(child_uuid)).bytes)


def get_cbt_consistency(file_name):
    """Whether no tapdisk has it open, or died with it open."""
    return bool(_read(file_name)[_CONSISTENT])


def set_cbt_consistency(file_name, consistent):
    _write(file_name, _CONSISTENT, int(bool(consistent)))


def get_cbt_size(file_name):
    """Bytes of the disk."""
    return _read(file_name)[_SIZE]


def set_cbt_size(file_name, size):
    if size < get_cbt_size(file_name):
        raise util.CommandException(errno.EINVAL, "cbt-util set -s", "it may only grow")
    _write(file_name, _SIZE, int(size))
    with _opened(file_name, "r+b") as log:
        log.truncate(_HEADER.size + _bitmap_size(int(size)))


def coalesce_bitmap(parent_path, child_path):
    """Note in the child what has changed in the parent."""
    with _opened(parent_path, "rb") as parent, _opened(child_path, "r+b") as child:
        ours, theirs = parent.read()[_HEADER.size :], child.read()[_HEADER.size :]
        if len(theirs) < len(ours):
            raise util.CommandException(errno.EINVAL, "cbt-util coalesce", "the child is smaller")
        child.seek(_HEADER.size)
        child.write(bytes(one | other for one, other in zip(ours, theirs)))


def _bitmap_size(size):
    return -(-size // (8 * CBT_BLOCK_SIZE))


def _opened(file_name, mode):
    try:
        return open(file_name, mode)
    except OSError as error:
        raise util.CommandException(
            error.errno, "cbt-util %s" % file_name, os.strerror(error.errno)
        )


def _read(file_name):
    with _opened(file_name, "rb") as log:
        header = log.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise util.CommandException(errno.EIO, "cbt-util get -n %s" % file_name, "no header")
    return _HEADER.unpack(header)


def _write(file_name, field, value):
    fields = list(_read(file_name))
    fields[field] = value
    with _opened(file_name, "r+b") as log:
        log.write(_HEADER.pack(*fields))
