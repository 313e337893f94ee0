# SPDX-License-Identifier: LGPL-2.1-only
"""The layer that tracks changed blocks, with its log: a file with a header and a bit for each block
of 64 KiB (block-log.c, cbt-util.h of blktap). It is opened and shown as by the real one; no bit is
ever set in it."""

import errno
import os

from . import records

HEADER = 48  # bytes: struct cbt_log_metadata
BLOCK = 64 * 1024


def require(path, size):
    """Whether a tapdisk can put it above a disk of `size` bytes. OSError: EPERM as the real one
    fails; ENOTSUP where the real one, which maps as much as the disk needs, dies of a write beyond
    the file's end."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        raise records.failure(errno.EPERM) from None
    if os.stat(path).st_size < HEADER + -(-size // (8 * BLOCK)):
        raise records.not_imitated("the death of a tapdisk whose log of changed blocks is short")


def below_a_mirror():
    """The OSError of a disk that is to have both. The real one puts the mirror between this layer
    and the leaf (tapdisk-vbd.c, tapdisk_vbd_add_secondary): nothing that the guest writes comes to
    the leaf, and what it reads is asked of the mirror."""
    return records.not_imitated("a mirror of a disk whose changed blocks are tracked")
