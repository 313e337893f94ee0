# SPDX-License-Identifier: LGPL-2.1-only
"""Disks of a running VM that are marked as sharable, and that it writes to. xapi takes no snapshot
of such a disk (xapi_vdi.ml, check_operation_error), which a mirror begins with; its own migration
has SM take one, past that. So the mark is off at the source until the VM has moved, or stays. No
other VM has the disk (plan/checks.py), and while the mark is off none can plug it.

The mark is for SM's drivers to set (message_forwarding.ml, set_sharable): nobody else can, not even
an administrator. The new disk is made with it.
"""

from typing import TYPE_CHECKING, List, Optional

from storage_motion.errors import MirrorBroken
from storage_motion.xapi import managed
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk


def take_off(m: "Migration", only: "Optional[Disk]" = None) -> None:
    """Take the mark off, which an older database may have brought back: of all, or of the one that
    is about to be mirrored."""
    _set(m, False, only)


def require_off(m: "Migration", disk: "Disk") -> None:
    """Raises MirrorBroken where an older database has brought the mark of a disk back: another VM
    may have plugged it since, written to it and gone, of which no mirror tells."""
    if disk in _marked(m) and not _is(m, disk, False):
        m.note(disk.key, state="broken")
        raise MirrorBroken(disk.key, "others could plug it, as it was marked as sharable again")


def put_back(m: "Migration") -> None:
    """Mark them again, as far as they are still there."""
    _set(m, True)


def lacking(m: "Migration") -> List[str]:
    """Which of them are not marked: a list, in words."""
    return [
        "that VDI %s is marked as sharable" % disk.key
        for disk in _marked(m)
        if not _is(m, disk, True)
    ]


def _marked(m: "Migration") -> "List[Disk]":
    return [disk for disk in m.plan.disks if disk.sharable and m.plan.mirrors(disk)]


def _is(m: "Migration", disk: "Disk", value: bool) -> bool:
    """Whether its mark is so, or it is not there any more."""
    vdi = Records(m.source).ref("VDI", disk.key)
    return vdi is None or bool(m.source.xenapi.VDI.get_sharable(vdi)) == value


def _set(m: "Migration", value: bool, only: "Optional[Disk]" = None) -> None:
    for disk in _marked(m):
        if only in (None, disk) and not _is(m, disk, value):
            vdi = m.source_vdi(disk)
            with managed.as_driver(m.source.xenapi.VDI.get_SR(vdi)) as driver:
                driver.xenapi.VDI.set_sharable(vdi, value)
