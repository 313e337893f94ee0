# SPDX-License-Identifier: LGPL-2.1-only
"""Behind the point of no return: what the VM has left at the source goes, and only what was
verified at the destination."""

import json
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from storage_motion import waiting
from storage_motion.dom0.launch import Process
from storage_motion.errors import NotCleanedUp, TimedOut
from storage_motion.journal import steps
from storage_motion.migration import durable, known_at_destination, snapshots, xenopsd_leftovers
from storage_motion.migration.phases import (
    blobs,
    block_tracking,
    blocking,
    cd_drives,
    claim,
    ha_protection,
    history,
    messages,
    remap,
    snapshot_vms,
    statistics,
)
from storage_motion.plan.checks import CLAIM
from storage_motion.sm import marks
from storage_motion.switch import pool_lock, whereabouts
from storage_motion.xapi import datapaths, receiving_host
from storage_motion.xapi.records import SUSPENDED, Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

OWN_TIMEOUT = 150.0  # a guest that reboots just now has its disks closed for a while
IMAGE = "suspend"  # the type of a VDI that is the image of a memory, which no VBD has


def clean_up(m: "Migration") -> None:
    """End the movers, and destroy the old disks; in another pool, the VM's old records with
    them."""
    if m.plan.live:
        _await_own_disks(m)
    for disk in m.plan.disks:
        m.mover(disk.key).end(Process.from_json(m.disk(disk.key).get("mover")), "exit")
    statistics.move(m)
    messages.move(m)
    blobs.move(m)
    durable.keep(
        (m.source,), lambda: _destroy(m), lambda: _left(m), "VM %s at the source" % m.plan.vm
    )


def _destroy(m: "Migration") -> None:
    for disk in m.plan.disks:
        _require_verified(m, disk)
    for disk in m.plan.history:
        history.require_kept(m, disk)
    if m.plan.cross_pool:
        _destroy_vbds(m)
        snapshot_vms.destroy_vbds(m)
    else:
        history.adopt_within(m)
    for disk in m.plan.disks:
        _destroy_disk(m, disk)
    _destroy_history(m)
    if m.plan.cross_pool:
        snapshot_vms.destroy(m)
        _destroy_vm(m)


def _left(m: "Migration") -> List[str]:
    wanted = [("VDI", disk.key) for disk in m.plan.disks]
    wanted += [("VDI", disk.key) for disk in m.plan.history if not _is_lost_there(m, disk)]
    wanted += [("VDI", uuid) for uuid in m.plan.dropped]
    if m.plan.cross_pool:
        wanted += [("VM", snapshot.vm) for snapshot in m.plan.snapshots] + [("VM", m.plan.vm)]
    return ["%s %s is back" % pair for pair in wanted if Records(m.source).ref(*pair)]


def _await_own_disks(m: "Migration") -> None:
    """Wait until the new disks are the VM's own for SM, too. Raises NotCleanedUp: the source is the
    only copy in use then.

    Who waits at a gate need not be the VM: `xe vdi-copy` has won one read-only, and the VM "ran"
    without its disk (docs/facts/xapi.md, the whole stack, 4)."""
    try:
        waiting.until(
            lambda: not _others_disks(m), OWN_TIMEOUT, "VM %s to have its disks" % m.plan.vm
        )
    except TimedOut:
        raise NotCleanedUp(
            "these new disks are not active for the VM on its host, as it has them: %s"
            % ", ".join(_others_disks(m))
        )


def _others_disks(m: "Migration") -> List[str]:
    """The UUIDs of the new disks that are not active just as the VM has them: on its host, and
    read-write if it has them so; nowhere if it is halted."""
    vm = m.destination.xenapi.VM.get_record(remap.destination_vm(m))
    host = vm["resident_on"] if vm["power_state"] in whereabouts.LIVE else None
    others = [disk for disk in m.plan.disks if not _is_own(m, disk, host)]
    if host and not others:
        found = json.loads(m.plugin("receive-status"))["disks"]
        others = [
            disk
            for disk in m.plan.disks
            if found[disk.key]["read_only"] and not disk.read_only and not disk.unplugged
        ]
    return [m.disk(disk.key)["destination_vdi"] for disk in others]


def _is_own(m: "Migration", disk: "Disk", host: Optional[str]) -> bool:
    """Whether a new disk is active, as the VM has it, on `host` (a ref) and nowhere else; on no
    host if that is None."""
    vdi = m.destination_vdi(disk)
    config = m.destination.xenapi.VDI.get_sm_config(vdi)
    keys = {key: value for key, value in config.items() if key.startswith(marks.HOST)}
    if host is None or keys or disk.unplugged:
        if disk.unplugged:  # or plugged since
            return set(keys) <= ({marks.HOST + host} if host else set())
        mode = "RO" if disk.read_only else "RW"
        return keys == ({marks.HOST + host: mode} if host else {})
    # With an older database of its master's the keys of a member's host are gone, until that
    # member's xapi is started again.
    return datapaths.is_active(
        m.destination,
        host,
        disk.destination_sr,
        m.destination.xenapi.VDI.get_location(vdi),
        not disk.read_only,
    )


def end(m: "Migration") -> None:
    """Have the destination forget that this was a migration, and let the VM be used as any
    other."""
    durable.keep(
        (m.destination,),
        lambda: _end(m),
        lambda: known_at_destination.marked(m) + block_tracking.owed_at_destination(m),
        "the end of migration %s" % m.id,
    )
    block_tracking.done(m)
    if m.receiving_host:
        receiving_host.leave(m.destination, m.receiving_host)
        m.receiving_host = None
    cd_drives.insert_namesakes(m)


def _end(m: "Migration") -> None:
    owed = m.entry.get("ha_restart_priority") or m.entry.get("cbt_disabled")
    if owed and _has_moved_on(m):
        m.note(ha_restart_priority="", cbt_disabled=[])
    whereabouts.open_again(m)  # a gate that an older database has shut would stay so for ever
    m.plugin("receive-end")
    for disk in m.plan.sent:  # which an older database has brought back since
        blocking.unmark_vdi(m.destination, m.disk(disk.key)["destination_vdi"], m.id)
    m.note(receiving=False)
    pool_lock.lift(m)
    block_tracking.enable_at_destination(m)  # while nobody moves the VM on
    if not m.plan.cross_pool:
        claim.release(m)
        return
    vm = remap.destination_vm(m)
    snapshot_vms.unblock_arrived(m)
    claim.loosen_arrived(m, vm)
    claim.hand_on(m, vm)
    # before it is unblocked: another migration would take it for what the VM has
    ha_protection.give_back(m, m.destination, vm)
    claim.unblock_arrived(m, vm)


def _has_moved_on(m: "Migration") -> bool:
    """Whether another migration has the VM in its new pool: what it had was given back then, before
    it was let go, and is that one's to give back."""
    vm = Records(m.destination).ref("VM", m.plan.vm) if m.plan.cross_pool else None
    return bool(vm) and m.destination.xenapi.VM.get_other_config(vm).get(CLAIM, m.id) != m.id


def _destroy_vbds(m: "Migration") -> None:
    """Those of the moved disks."""
    vm = _source_vm(m)
    if vm is None:
        return
    state = m.source.xenapi.VM.get_power_state(vm)
    if m.plan.suspended and state == SUSPENDED:
        # `hard_shutdown` would destroy the image of its memory as well, verified or not
        m.source.xenapi.VM.power_state_reset(vm)
    elif state != "Halted":
        xenopsd_leftovers.note_halted(m)
    claim.detach(m, vm)  # with an older database somebody may have tried to start it
    moved = {disk.vbd for disk in m.plan.disks}
    for ref in m.source.xenapi.VM.get_VBDs(vm):
        if m.source.xenapi.VBD.get_uuid(ref) in moved:
            m.source.xenapi.VBD.destroy(ref)


def _require_verified(m: "Migration", disk: "Disk") -> None:
    if m.disk(disk.key).get("gate") != steps.OPEN:
        # The gate opens only for what was verified (the mover's `finish`). Without that the source
        # is the only true copy.
        raise NotCleanedUp("VDI %s was not verified at the destination" % disk.key)


def _destroy_disk(m: "Migration", disk: "Disk") -> None:
    _require_verified(m, disk)
    vdi = Records(m.source).ref("VDI", disk.key)
    if vdi:
        _require_nobodys(m, disk.key, vdi, "which has moved")
        snapshots.drop(m, disk)
        m.source.xenapi.VDI.destroy(vdi)


def _destroy_history(m: "Migration") -> None:
    """The disks of snapshots: those that came along, and those that were to be dropped."""
    gone = [disk.key for disk in m.plan.history if not _is_lost_there(m, disk)]
    for uuid in gone + m.plan.dropped:
        vdi = Records(m.source).ref("VDI", uuid)
        if vdi:
            _require_nobodys(m, uuid, vdi, "of a snapshot")
            m.source.xenapi.VDI.destroy(vdi)


def _is_lost_there(m: "Migration", disk: "Disk") -> bool:
    """Whether the disk of a snapshot has been destroyed at the destination, while the snapshot is
    there still: then the source's is the only one."""
    snapshot = Records(m.destination).ref("VM", disk.snapshot)
    return snapshot is not None and whereabouts.vdi_there(m, disk) is None


def _require_nobodys(m: "Migration", uuid: str, vdi: str, what: str) -> None:
    """Raises NotCleanedUp if anybody has a disk: xapi destroys one that no VM which runs has,
    whoever else has it (xapi_vdi.ml, check_operation_error). The VM itself may have it again,
    within its pool: by the database of a member whose copy is older, and that is master now."""
    records = Records(m.source)
    for ref in m.source.xenapi.VDI.get_VBDs(vdi):
        vbd = records.of("VBD", ref)
        if vbd:
            vm = records.of("VM", vbd["VM"]) or {"uuid": vbd["VM"], "name_label": "?"}
            raise NotCleanedUp(
                "VDI %s, %s, has been attached to VM %s (%s); %s, "
                "destroy VBD %s, and recover"
                % (uuid, what, vm["uuid"], vm["name_label"], _instead(m, uuid, vm), vbd["uuid"])
            )
    for vm in records.all("VM").values() if _is_image(records, vdi) else ():
        if vm["suspend_VDI"] == vdi and vm["power_state"] == SUSPENDED:
            raise NotCleanedUp(
                "VDI %s, %s, is the memory of VM %s (%s)"
                % (uuid, what, vm["uuid"], vm["name_label"])
            )


def _is_image(records: Records, vdi: str) -> bool:
    found = records.of("VDI", vdi)
    return bool(found and found["type"] == IMAGE)


def _instead(m: "Migration", uuid: str, vm: Dict[str, Any]) -> str:
    """What is to be done for a VM (its record) that has an old disk, in words."""
    if vm["uuid"] == m.plan.vm and uuid in [disk.key for disk in m.plan.disks]:
        return "give it VDI %s in its place" % m.disk(uuid)["destination_vdi"]
    return "copy it for that VM"


def _destroy_vm(m: "Migration") -> None:
    vm = _source_vm(m)
    if vm is not None:
        claim.lift(m, vm, "destroy")
        # Its virtual TPM goes with it (xapi_vm.ml, destroy).
        m.source.xenapi.VM.destroy(vm)


def _source_vm(m: "Migration") -> Optional[str]:
    """The ref of the VM in the source pool, if it is still there and ours."""
    vm = Records(m.source).ref("VM", m.plan.vm)
    if vm is None:
        return None
    # Without a claim it is ours by its UUID: xapi may have lost what it had not written to disk.
    if m.source.xenapi.VM.get_other_config(vm).get(CLAIM, m.id) != m.id:
        raise NotCleanedUp("VM %s at the source is not claimed by this migration" % m.plan.vm)
    return vm
