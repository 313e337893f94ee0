# SPDX-License-Identifier: LGPL-2.1-only
"""What of a disk the destination has for sure when its copy is taken up again.

A mover that is dead has left a file of the windows that it verified, of its snapshot
(source/verified_windows.py). That is trusted only if all of this holds; else all of both disks is
read and compared:

* the file is of this migration, that snapshot, and the mover that mirrored the disk last: what
  another one has mirrored since is not in it;
* the destination's disk has the same contents still: it names them anew whenever the tapdisk that
  filled the disk has not been closed in order, by us (received_vdis.py), as after a crash of its
  host, or where such a tapdisk may answer before all is in the image (sm/disks/filled.py);
* the snapshot is there still, as the snapshots of earlier mirrors are (snapshots.py), and SM's
  driver tells where the new one may differ from it. Those windows are left out.
"""

import logging
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional

import XenAPI

from storage_motion.errors import SmFault
from storage_motion.source import verified_windows
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

log = logging.getLogger("sxm")

# Where a VDI may differ from another one (UUIDs): {"size", "extents"}. Raises SmFault.
Since = Callable[[str, str], Dict[str, Any]]


class Known(NamedTuple):
    """`verified`: the path of the file. `changed`: {"size", "extents"}: where the snapshot that is
    to be copied may differ from the one which that file tells of."""

    verified: str
    changed: Dict[str, Any]


def heading(m: "Migration", disk: "Disk", snapshot: str) -> Dict[str, Any]:
    """Of what the file tells that the mover of a disk makes of a `snapshot` (a UUID)."""
    return {"migration": m.id, "snapshot": snapshot, "contents": m.disk(disk.key).get("contents")}


def look(
    m: "Migration", disk: "Disk", snapshot: str, verified: str, since: Since
) -> Optional[Known]:
    """What is known of a disk whose copy is taken up again with a `snapshot` (a UUID), which is
    open, by the file at the path `verified`; or None. Never raises for what SM's drivers or xapi
    refuse: then all is compared."""
    of = verified_windows.heading_of(verified)
    if (
        of is None
        or of != heading(m, disk, of.get("snapshot", ""))
        or not of["contents"]
        # One of no snapshot, which somebody may have had meanwhile: of a VM that is halted, or has
        # the disk read-only, or not plugged.
        or of["snapshot"] == snapshot
    ):
        return None
    before: str = of["snapshot"]
    try:
        if Records(m.source).ref("VDI", before) is None:
            return None
        changed = since(snapshot, before)
    except (SmFault, XenAPI.Failure) as fault:
        log.warning("%s: what of VDI %s is known is not used: %s", m.id, disk.key, fault)
        return None
    log.info("%s: VDI %s: what was verified of %s is known", m.id, disk.key, before)
    return Known(verified, changed)
