# SPDX-License-Identifier: LGPL-2.1-only
"""Claiming a VM for a migration: its mark, its protection by HA, the operations that would
disturb."""

from typing import TYPE_CHECKING, Dict, Iterable

from storage_motion.errors import AlreadyMigrating
from storage_motion.migration.phases import (
    block_tracking,
    blocking,
    ha_protection,
    sharable_disks,
    snapshot_vms,
)
from storage_motion.plan.checks import CLAIM
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

# Every operation of a VM that would stop it, start it elsewhere, change its disks, or take copies
# of a chain in motion. Not among them: metadata_export, which we need, and what only looks or
# changes memory.
DISTURBING = (
    "snapshot",
    "snapshot_with_quiesce",
    "checkpoint",
    "revert",
    "reverting",
    "clone",
    "copy",
    "make_into_template",
    "sysprep",
    "export",
    "csvm",
    "provision",
    "start",
    "start_on",
    "pause",
    "suspend",
    "resume",
    "resume_on",
    "shutdown",
    "clean_shutdown",
    "hard_shutdown",
    "clean_reboot",
    "hard_reboot",
    "pool_migrate",
    "migrate_send",
    "destroy",
)


# A field of the journal: behind the point of no return the VM is being let go, as of a copy.
RELEASING = "releasing"


def claim(m: "Migration") -> None:
    """Mark the VM, take it out of HA, which would otherwise meet the blocks, then block what
    disturbs, then mark the disks, and have them tracked no more. Raises AlreadyMigrating if another
    one has the VM.

    Adding the mark is atomic in xapi: of two migrations of one VM only one gets past it."""
    vm = m.vm()
    if not blocking.add(m.source.xenapi.VM.add_to_other_config, vm, CLAIM, m.id):
        _require_ours(m, vm)
    ha_protection.take_off(m)
    present = m.source.xenapi.VM.get_blocked_operations(vm)
    blocked = [
        operation
        for operation in DISTURBING
        if present.get(operation, blocking.reason(m.id)) == blocking.reason(m.id)
    ]
    m.note(blocked=blocked, blocked_by_user=_by_user(m, present))
    for operation in blocked:
        blocking.block(m.source.xenapi.VM, vm, operation, blocking.reason(m.id))
    for disk in m.plan.disks:
        blocking.add(m.source.xenapi.VDI.add_to_other_config, m.source_vdi(disk), CLAIM, m.id)
    sharable_disks.take_off(m)
    snapshot_vms.claim(m)
    _fasten(m)
    if not m.plan.live:
        detach(m, vm)
    block_tracking.disable(m)


def put_back(m: "Migration") -> None:
    """Put back what has gone of it, as when xapi has lost what it had not written to disk. That the
    VM is ours the journal and its UUID say. Nothing, once it is being let go.

    Raises AlreadyMigrating if another migration has claimed it meanwhile."""
    vm = Records(m.source).ref("VM", m.plan.vm)
    if vm is None or "claim" not in m.entry["begun"] or m.entry.get(RELEASING):
        return
    if not blocking.add(m.source.xenapi.VM.add_to_other_config, vm, CLAIM, m.id):
        _require_ours(m, vm)
    ha_protection.take_off(m)
    api = m.source.xenapi.VM
    for operation in m.entry.get("blocked", []):
        blocking.add(api.add_to_blocked_operations, vm, operation, blocking.reason(m.id))
    for disk in m.plan.disks:
        vdi = Records(m.source).ref("VDI", disk.key)
        if vdi:
            blocking.add(m.source.xenapi.VDI.add_to_other_config, vdi, CLAIM, m.id)
    snapshot_vms.claim(m)
    for uuid in m.entry.get("fastened", []):
        vbd = Records(m.source).ref("VBD", uuid)
        if vbd and m.source.xenapi.VBD.get_unpluggable(vbd):
            m.source.xenapi.VBD.set_unpluggable(vbd, False)


def _require_ours(m: "Migration", vm: str) -> None:
    holder = m.source.xenapi.VM.get_other_config(vm).get(CLAIM)
    if holder != m.id:
        raise AlreadyMigrating(m.plan.vm, str(holder))


def detach(m: "Migration", vm: str) -> None:
    """Have xapi say of the devices of `vm` (a ref, at the source), which is halted, what is true. A
    start that fails before xenopsd has heard of the VM leaves them "attached" (xapi_xenops.ml,
    start), and then VBD.destroy refuses. Nothing, if the VM is not halted.

    xapi would reset a VM that is just being started, too (message_forwarding.ml): none begins any
    more, as that is blocked by now, and who has begun is in its current_operations."""
    api = m.source.xenapi
    if api.VM.get_power_state(vm) != "Halted" or api.VM.get_current_operations(vm):
        return
    if any(api.VBD.get_currently_attached(vbd) for vbd in api.VM.get_VBDs(vm)):
        api.VM.power_state_reset(vm)


def _fasten(m: "Migration") -> None:
    """Have xapi refuse to unplug the disks (VBD_NOT_UNPLUGGABLE): `unpluggable` is the one field of
    a VBD by which anybody can."""
    if not m.plan.live:
        return
    refs = {
        disk.vbd: m.source.xenapi.VBD.get_by_uuid(disk.vbd)
        for disk in m.plan.disks
        if not disk.unplugged
    }
    before = m.entry.get("fastened", [])
    fastened = [
        uuid
        for uuid, ref in sorted(refs.items())
        if uuid in before or m.source.xenapi.VBD.get_unpluggable(ref)
    ]
    m.note(fastened=fastened)
    for uuid in fastened:
        m.source.xenapi.VBD.set_unpluggable(refs[uuid], False)


def _loosen(m: "Migration") -> None:
    """Take that back at the source, as far as the disks are still there."""
    for uuid in m.entry.get("fastened", []):
        ref = Records(m.source).ref("VBD", uuid)
        if ref:
            m.source.xenapi.VBD.set_unpluggable(ref, True)


def loosen_arrived(m: "Migration", vm: str) -> None:
    """Take it back for the VM (a ref) in the other pool, which has been told of it with all else.
    Its VBDs have other UUIDs there."""
    ours = {
        m.disk(disk.key)["destination_vdi"]
        for disk in m.plan.disks
        if disk.vbd in m.entry.get("fastened", [])
    }
    api = m.destination.xenapi
    for ref in api.VM.get_VBDs(vm) if ours else ():
        vbd = api.VBD.get_record(ref)
        if not vbd["empty"] and not vbd["unpluggable"] and api.VDI.get_uuid(vbd["VDI"]) in ours:
            api.VBD.set_unpluggable(ref, True)


def release(m: "Migration") -> None:
    """Take back what `claim` did, and nothing that somebody else put there."""
    for disk in m.plan.disks:
        if Records(m.source).ref("VDI", disk.key):
            unmark_snapshots(m, m.source_vdi(disk))
        blocking.unmark_vdi(m.source, disk.key, m.id)
    sharable_disks.put_back(m)
    snapshot_vms.release(m)
    _loosen(m)
    unblock(m)
    vm = m.vm()
    for operation, text in sorted(m.entry.get("lifted", {}).items()):
        blocking.block(m.source.xenapi.VM, vm, operation, text)
    m.note(lifted={})
    # before the mark goes: another migration would take it for what the VM has
    ha_protection.give_back(m, m.source, vm)
    if m.source.xenapi.VM.get_other_config(vm).get(CLAIM) == m.id:
        m.source.xenapi.VM.remove_from_other_config(vm, CLAIM)


def unblock(m: "Migration") -> None:
    """Let all operations of the source VM that we blocked go ahead again."""
    blocking.unblock(m.source.xenapi.VM, m.vm(), blocking.reason(m.id))
    m.note(blocked=[])


def lift(m: "Migration", vm: str, operation: str) -> None:
    """Let one operation of the source VM (a ref) go ahead that the migration itself needs, whoever
    has blocked it. What the user had blocked is in the journal before; `release` puts it back, and
    `hand_on` at the destination."""
    m.note(blocked_by_user=_by_user(m, m.source.xenapi.VM.get_blocked_operations(vm)))
    text = m.entry["blocked_by_user"].get(operation)
    if text is not None:
        m.note(lifted=dict(m.entry.get("lifted", {}), **{operation: text}))
    m.source.xenapi.VM.remove_from_blocked_operations(vm, operation)
    m.note(blocked=[other for other in m.entry.get("blocked", []) if other != operation])


def hand_on(m: "Migration", vm: str) -> None:
    """Block for the VM (a ref) in the other pool what the user had blocked: xapi's importer leaves
    that out."""
    present = m.destination.xenapi.VM.get_blocked_operations(vm)
    for operation, text in sorted(m.entry.get("blocked_by_user", {}).items()):
        if present.get(operation) == blocking.reason(m.id):
            m.destination.xenapi.VM.remove_from_blocked_operations(vm, operation)
        blocking.block(m.destination.xenapi.VM, vm, operation, text)


def _by_user(m: "Migration", present: Dict[str, str]) -> Dict[str, str]:
    """{operation: text} of what the user has blocked, of all that is blocked at `present` and what
    was lifted of his."""
    return dict(
        {operation: text for operation, text in present.items() if text != blocking.reason(m.id)},
        **m.entry.get("lifted", {}),
    )


def block_arrived(m: "Migration", vm: str) -> None:
    """Keep everybody from starting or changing the VM (a ref) in the pool that it comes to, until
    the migration has ended."""
    for operation in DISTURBING:
        blocking.block(m.destination.xenapi.VM, vm, operation, blocking.reason(m.id))


def has_blocked_arrived(m: "Migration", vm: str) -> bool:
    """Whether all of that is done, which begins when the VM is there as a whole: the last operation
    is blocked, and by us, as xapi's importer leaves out what the user has blocked. So it is of one
    that an older database has brought back, since that is a state in which it once was."""
    blocked: Dict[str, str] = m.destination.xenapi.VM.get_blocked_operations(vm)
    return blocked.get(DISTURBING[-1]) == blocking.reason(m.id)


def unblock_arrived(m: "Migration", vm: str, operations: Iterable[str] = DISTURBING) -> None:
    """Take that back, for these operations."""
    present = m.destination.xenapi.VM.get_blocked_operations(vm)
    for operation in operations:
        if present.get(operation) == blocking.reason(m.id):
            m.destination.xenapi.VM.remove_from_blocked_operations(vm, operation)


def unmark_snapshots(m: "Migration", vdi: str) -> None:
    """Take our mark off what somebody else has made of a source VDI (a ref): xapi copies it to a
    snapshot."""
    for ref in m.source.xenapi.VDI.get_snapshots(vdi):
        blocking.unmark_vdi(m.source, m.source.xenapi.VDI.get_uuid(ref), m.id)
