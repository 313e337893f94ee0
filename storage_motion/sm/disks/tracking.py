# SPDX-License-Identifier: LGPL-2.1-only
"""The log of a disk's changed blocks, which sm has its tapdisk keep (VDI.py, cbtutil.py;
drivers/tapdisk-pause).

It is told to a tapdisk at each unpause; one that does not name it ends it, and sm, which sees the
file, takes the disk for tracked still: a backup would lack what is written from then on. And a
tapdisk puts a mirror between the log and the image (tapdisk-vbd.c, tapdisk_vbd_add_secondary), so
that the guest's writes pass the image by, and its reads go to the mirror: never both.
"""

from typing import Any, Dict, Optional

from storage_motion.dom0 import tapctl
from storage_motion.sm import stock_sm
from storage_motion.sm.disks.disk import Disk

util = stock_sm.module("core.util")

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


def kept_by(stats: Dict[str, Any]) -> Optional[str]:
    """The path of the log that a tapdisk keeps, by its statistics, or None."""
    return next((one["name"] for one in stats["images"] if one["driver"]["name"] == LAYER), None)


def log_to_keep(disk: Disk, vbd: tapctl.Vbd) -> Optional[str]:
    """The path that an unpause of its tapdisk has to name, or None. Its own word comes first, as sm
    takes an `lvs` that fails for no log. Never raises: the guest has to go on in any case."""
    for ask in (lambda: kept_by(tapctl.stats(vbd)), lambda: log_of(disk)):
        try:
            found = ask()
        except Exception:  # of sm's drivers it can be any
            util.logException("the log of VDI %s" % disk.uuid)
        else:
            if found:
                return found
    return None


def is_tracked(disk: Disk) -> bool:
    """Whether the disk is tracked, or is about to be."""
    return (
        ENABLING in disk.api.get_current_operations(disk.ref).values() or log_of(disk) is not None
    )
