# SPDX-License-Identifier: LGPL-2.1-only
"""The log of a disk's changed blocks, which sm has its tapdisk keep (VDI.py, cbtutil.py;
drivers/tapdisk-pause).

It is told to a tapdisk at each unpause; one that does not name it ends it, and sm, which sees the
file, takes the disk for tracked still: a backup would lack what is written from then on. And a
tapdisk puts a mirror between the log and the image (tapdisk-vbd.c, tapdisk_vbd_add_secondary), so
that the guest's writes pass the image by, and its reads go to the mirror: never both.
"""

from typing import Any, Dict, Optional

from storage_motion.sm.disks.disk import Disk

ENABLING = "enable_cbt"  # in current_operations of a VDI
LAYER = "log"  # the driver of it (tapdisk-disktype.c)


def log_of(disk: Disk) -> Optional[str]:
    """The path of the log, activated where it is a volume; None if the disk is not tracked. Without
    xapi, which may be away."""
    vdi = disk.tapped.target.vdi
    path: str = vdi._get_cbt_logpath(disk.uuid)
    if not vdi._cbt_log_exists(path):
        return None
    vdi._activate_cbt_log(vdi._get_cbt_logname(disk.uuid))
    return path


def has_log(stats: Dict[str, Any]) -> bool:
    """Whether a tapdisk keeps one, by its statistics."""
    return any(image["driver"]["name"] == LAYER for image in stats["images"])


def is_tracked(disk: Disk) -> bool:
    """Whether the disk is tracked, or is about to be."""
    return (
        ENABLING in disk.api.get_current_operations(disk.ref).values() or log_of(disk) is not None
    )
