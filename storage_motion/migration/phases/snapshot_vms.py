# SPDX-License-Identifier: LGPL-2.1-only
"""The snapshots of the VM as xapi sees them: VMs of their own. While the migration lasts nobody
goes back to one, copies or destroys it; between pools they come along with the VM's metadata."""

from typing import TYPE_CHECKING, Iterator, List

from storage_motion.errors import BadMetadata
from storage_motion.migration.phases import blocking
from storage_motion.plan.checks import CLAIM
from storage_motion.xapi.records import SUSPENDED, Records

if TYPE_CHECKING:
    import XenAPI

    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Snapshot

# What reads or changes the disks of a snapshot (xapi_vm_lifecycle.ml, check_snapshot), the image of
# a checkpoint's memory among them, which hard_shutdown destroys.
DISTURBING = ("revert", "clone", "copy", "export", "create_template", "destroy", "hard_shutdown")


def claim(m: "Migration") -> None:
    """Block what disturbs, and mark the disks that move. Idempotent."""
    for vm in _there(m.source, m.plan.snapshots):
        for operation in DISTURBING:
            blocking.block(m.source.xenapi.VM, vm, operation, blocking.reason(m.id))
    for disk in m.plan.history:
        vdi = Records(m.source).ref("VDI", disk.key)
        if vdi:
            blocking.add(m.source.xenapi.VDI.add_to_other_config, vdi, CLAIM, m.id)


def release(m: "Migration") -> None:
    """Take that back, as far as they are still there."""
    for vm in _there(m.source, m.plan.snapshots):
        blocking.unblock(m.source.xenapi.VM, vm, blocking.reason(m.id))
    for disk in m.plan.history:
        blocking.unmark_vdi(m.source, disk.key, m.id)


def blocked(m: "Migration") -> List[str]:
    """Those that are blocked by us at the source: a list, in words."""
    api = m.source.xenapi.VM
    return [
        "snapshot %s is blocked" % api.get_uuid(vm)
        for vm in _there(m.source, m.plan.snapshots)
        if blocking.reason(m.id) in api.get_blocked_operations(vm).values()
    ]


def block_arrived(m: "Migration") -> None:
    """The same in the pool that they come to, until the migration has ended. Raises BadMetadata if
    one has not come along."""
    for snapshot in m.plan.kept:
        vm = Records(m.destination).ref("VM", snapshot.vm)
        if vm is None:
            raise BadMetadata("the destination has not taken snapshot %s" % snapshot.vm)
        for operation in DISTURBING:
            blocking.block(m.destination.xenapi.VM, vm, operation, blocking.reason(m.id))


def unblock_arrived(m: "Migration") -> None:
    """Take that back."""
    for vm in _there(m.destination, m.plan.kept):
        blocking.unblock(m.destination.xenapi.VM, vm, blocking.reason(m.id))


def blocked_there(m: "Migration") -> List[str]:
    """Those that are blocked by us in the other pool: a list, in words."""
    api = m.destination.xenapi.VM
    return [
        "operations of snapshot %s are blocked" % api.get_uuid(vm)
        for vm in _there(m.destination, m.plan.kept)
        if m.plan.cross_pool and blocking.reason(m.id) in api.get_blocked_operations(vm).values()
    ]


def remove_arrived(m: "Migration") -> None:
    """Take them out of the other pool again, where they were imported for this migration: no VM of
    that pool had their UUIDs before (plan/vm_snapshots.py)."""
    for vm in _there(m.destination, m.plan.kept):
        blocking.unblock(m.destination.xenapi.VM, vm, blocking.reason(m.id))
        m.destination.xenapi.VM.destroy(vm)


def arrived(m: "Migration") -> List[str]:
    """Those that are in the other pool: a list, in words."""
    api = m.destination.xenapi.VM
    return ["snapshot %s is back" % api.get_uuid(vm) for vm in _there(m.destination, m.plan.kept)]


def forgotten(m: "Migration") -> List[str]:
    """Those that the destination's xapi does not know, in another pool: a list, in words."""
    if not m.plan.cross_pool:
        return []  # they are where they were, but for those that somebody has destroyed
    return [
        "snapshot %s" % snapshot.vm
        for snapshot in m.plan.kept
        if not Records(m.destination).ref("VM", snapshot.vm)
    ]


def destroy_vbds(m: "Migration") -> None:
    """Those at the source whose disks are to go. Which VBDs are left then are somebody else's.

    A checkpoint goes as a whole, and its VBDs with it: it has them plugged, and so xapi destroys
    neither them nor the disks (xapi_vbd_helpers.ml, destroy; xapi_vdi.ml, check_operation_error).
    `VM.hard_shutdown` would unplug them, and destroy its image, verified or not."""
    gone = {disk.key for disk in m.plan.history} | set(m.plan.dropped)
    api = m.source.xenapi
    for vm in _there(m.source, m.plan.snapshots):
        if api.VM.get_power_state(vm) == SUSPENDED:
            _destroy(m, vm)
            continue
        for vbd in api.VM.get_VBDs(vm):
            vdi = Records(m.source).of("VDI", api.VBD.get_VDI(vbd))
            if vdi and vdi["uuid"] in gone:
                api.VBD.destroy(vbd)


def destroy(m: "Migration") -> None:
    """Destroy them at the source, which the VM has left with them or without them."""
    for vm in _there(m.source, m.plan.snapshots):
        _destroy(m, vm)


def _destroy(m: "Migration", vm: str) -> None:
    # whoever has blocked it: they are of a VM that is gone
    for operation in set(m.source.xenapi.VM.get_blocked_operations(vm)) & {"destroy"}:
        m.source.xenapi.VM.remove_from_blocked_operations(vm, operation)
    m.source.xenapi.VM.destroy(vm)


def _there(session: "XenAPI.Session", snapshots: "List[Snapshot]") -> Iterator[str]:
    """The refs of those that are in a pool."""
    for snapshot in snapshots:
        vm = Records(session).ref("VM", snapshot.vm)
        if vm:
            yield vm
