# SPDX-License-Identifier: LGPL-2.1-only
"""Describing the VM to the destination pool: its metadata, with a counterpart for every disk and
interface."""

import logging
import time
from typing import TYPE_CHECKING, Dict, List, Optional

import XenAPI

from storage_motion.errors import BadMetadata, TaskFailed, TimedOut, Undecided
from storage_motion.migration import durable
from storage_motion.migration.phases import arrived_vm, blocking, claim, ha_protection, snapshot_vms
from storage_motion.plan import changes
from storage_motion.plan.checks import CLAIM
from storage_motion.xapi import metadata, ova, receiving_host, repeated, tasks
from storage_motion.xapi.records import SUSPENDED, Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk, Plan

# a field of the journal: the refs of the tasks of imports that are not known to have ended
IMPORT_TASKS = "import_tasks"
# and when the member that imports had started its xapi as the last one of them was asked for
IMPORT_STARTED = "import_started"
STARTED = "agent_start_time"  # in a host's other_config, anew at each start (dbsync_slave.ml)

log = logging.getLogger("sxm")


def rehearse(source: "XenAPI.Session", destination: "XenAPI.Session", plan: "Plan") -> None:
    """Ask the destination whether it would take the VM: xapi's own checks of memory, processors,
    devices.

    Changes nothing. Raises tasks.TaskFailed or XenAPI.Failure with xapi's own error."""
    host = destination.xenapi.host.get_by_uuid(plan.destination_host)
    answer = receiving_host.ask(
        destination, host, destination.xenapi.network.get_by_uuid(plan.network)
    )
    try:
        # What is in a TPM is shown to nobody who only says whether he would take it.
        document = _document(source, destination, plan, {}, None, secrets=False)
        metadata.bring(
            destination,
            receiving_host.base_url(answer),
            document,
            plan.check_cpu,
            dry_run=True,
            copy=plan.copy,
        )
    finally:
        receiving_host.leave(destination, answer)


def bring_live(m: "Migration") -> None:
    """Bring the running VM's metadata to the destination pool, and have its host keep room for
    it."""
    changes.require_none(m)
    keep_live(m)


def keep_live(m: "Migration") -> None:
    """The same; of what is there already only what is lacking, as when a xapi that was restarted
    has forgotten it. The VM does not run there."""
    repeated.done(m, lambda: _keep_room(m, _bring(m)), "the import of VM %s" % m.plan.vm)


def lacking(m: "Migration") -> List[str]:
    """What of that is lacking: a list, in words."""
    vm = Records(m.destination).ref("VM", m.plan.vm)
    if not vm or not claim.has_blocked_arrived(m, vm):
        return ["the VM at the destination"]
    return [] if _has_room(m, vm) else ["the room for it there"]


def _has_room(m: "Migration", vm: str) -> bool:
    return bool(m.destination.xenapi.VM.get_scheduled_to_be_resident_on(vm) == m.host())


def _keep_room(m: "Migration", vm: str) -> None:
    # which goes with a restart, whatever is on disk (dbsync_master.ml, release_locks)
    if not _has_room(m, vm):
        m.destination.xenapi.host.allocate_resources_for_vm(m.host(), vm, True)
        m.destination.xenapi.network.attach_for_vm(m.host(), vm)


def bring(m: "Migration") -> str:
    """Bring the VM's metadata to the destination pool. Returns its ref there: it keeps its UUID, or
    it is a copy with one of its own."""
    return repeated.done(m, lambda: _bring(m), "the import of VM %s" % m.plan.vm)


def _bring(m: "Migration") -> str:
    """One try. What a former one has left of it is taken away first, unless it is whole."""
    may_come = _may_import_come(m)
    if may_come and m.plan.copy:
        m.warn(may_come)  # it would be another one; of a VM that moves `remove` waits once more
    for vm in arrived_vm.find_all(m) if m.entry.get("imported") else ():
        if claim.has_blocked_arrived(m, vm):
            arrived_vm.note(m, vm)
            return vm
        log.warning("%s: VM %s is there in part, and is taken away", m.id, m.plan.vm)
        _destroy(m, vm)
    m.receiving_host = m.receiving_host or receiving_host.ask(
        m.destination, m.host(), m.destination.xenapi.network.get_by_uuid(m.plan.network)
    )
    counterparts = {disk.key: m.destination_vdi(disk) for disk in m.plan.sent}
    ha_protection.take_off(m)  # in case somebody has set it since; it would go with the document
    document = _document(m.source, m.destination, m.plan, counterparts, m.id)
    m.note(imported=True, **{IMPORT_STARTED: _member_started(m)})
    before = m.entry.get(IMPORT_TASKS, [])
    try:
        metadata.bring(
            m.destination,
            receiving_host.base_url(m.receiving_host),
            document,
            m.plan.check_cpu,
            copy=m.plan.copy,
            asked=lambda task: m.note(None, **{IMPORT_TASKS: before + [task]}),
        )
    except TaskFailed:
        m.note(None, **{IMPORT_TASKS: before})
        raise
    m.note(None, **{IMPORT_TASKS: before})
    vm = destination_vm(m)
    arrived_vm.note(m, vm)
    _require_tpms(m, vm)
    snapshot_vms.block_arrived(m)
    claim.block_arrived(m, vm)  # last: by that it is known to be there as a whole
    return vm


def _may_import_come(m: "Migration") -> str:
    """Wait for the imports that former tries, or a worker that was killed, have asked for: only
    when one is over all that it makes can be found. With a bound, as xapi ends no task whose
    document it has not got; one that has not ended by then stays noted. What the user is to know of
    it: a sentence, or ""."""
    asked = m.entry.get(IMPORT_TASKS)
    if not asked or m.lost:
        return ""
    end = time.monotonic() + metadata.IMPORT_TIMEOUT
    pending = [task for task in asked if not _has_ended(m, task, max(0.0, end - time.monotonic()))]
    m.note(None, **{IMPORT_TASKS: pending})
    if not pending:
        return ""
    log.warning("%s: an import of VM %s has not ended", m.id, m.plan.vm)
    seen = "a VM with %s=%s in its other_config" % (CLAIM, m.id) if m.plan.copy else "it"
    return (
        "an import of VM %s at the destination has not ended; if %s appears there, destroy it "
        "there" % (m.plan.vm, seen)
    )


def _has_ended(m: "Migration", task: str, timeout: float) -> bool:
    """Whether an import is over within `timeout` seconds.

    Its task is in the master's memory, and gone with the master's xapi. The import of a member is a
    thread of the member's own xapi, which asks the master for as long as it takes what it has to
    ask of the database (master_connection.ml): it may give a VM its UUID after that. It has come to
    its end only with that xapi."""
    end = time.monotonic() + timeout
    try:
        tasks.wait(m.destination, task, timeout)
    except TaskFailed as failed:
        log.info("%s: the import before came to nothing: %s", m.id, failed.details[0])
    except TimedOut:
        return False
    except XenAPI.Failure as failure:
        if failure.details[:2] != repeated.NO_TASK:
            raise
        started = m.entry.get(IMPORT_STARTED)
        while started and _member_started(m) == started:
            if time.monotonic() > end:
                return False
            time.sleep(tasks.POLL)
    return True


def _member_started(m: "Migration") -> str:
    """When the xapi of the destination's host has been started, as xapi notes it, if that host is a
    member of its pool; else "": a master's tasks and what it works on end together."""
    host = m.host()
    if Records(m.destination).pool()["master"] == host:
        return ""
    started: str = m.destination.xenapi.host.get_other_config(host).get(STARTED, "")
    return started


def _require_tpms(m: "Migration", vm: str) -> None:
    """Raises BadMetadata unless the VM (a ref) has its virtual TPMs at the destination: an importer
    before xapi 23.10 passes over what it does not know. By their UUIDs the destination's xenopsd
    puts there what the running ones hold (service.ml, restore). Those of a copy have new ones."""
    api = m.destination.xenapi
    there = [api.VTPM.get_uuid(ref) for ref in api.VM.get_VTPMs(vm)]
    wanted = sorted(_tpms(m.source, m.plan.vm))
    lacking = wanted[len(there) :] if m.plan.copy else sorted(set(wanted) - set(there))
    if lacking:
        raise BadMetadata("the destination has not taken virtual TPM %s" % ", ".join(lacking))


def _tpms(session: "XenAPI.Session", vm: str) -> List[str]:
    """The UUIDs of the virtual TPMs of a VM (UUID)."""
    api = session.xenapi
    return [api.VTPM.get_uuid(ref) for ref in api.VM.get_VTPMs(api.VM.get_by_uuid(vm))]


def bring_again(m: "Migration") -> None:
    """Have the destination's xapi know the VM and its disks again, if it has forgotten them:
    records that it had not written to disk are lost when it is killed; images and the source's
    records are not. Raises XenAPI.Failure, UUID_INVALID, for a disk that no scan finds."""
    for disk in m.plan.sent:
        if is_used_up(m, disk):
            continue
        uuid = m.disk(disk.key)["destination_vdi"]
        if not Records(m.destination).ref("VDI", uuid):
            log.warning("%s: VDI %s is looked for by a scan", m.id, uuid)
            m.destination.xenapi.SR.scan(m.destination.xenapi.SR.get_by_uuid(disk.destination_sr))
            vdi = m.destination_vdi(disk)
            m.destination.xenapi.VDI.set_name_label(vdi, disk.name_label)
            m.destination.xenapi.VDI.set_name_description(vdi, disk.name_description)
    if m.plan.cross_pool and not arrived_vm.find(m):
        log.warning("%s: VM %s is brought to the destination once more", m.id, m.plan.vm)
        bring(m)


def is_used_up(m: "Migration", disk: "Disk") -> bool:
    """Whether it is the image of the memory of what is not suspended any more, as it has been
    resumed since: xapi has destroyed it then. In another pool only of a VM that has been let go
    there: an import that could not make it suspended has it halted (import.ml)."""
    if not disk.is_memory:
        return False
    vm = Records(m.destination).ref("VM", disk.snapshot or m.plan.vm)
    if vm is None or m.destination.xenapi.VM.get_power_state(vm) == SUSPENDED:
        return False
    blocked = m.destination.xenapi.VM.get_blocked_operations(vm)
    return not (m.plan.cross_pool and blocking.reason(m.id) in blocked.values())


def remove(m: "Migration") -> None:
    """Take the VM's metadata out of the destination pool again, durably: its disks go next, and
    then nobody looks for it any more. The VM does not run there (shut_gates.py is sure of it).
    Raises NotDurable, Undecided."""
    if m.entry.get("imported"):
        may_come = _may_import_come(m)
        if may_come:
            m.warn(may_come)
        durable.keep(
            () if m.lost else (m.destination,),
            lambda: _take_out(m),
            lambda: _back(m),
            "that VM %s is not at the destination" % m.plan.vm,
        )
        arrived_vm.forget(m)
    if m.receiving_host:
        receiving_host.leave(m.destination, m.receiving_host)
        m.receiving_host = None


def _take_out(m: "Migration") -> None:
    for vm in arrived_vm.find_all(m):
        state = m.destination.xenapi.VM.get_power_state(vm)
        if state != "Halted":
            if not m.plan.live and not (m.plan.suspended and state == SUSPENDED):
                raise Undecided("VM %s has been started at the destination" % m.plan.vm)
            m.destination.xenapi.VM.power_state_reset(vm)
        _destroy(m, vm)
    snapshot_vms.remove_arrived(m)


def _back(m: "Migration") -> List[str]:
    """What of it an older database has brought back: a list, in words."""
    api = m.destination.xenapi.VM
    found = ["VM %s is back" % api.get_uuid(vm) for vm in arrived_vm.find_all(m)]
    return found + snapshot_vms.arrived(m)


def _destroy(m: "Migration", vm: str) -> None:
    snapshot_vms.remove_arrived(m)
    claim.unblock_arrived(m, vm, ("destroy",))
    m.destination.xenapi.VM.destroy(vm)


def destination_vm(m: "Migration") -> str:
    """The ref of the VM in the destination pool. Raises XenAPI.Failure, UUID_INVALID, if it is not
    there."""
    vm = arrived_vm.find(m)
    if vm is None:
        known = m.entry.get(arrived_vm.NEW_VM, "") if m.plan.copy else m.plan.vm
        raise XenAPI.Failure(["UUID_INVALID", "VM", known])
    return vm


def _document(
    source: "XenAPI.Session",
    destination: "XenAPI.Session",
    plan: "Plan",
    disks: Dict[str, str],
    migration: Optional[str],
    secrets: bool = True,
) -> bytes:
    """The rewritten metadata. Our marks and blocks stay behind, but for the one by which a copy is
    known; so do the counterparts of an earlier migration. What is in the VM's TPM only goes along
    if `secrets`."""
    vifs = {
        vif.vif: destination.xenapi.network.get_by_uuid(vif.network)
        for vif in plan.vifs + (plan.snapshot_vifs if plan.kept else [])
    }
    exported = metadata.export(source, source.xenapi.VM.get_by_uuid(plan.vm), bool(plan.kept))
    ours = blocking.reason(migration) if migration else None
    drop = [
        (name, "other_config", lambda key, value: key in blocking.MARKS) for name in ("VM", "VDI")
    ]
    drop.append(("VM", "blocked_operations", lambda key, value: value == ours))
    add = [("VM", "other_config", CLAIM, migration)] if plan.copy and migration else []
    # else HA would start the copy there, where it is on, as soon as the document is imported
    clear = [("VM", "ha_always_run")] if plan.copy else []
    tpms = _tpms(source, plan.vm)
    groups = {
        vgpu.vgpu: destination.xenapi.GPU_group.get_by_uuid(vgpu.group) for vgpu in plan.vgpus
    }
    return ova.rewrite(exported, disks, vifs, drop, tpms, secrets, add, clear, groups)
