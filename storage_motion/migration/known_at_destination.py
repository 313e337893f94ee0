# SPDX-License-Identifier: LGPL-2.1-only
"""What the destination's xapi has to know of a VM before anything of it is deleted at the source,
or is told to have succeeded."""

from typing import TYPE_CHECKING, Callable, List

from storage_motion.migration import durable
from storage_motion.migration.phases import (
    adopt,
    arrived_vm,
    blocking,
    claim,
    ha_protection,
    history,
    receive,
    remap,
    snapshot_vms,
)
from storage_motion.sm import marks
from storage_motion.switch import whereabouts
from storage_motion.xapi.records import NULL, Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration


def keep(m: "Migration", take: Callable[[], None]) -> None:
    """`take()`, and have it on disk. Raises NotDurable."""
    durable.keep(
        (m.destination,),
        take,
        lambda: _in_part(m) + forgotten(m),
        "VM %s at the destination" % m.plan.vm,
    )


def keep_halted(m: "Migration") -> None:
    """The same for a VM that is halted or suspended. Nobody can use it yet. Once it is done it is
    not looked at again: behind the clean-up the VM is its user's, who may resume it, so that xapi
    destroys the image of its memory, or change its disks."""
    keep(m, lambda: take_halted(m))


def take_halted(m: "Migration") -> None:
    """The VM, which is halted, has its new disks: again, if xapi has forgotten that. Nothing before
    this has had the import on disk, so a xapi that was killed may have come back with any part of
    it."""
    whereabouts.open_again(m)
    remap.bring_again(m)
    if m.plan.cross_pool:
        receive.give(m)
        if _can_be_brought(m):
            remap.bring(m)
    else:
        adopt.adopt(m)
        history.adopt_within(m)


def _in_part(m: "Migration") -> List[str]:
    """Whether a VM that does not run is there in part only, as xapi had written it to disk while it
    was imported: with its disks, perhaps, and without its interfaces, or its virtual TPM."""
    vm = arrived_vm.find(m) if not m.plan.live and _can_be_brought(m) else None
    return ["the VM as a whole"] if vm and not claim.has_blocked_arrived(m, vm) else []


def _can_be_brought(m: "Migration") -> bool:
    """Whether there is a VM that another pool can be given again. When the source's is gone the
    other one is the only one, and let go: that our blocks are gone does not make it a part."""
    return m.plan.cross_pool and Records(m.source).ref("VM", m.plan.vm) is not None


def forgotten(m: "Migration") -> List[str]:
    """What xapi does not know of it: a list, in words."""
    api = m.destination.xenapi
    vm = arrived_vm.find(m)
    if not vm:
        return ["the VM"]
    found = [] if api.VM.get_resident_on(vm) in (m.host(), NULL) else ["where it runs"]
    for disk in m.plan.disks:
        uuid, vdi = m.disk(disk.key)["destination_vdi"], whereabouts.vdi_there(m, disk)
        if remap.is_used_up(m, disk):
            continue
        if not vdi:
            found.append("VDI %s" % uuid)
        elif marks.SHUT in api.VDI.get_sm_config(vdi).values():
            found.append("that VDI %s is open" % uuid)
        elif not api.VDI.get_managed(vdi):
            found.append("that VDI %s is managed" % uuid)
        elif adopt.is_taken_away(m, disk):
            continue
        elif disk.is_memory:
            if api.VM.get_suspend_VDI(vm) != vdi:
                found.append("that VDI %s is the VM's memory" % uuid)
        elif vm not in [api.VBD.get_VM(vbd) for vbd in api.VDI.get_VBDs(vdi)]:
            found.append("that VDI %s is the VM's" % uuid)
    return found + snapshot_vms.forgotten(m) + _forgotten_history(m)


def _forgotten_history(m: "Migration") -> List[str]:
    found: List[str] = []
    api = m.destination.xenapi
    for disk in m.plan.history:
        vdi, vm = whereabouts.vdi_there(m, disk), Records(m.destination).ref("VM", disk.snapshot)
        if remap.is_used_up(m, disk):
            continue
        if not vdi:
            found.append("VDI %s" % m.disk(disk.key)["destination_vdi"])
            continue
        known = api.VDI.get_record(vdi)
        if not known["managed"] or not known["is_a_snapshot"]:
            found.append("that VDI %s is a snapshot" % known["uuid"])
        own = vm and not adopt.is_taken_away(m, disk)
        if disk.is_memory:
            if own and api.VM.get_suspend_VDI(vm) != vdi:
                found.append(
                    "that VDI %s is the memory of snapshot %s" % (known["uuid"], disk.snapshot)
                )
            continue
        if own and vm not in [api.VBD.get_VM(vbd) for vbd in known["VBDs"]]:
            found.append("that VDI %s is of snapshot %s" % (known["uuid"], disk.snapshot))
    return found


def marked(m: "Migration") -> List[str]:
    """What marks of ours the VM has there still, or has again, and that HA protects it as it did:
    what of that is wrong, a list, in words."""
    api = m.destination.xenapi
    vm = arrived_vm.find(m)
    found = (
        ["its operations are blocked"]
        if vm and blocking.reason(m.id) in api.VM.get_blocked_operations(vm).values()
        else []
    )
    if vm:
        found += ha_protection.lacking(m, m.destination, vm)
        found += arrived_vm.marked(m, vm)
    found += snapshot_vms.blocked_there(m)
    for disk in m.plan.sent:
        vdi = whereabouts.vdi_there(m, disk)
        if vdi and marks.SHUT in api.VDI.get_sm_config(vdi).values():
            found.append("VDI %s is shut" % m.disk(disk.key)["destination_vdi"])
        if vdi and not api.VDI.get_managed(vdi):
            found.append("VDI %s is not managed" % m.disk(disk.key)["destination_vdi"])
        if vdi and blocking.is_marked(api.VDI.get_other_config(vdi), m.id):
            found.append("VDI %s is claimed" % m.disk(disk.key)["destination_vdi"])
    return found
