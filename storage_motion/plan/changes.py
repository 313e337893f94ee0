# SPDX-License-Identifier: LGPL-2.1-only
"""What was plugged into the VM, or taken from it, while its disks were being copied: xapi lets
nobody forbid all of that.

A device that is not in the plan has no counterpart at the destination, where xenopsd would fail to
plug it after the guest has been suspended. So it is looked for as late as can be, and the migration
ends before the VM has begun to move.
"""

from typing import TYPE_CHECKING, Any, List

from storage_motion.errors import VmChanged
from storage_motion.xapi.records import NULL, Records

if TYPE_CHECKING:
    from storage_motion.plan.protocols import Migration


def require_none(m: "Migration") -> None:
    """Raises VmChanged unless the VM, and no other, has just the disks and interfaces that were
    planned with."""
    api, planned = m.source.xenapi, m.plan
    own = api.VM.get_VBDs(m.vm())
    found = [api.VBD.get_record(ref) for ref in own]
    disks = {_uuid(api, vbd["VDI"]) for vbd in found if not vbd["empty"] and vbd["type"] != "CD"}
    if planned.suspended:  # of one that has been resumed it is NULL
        disks |= {_uuid(api, api.VM.get_suspend_VDI(m.vm()))} - {""}
    cds = {_uuid(api, vbd["VDI"]) for vbd in found if not vbd["empty"] and vbd["type"] == "CD"}
    vifs = {api.VIF.get_uuid(ref) for ref in api.VM.get_VIFs(m.vm())}
    moving = {disk.key for disk in planned.disks}
    problems = [
        "disk %s was added" % uuid for uuid in sorted(disks - moving - set(planned.staying))
    ]
    problems += ["disk %s is no longer its own" % uuid for uuid in sorted(moving - disks)]
    problems += [
        "disk %s was attached to another VM" % uuid
        for uuid in sorted(moving & disks)
        if set(api.VDI.get_VBDs(api.VDI.get_by_uuid(uuid))) - set(own) - {NULL}
    ]
    problems += _others_history(m)
    unplugged = {disk.key for disk in planned.disks if disk.unplugged}
    problems += [
        "disk %s was plugged" % uuid
        for uuid in sorted(
            _uuid(api, vbd["VDI"]) for vbd in found if unplugged and vbd["currently_attached"]
        )
        if uuid in unplugged
    ]
    problems += [
        "disk %s, which is not plugged, was resized" % disk.key
        for disk in planned.disks
        if disk.unplugged
        and disk.key in disks
        and int(api.VDI.get_virtual_size(api.VDI.get_by_uuid(disk.key))) != disk.size
    ]
    problems += [
        "CD %s was inserted" % uuid for uuid in sorted(cds - {cd.vdi for cd in planned.cds})
    ]
    problems += [
        "interface %s was added" % uuid for uuid in sorted(vifs - {vif.vif for vif in planned.vifs})
    ]
    problems += _snapshots(m)
    if planned.cross_pool:
        vgpus = {api.VGPU.get_uuid(ref) for ref in api.VM.get_VGPUs(m.vm())}
        added = sorted(vgpus - {vgpu.vgpu for vgpu in planned.vgpus})
        problems += ["virtual GPU %s was added" % uuid for uuid in added]
    if problems:
        raise VmChanged(planned.vm, *problems)


def _snapshots(m: "Migration") -> List[str]:
    """Which snapshots of the VM are not those that were planned with: a list, in words. Between
    pools one that is not in the plan has no disks at the destination."""
    api = m.source.xenapi.VM
    found = {api.get_uuid(ref) for ref in api.get_snapshots(m.vm())} if m.plan.cross_pool else set()
    planned = {snapshot.vm for snapshot in m.plan.snapshots} if m.plan.cross_pool else set()
    return ["snapshot %s was taken" % uuid for uuid in sorted(found - planned)] + [
        "snapshot %s is gone" % uuid for uuid in sorted(planned - found)
    ]


def _others_history(m: "Migration") -> List[str]:
    """Which disks of snapshots, that come along or are dropped, another VM has been given: a list,
    in words."""
    records, api = Records(m.source), m.source.xenapi
    own = set()
    for snapshot in m.plan.snapshots:
        vm = records.ref("VM", snapshot.vm)
        own |= set(api.VM.get_VBDs(vm)) if vm else set()
    found = []
    for uuid in [disk.key for disk in m.plan.history] + m.plan.dropped:
        vdi = records.ref("VDI", uuid)
        if vdi and set(api.VDI.get_VBDs(vdi)) - own - {NULL}:
            found.append("disk %s of a snapshot was attached to another VM" % uuid)
    return found


def _uuid(api: Any, vdi: str) -> str:
    return api.VDI.get_uuid(vdi) if vdi != NULL else ""
