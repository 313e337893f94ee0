# SPDX-License-Identifier: LGPL-2.1-only
"""VM: snapshots, and going back to one (xapi_vm_snapshot.ml, xapi_vm_clone.ml).

A snapshot is a VM of its own, with VBDs, VIFs and a TPM. Its disks are `VDI.snapshot`s; the VM's
chain of `parent` leads to them. What a revert does to the VM's own fields (its name, its memory) is
left out here: those stay."""

import contextlib

from lab.xapi import vdi as vdis, vm as vms, vm_lifecycle, vtpm as vtpms
from lab.xapi.calls import call
from lab.xapi.database import new_uuid
from lab.xapi.failures import Failure
from lab.xapi.schema import CLASSES, NULL, Timestamp
from lab.xapi.vm_lifecycle import operation

OWNER = "owner"  # key of a VBD's other_config: its disk goes with the VM (xapi's constants.ml)


@call("VM.snapshot", "vm:ref(VM) new_name:string ignore_vdis:set(ref(VDI))?")
def snapshot(context, vm, new_name, ignore_vdis):
    """A VM object with snapshots of the disks. Raises what a disk's snapshot raises, with those
    made before undone."""
    database = context.database
    with operation(context, vm, "snapshot"):
        drives = [
            record
            for record in (database.record("VBD", vbd) for vbd in database.get("VM", vm, "VBDs"))
            if record["VDI"] not in ignore_vdis
        ]
        with _copies(context, drives, vdis.snapshot) as disks:
            return _snapshot_object(database, vm, new_name, disks)


@contextlib.contextmanager
def _copies(context, drives, take):
    """[(VBD, VDI)] with what `take` makes of the disks of these VBDs (records); a CD stays as it
    is. What was made goes again where that fails (safe_clone_disks)."""
    found, made = [], []
    try:
        for drive in drives:
            vdi = drive["VDI"]
            if drive["type"] != "CD" and not drive["empty"]:
                vdi = take(context, vdi, {})
                made.append(vdi)
            found.append((drive, vdi))
        yield found
    except Failure:
        for vdi in made:
            vdis.destroy(context, vdi)
        raise


def _copied(class_name, record, **fields):
    """The fields of an object that a copy of it starts with."""
    kept = {
        name: record[name]
        for name, field in CLASSES[class_name].items()
        if field.access in ("RW", "ST")
    }
    return dict(kept, **fields)


def _snapshot_object(database, vm, new_name, drives):
    with database.lock:
        record = database.record("VM", vm)
        new = vms.make(
            database,
            _copied(
                "VM",
                record,
                name_label=new_name,
                power_state="Halted",
                is_a_snapshot=True,
                is_a_template=True,
                ha_always_run=False,
                snapshot_of=vm,
                snapshot_time=Timestamp.now(),
                parent=record["parent"],
                blocked_operations={},
                uuid=new_uuid(),
                snapshot_info={
                    "power-state-at-snapshot": record["power_state"],
                    "disk-snapshot-type": "crash_consistent",
                },
            ),
        )
        for drive, vdi in drives:
            copy = _copied("VBD", drive, VM=new, VDI=vdi, currently_attached=False)
            if drive["type"] == "Disk":  # CA-58405: a snapshot owns its disks
                copy["other_config"] = dict({OWNER: ""}, **drive["other_config"])
            database.create("VBD", copy)
        _copy_interfaces(database, record, new)
        for vtpm in record["VTPMs"]:
            vtpms.copy(database, new, vtpm)
        database.set("VM", vm, parent=new)
        return new


def _copy_interfaces(database, record, vm):
    """Those of a VM (its record), with their MAC addresses, for another one (a ref)."""
    for vif in record["VIFs"]:
        database.create(
            "VIF", _copied("VIF", database.record("VIF", vif), VM=vm, currently_attached=False)
        )


@call("VM.revert", "snapshot:ref(VM)")
def revert(context, snapshot):
    """The VM has clones of the snapshot's disks from then on; those that it had are destroyed,
    before any is made. All snapshots of such a disk are then told to be of the clone. A disk of
    which there is no snapshot is left without a VM."""
    database = context.database
    with operation(context, snapshot, "revert"):
        vm = database.get("VM", snapshot, "snapshot_of")
        if not database.exists("VM", vm):
            # xapi makes it anew of the snapshot (create_vm_from_snapshot)
            raise Failure("NOT_IMPLEMENTED", "VM.revert")
        with operation(context, vm, "reverting"):
            if database.get("VM", vm, "power_state") != "Halted":
                vms.shut_down(context, vm, hard=True)
            _revert(context, snapshot, vm)


def _revert(context, snapshot, vm):
    database = context.database
    kept = [database.record("VBD", vbd) for vbd in database.get("VM", snapshot, "VBDs")]
    disks = [drive["VDI"] for drive in kept if drive["type"] == "Disk"]
    of = {database.get("VDI", vdi, "snapshot_of") for vdi in disks}
    gone = []
    for vbd in database.get("VM", vm, "VBDs"):
        drive = database.record("VBD", vbd)
        gone += [drive["VDI"]] if drive["VDI"] in of else []
        database.destroy("VBD", vbd)
    for vdi in gone:
        vdis.destroy(context, vdi)
    with _copies(context, kept, vdis.clone) as drives:
        for drive, vdi in drives:
            if drive["type"] == "Disk":
                former = database.get("VDI", drive["VDI"], "snapshot_of")
                for one in database.where("VDI", snapshot_of=former) if former != NULL else ():
                    database.set("VDI", one, snapshot_of=vdi)
        for drive, vdi in drives:
            database.create("VBD", _copied("VBD", drive, VM=vm, VDI=vdi, currently_attached=False))
    with database.lock:
        for vif in database.get("VM", vm, "VIFs"):
            database.destroy("VIF", vif)
        _copy_interfaces(database, database.record("VM", snapshot), vm)
        for vtpm in database.get("VM", vm, "VTPMs"):
            vtpms.remove(database, vtpm)
        for vtpm in database.get("VM", snapshot, "VTPMs"):
            vtpms.copy(database, vm, vtpm)
        database.set("VM", vm, parent=snapshot)
    vm_lifecycle.reset(database, vm)
