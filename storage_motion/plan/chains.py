# SPDX-License-Identifier: LGPL-2.1-only
"""The chains of images that disks are, by xapi's records, and how long SM lets one become.

SM takes no snapshot, and makes no clone, of a disk whose chain is that long (FileSR.py and
LVHDSR.py, `_snapshot`: SnapshotChainTooLong). Each snapshot adds an image, unless nothing was
written to the disk since the one before.
"""

from typing import TYPE_CHECKING, Any, Dict, List, Optional

from storage_motion.plan.plan import Plan
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.plan.protocols import Problems

LONGEST = 30
"""Images, the disk's own among them: vhdutil.py, MAX_CHAIN_SIZE; XCP-ng's qcow2util.py,
MAX_QCOW_CHAIN_LENGTH."""
PARENT = "vhd-parent"
"""Key in a VDI's sm_config, whatever its format: the UUID of the VDI whose image its own is on."""


def of(records: Records, vdi: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The VDI (its record) and those whose images are beneath its own, as records."""
    found: Dict[str, Dict[str, Any]] = {}
    one: Optional[Dict[str, Any]] = vdi
    while one and one["uuid"] not in found:
        found[one["uuid"]] = one
        parent = one["sm_config"].get(PARENT)
        one = records.by_uuid("VDI", parent)[1] if parent else None
    return list(found.values())


def require(source: Records, plan: Plan, problems: "Problems") -> List[str]:
    """Look whether SM takes the snapshots that the mirrors of a plan begin with; what is wrong goes
    to `problems`. Warnings: of disks of which it takes one, and no other, should the mirror have to
    be taken up again."""
    warnings = []
    for disk in plan.disks:
        if not plan.mirrors(disk):
            continue
        length = len(of(source, source.by_uuid("VDI", disk.key)[1]))
        if length >= LONGEST:
            problems.add(
                "vm",
                "disk %s (%s) is a chain of %d images, and SM takes no snapshot of one of %d"
                % (disk.key, disk.name_label, length, LONGEST),
                "delete a snapshot of the VM and wait until SM has coalesced its image, or shut "
                "the VM down, and move it halted",
            )
        elif length == LONGEST - 1:
            warnings.append(
                "disk %s (%s) is a chain of %d images, and SM takes just one more snapshot of it: "
                "should its mirror break, the migration is taken back"
                % (disk.key, disk.name_label, length)
            )
    return warnings
