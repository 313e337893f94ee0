# SPDX-License-Identifier: LGPL-2.1-only
"""Changed block tracking, which no mirror bears (sm/disks/tracking.py): it is disabled at the
source, and enabled again where the VM is in the end.

The journal's `cbt_disabled` has the disks of which that is owed, from before it is disabled until
it is on disk that it is enabled. The metadata that VDI.data_destroy has left of earlier snapshots
stay in the source's SR. They lead nowhere any more: SM takes the next one for unrelated
(list_changed_blocks), and the backup program makes a full backup.
"""

import json
from typing import TYPE_CHECKING, Dict, List

from storage_motion.errors import DiskTracked
from storage_motion.sm import tracking
from storage_motion.switch.whereabouts import vdi_there
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

FUNCTION = "receive-track"
NOT_TRACKED = (
    "disk %s (%s): its changed blocks are not tracked any more, as that could not be enabled: %s. "
    "Enable it: xe vdi-enable-cbt uuid=%s"
)


def disable(m: "Migration") -> None:
    """At the source, for each disk that is tracked by plan. Raises what xapi refuses it with."""
    for disk in m.plan.disks:
        if disk.tracked:
            _disable(m, disk)


def require_disabled(m: "Migration", disk: "Disk") -> None:
    """Before a disk is mirrored: somebody may have enabled it meanwhile, as a backup program does
    before each backup. Raises DiskTracked, if it was not to be renewed."""
    if disk.tracked:
        _disable(m, disk)
    elif m.source.xenapi.VDI.get_cbt_enabled(m.source_vdi(disk)):
        raise DiskTracked(disk.key)


def _disable(m: "Migration", disk: "Disk") -> None:
    if m.source.xenapi.VDI.get_cbt_enabled(m.source_vdi(disk)):
        _owe(m, disk.key)
        tracking.end(m.source, disk.key)


def enable_at_source(m: "Migration") -> None:
    """The VM stays. Our locks are off its disks. To be done until nothing of it is `owed` there:
    its database may go back, and say falsely that a disk is tracked."""
    for disk in m.plan.disks:
        vdi = Records(m.source).ref("VDI", disk.key)
        if not vdi:
            continue
        if _was_mirrored(m, disk) and m.source.xenapi.VDI.get_cbt_enabled(vdi):
            # Somebody has had it tracked beside its mirror, in whose ends the log may have gone.
            _owe(m, disk.key)
        if disk.key in _owed(m):
            why = tracking.renew(m.source, disk.key)
            if why:
                _give_up(m, disk, disk.key, why)


def enable_at_destination(m: "Migration") -> None:
    """The VM has moved, and our marks are off its new disks. The destination host does it, which
    can make the guest go on."""
    wanted = {m.disk(disk.key)["destination_vdi"]: disk for disk in _owing(m)}
    if not wanted:
        return
    failed: Dict[str, str] = json.loads(m.plugin(FUNCTION, vdis=json.dumps(sorted(wanted))))[
        "failed"
    ]
    for uuid, why in sorted(failed.items()):
        _give_up(m, wanted[uuid], uuid, why)


def owed_at_source(m: "Migration") -> List[str]:
    """What xapi has forgotten of it: a list, in words."""
    api = m.source.xenapi.VDI
    found = [(disk.key, Records(m.source).ref("VDI", disk.key)) for disk in _owing(m)]
    return [_lacking(uuid) for uuid, vdi in found if vdi and not api.get_cbt_enabled(vdi)]


def owed_at_destination(m: "Migration") -> List[str]:
    """The same of the destination's."""
    api = m.destination.xenapi.VDI
    found = [(m.disk(disk.key)["destination_vdi"], vdi_there(m, disk)) for disk in _owing(m)]
    return [_lacking(uuid) for uuid, vdi in found if vdi and not api.get_cbt_enabled(vdi)]


def done(m: "Migration") -> None:
    """It is on disk that they are tracked: nothing is owed any more."""
    if _owed(m):
        m.note(cbt_disabled=[])


def _owed(m: "Migration") -> List[str]:
    found: List[str] = m.entry.get("cbt_disabled", [])
    return found


def _owing(m: "Migration") -> List["Disk"]:
    return [disk for disk in m.plan.disks if disk.key in _owed(m)]


def _owe(m: "Migration", key: str) -> None:
    if key not in _owed(m):
        m.note(cbt_disabled=_owed(m) + [key])


def _was_mirrored(m: "Migration", disk: "Disk") -> bool:
    entry = m.disk(disk.key)
    return m.plan.mirrors(disk) and bool(entry.get("mover") or entry.get("renewed"))


def _give_up(m: "Migration", disk: "Disk", uuid: str, why: str) -> None:
    """It ends no migration."""
    m.warn(
        NOT_TRACKED % (disk.device, disk.name_label, m.without_secrets(why), uuid),
        cbt_disabled=[key for key in _owed(m) if key != disk.key],
    )


def _lacking(uuid: str) -> str:
    return "that VDI %s is tracked" % uuid
