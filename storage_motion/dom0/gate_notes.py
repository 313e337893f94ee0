# SPDX-License-Identifier: LGPL-2.1-only
"""That this host opens, or has opened, the gate of a VDI: a file of its own for each, on disk
before the gate is touched.

The gate itself is in xapi's database, which a crash takes back: a gate that was open reads as shut
then, though the VM may have run behind it.
"""

import os

from storage_motion.dom0 import root

DIRECTORY = "/var/lib/sxm"


def note(vdi_uuid: str) -> None:
    """Note it, so that it outlives a loss of power. Raises OSError: then the gate must stay
    shut."""
    before = noted(vdi_uuid)  # by a call that may have opened the gate: that stays
    os.close(os.open(_path(vdi_uuid), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        _sync_directory()
    except OSError:
        if not before:
            os.unlink(_path(vdi_uuid))
        raise


def noted(vdi_uuid: str) -> bool:
    """Whether it is noted."""
    return os.path.exists(_path(vdi_uuid))


def forget(vdi_uuid: str) -> None:
    """Take that back: the gate is shut, or nobody will ask any more."""
    try:
        os.unlink(_path(vdi_uuid))
    except FileNotFoundError:
        return
    _sync_directory()


def _path(vdi_uuid: str) -> str:
    return os.path.join(root.private_directory(DIRECTORY), "opened-" + vdi_uuid)


def _sync_directory() -> None:
    descriptor = os.open(root.path(DIRECTORY), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
