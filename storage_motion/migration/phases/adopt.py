# SPDX-License-Identifier: LGPL-2.1-only
"""A VM that does not run gets its new disks: with its metadata in another pool; within the pool by
new VBDs, or, suspended, in those that it has."""

from typing import TYPE_CHECKING, Any, Dict, List

import XenAPI

from storage_motion.errors import STOPPING, Undecided
from storage_motion.migration import durable
from storage_motion.migration.phases import receive, remap
from storage_motion.xapi import database_fields, repeated
from storage_motion.xapi.records import SUSPENDED, Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

TURN = "turn"  # a field of the journal: how often writing to xapi's database was begun
# The same: the VM may have its new disks, by what xapi has in its memory or in its database's file.
GIVEN = "given"
# a field of a disk in the journal: UUIDs of the VBDs of it that xapi was asked to destroy
DOOMED = "doomed"
TAKEN = "DEVICE_ALREADY_EXISTS"

# The fields of a VBD that its replacement takes over.
VBD_FIELDS = (
    "VM",
    "userdevice",
    "bootable",
    "mode",
    "type",
    "unpluggable",
    "empty",
    "other_config",
    "qos_algorithm_type",
    "qos_algorithm_params",
)


def adopt(m: "Migration") -> None:
    """Give the VM its new disks."""
    receive.give(m)
    if m.plan.cross_pool:
        remap.bring(m)
        return
    _begin_turn(m)
    m.note(None, **{GIVEN: True})
    for disk in m.plan.disks:
        replace(m, m.vm(), disk, m.destination_vdi(disk))


def replace_unplugged(m: "Migration") -> None:
    """Within a pool, have a VM that runs on its other new disks have those that it has not plugged,
    too: of them xenopsd knows nothing."""
    for disk in m.plan.disks if not m.plan.cross_pool else ():
        if disk.unplugged:
            replace(m, m.vm(), disk, m.destination_vdi(disk))


def give_back(m: "Migration") -> None:
    """Give it its old ones, durably: its new ones are taken away then. Also of a VM that was to run
    on its new disks, on its own host: xapi takes the new one for each as soon as that is plugged,
    and keeps it if the move then fails.

    Within a pool it raises Undecided, or JournalNotWritten, for whatever fails: the VM may have the
    new ones still, of which xapi destroys an image of memory all the same (xapi_vdi.ml, destroy),
    so they stay, and the VM stays blocked, until a recovery has given the old ones back."""
    if m.plan.cross_pool:
        remap.remove(m)
        return
    try:
        _give_back_within(m)
    except STOPPING:
        raise
    except Exception as error:
        raise Undecided(
            "whether VM %s has its old disks again: %s" % (m.plan.vm, " ".join(m.describe(error)))
        )


def _give_back_within(m: "Migration") -> None:
    _begin_turn(m)
    given = [disk for disk in m.plan.disks if _may_have_new(m, disk)]
    if m.entry.get(GIVEN) and _is_suspended(m, m.vm()):
        # What was suspended has no note of its own of what it was given, and xapi tells what it has
        # in its memory only: an earlier `give_back` may have got no further than that.
        given = m.plan.disks
    if given:
        durable.keep(
            (m.source,),
            lambda: _take_back(m),
            lambda: _not_back(m, given),
            "that VM %s has its disks" % m.plan.vm,
        )
    if m.entry.get(GIVEN):
        m.note(None, **{GIVEN: False})


def _begin_turn(m: "Migration") -> None:
    """Before it is looked what the VM has: have the master refuse what was asked for before, by a
    worker that was killed, or whose call was not answered, and has not been done yet."""
    if not _is_suspended(m, m.vm()):
        return
    m.note(None, **{TURN: m.entry.get(TURN, 0) + 1})
    repeated.done(
        m,
        lambda: database_fields.begin_turn(m.source, _turn(m)),
        "what the master's xapi is told of VM %s" % m.plan.vm,
    )


def _turn(m: "Migration") -> database_fields.Turn:
    return database_fields.Turn(m.id, m.entry.get(TURN, 0))


def _take_back(m: "Migration") -> None:
    for disk in m.plan.disks:
        if _may_have_new(m, disk):
            replace(m, m.vm(), disk, m.source_vdi(disk))


def _may_have_new(m: "Migration", disk: "Disk") -> bool:
    """Whether the VM has not its own old disk, within a pool, for all that is known."""
    if m.disk(disk.key).get("vbd"):
        return True
    if disk.is_memory:
        own = m.source.xenapi.VM.get_suspend_VDI(m.vm())
        return _is_suspended(m, m.vm()) and bool(own != m.source_vdi(disk))
    vbd = Records(m.source).ref("VBD", disk.vbd)
    return vbd is not None and bool(m.source.xenapi.VBD.get_VDI(vbd) != m.source_vdi(disk))


def _not_back(m: "Migration", disks: "List[Disk]") -> List[str]:
    found = []
    for disk in disks:
        vbds = m.source.xenapi.VDI.get_VBDs(m.source_vdi(disk))
        if disk.is_memory:
            lacks = _may_have_new(m, disk)
        else:
            own = [vbd for vbd in vbds if not _is_doomed(m, disk, vbd)]
            lacks = m.vm() not in [m.source.xenapi.VBD.get_VM(vbd) for vbd in own]
        found += ["that VDI %s is the VM's" % disk.key] if lacks else []
    return found


def replace(m: "Migration", vm: str, disk: "Disk", vdi: str) -> None:
    """Have the device of a VM, or of a snapshot of it (refs), be `vdi` (a ref). No message of
    xapi's changes a VBD's VDI, so there is a new VBD; what it is to be like is in the journal
    before the old one is gone. What is suspended, as a checkpoint is, has its VBDs plugged, and
    nobody destroys them: xapi's database is told.

    A call outlives the worker that has made it, and may come late: from a member it goes to the
    master by a connection of its own. A late `destroy` takes none but the VBD that it was made for,
    so one that xapi was ever asked to destroy is no VBD to rely on, be it of the right VDI: there
    is a new one. A late `create` finds the device taken (xapi_vbd.ml: DEVICE_ALREADY_EXISTS)."""
    api = m.source.xenapi.VBD
    if is_taken_away(m, disk):
        return
    if _is_suspended(m, vm):
        field = database_fields.MEMORY if disk.is_memory else database_fields.DISK
        of = vm if disk.is_memory else api.get_by_uuid(disk.vbd)
        repeated.done(
            m,
            lambda: database_fields.write(m.source, _turn(m), field, of, vdi),
            "what VDI %s is to be to VM %s" % (disk.key, m.plan.vm),
        )
        return
    if not m.disk(disk.key).get("vbd"):
        record = api.get_record(api.get_by_uuid(disk.vbd))
        if disk.vbd in m.entry.get("fastened", []):
            # that it is not is of this migration, whose claim knows the old one only
            record = dict(record, unpluggable=True)
        m.note(disk.key, vbd={field: record[field] for field in VBD_FIELDS})
    wanted = dict(m.disk(disk.key)["vbd"], VDI=vdi)
    if _clear_device(m, vm, disk, wanted):
        return
    try:
        api.create(wanted)
    except XenAPI.Failure as failure:
        if failure.details[0] != TAKEN:
            raise
        if not _clear_device(m, vm, disk, wanted):  # that of a late `create`, which is no more
            api.create(wanted)


def _clear_device(m: "Migration", vm: str, disk: "Disk", wanted: Dict[str, Any]) -> bool:
    """Destroy what a device of a VM (a ref) has, but for a VBD with the VDI that it is to have.
    Whether there is one."""
    api, found = m.source.xenapi.VBD, False
    for ref in m.source.xenapi.VM.get_VBDs(vm):
        try:
            if api.get_userdevice(ref) != wanted["userdevice"]:
                continue
            if api.get_VDI(ref) == wanted["VDI"] and not _is_doomed(m, disk, ref):
                found = True
                continue
            _doom(m, disk, api.get_uuid(ref))
            api.destroy(ref)
        except XenAPI.Failure as failure:
            if failure.details[0] != "HANDLE_INVALID":
                raise
    return found


def _doom(m: "Migration", disk: "Disk", vbd: str) -> None:
    doomed: List[str] = m.disk(disk.key).get(DOOMED, [])
    if vbd not in doomed:
        m.note(disk.key, **{DOOMED: doomed + [vbd]})


def _is_doomed(m: "Migration", disk: "Disk", vbd: str) -> bool:
    """Whether xapi was asked to destroy a VBD (a ref) of a disk."""
    return m.source.xenapi.VBD.get_uuid(vbd) in m.disk(disk.key).get(DOOMED, [])


def is_taken_away(m: "Migration", disk: "Disk") -> bool:
    """Whether somebody has destroyed the VBD of a disk, within a pool, which xapi lets him where no
    guest uses it: then it is nobody's at the destination, too. The same of the image of the memory
    of what is not suspended any more, though all that could end that is blocked."""
    if m.plan.cross_pool:
        return False
    if disk.is_memory:
        vm = Records(m.source).ref("VM", disk.snapshot or m.plan.vm)
        return vm is None or not _is_suspended(m, vm)
    return (
        not m.disk(disk.key).get("vbd")
        and bool(disk.snapshot or disk.unplugged)
        and Records(m.source).ref("VBD", disk.vbd) is None
    )


def _is_suspended(m: "Migration", vm: str) -> bool:
    return bool(m.source.xenapi.VM.get_power_state(vm) == SUSPENDED)
