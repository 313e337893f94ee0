# SPDX-License-Identifier: LGPL-2.1-only
"""VM: snapshots, checkpoints, and going back to one (xapi_vm_snapshot.ml, xapi_vm_clone.ml).

A snapshot is a VM of its own, with VBDs, VIFs and a TPM. Its disks are `VDI.snapshot`s; the VM's
chain of `parent` leads to them. A checkpoint is one that is suspended: with a snapshot of the image
of the VM's memory, and its devices plugged as the suspended VM's were. What a revert does to the
VM's own fields (its name, its memory) is left out here: those stay."""

import contextlib

from lab.xapi import gpus, suspend, vdi as vdis, vm as vms, vm_lifecycle, vtpm as vtpms
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
        info = _info(database.get("VM", vm, "power_state"))
        with _copies(context, drives, vdis.snapshot) as disks:
            return _snapshot_object(database, vm, disks, name_label=new_name, snapshot_info=info)


@call("VM.checkpoint", "vm:ref(VM) new_name:string")
def checkpoint(context, vm, new_name):
    """The same, with the memory: a VM that runs is suspended, and goes on at once, on its host. Of
    one that is paused it is a snapshot without."""
    database = context.database
    with operation(context, vm, "checkpoint"):
        before = database.record("VM", vm)
        runs = before["power_state"] == "Running"
        if runs:
            suspend.put_away(context, vm)
        try:
            drives = [database.record("VBD", vbd) for vbd in before["VBDs"]]
            image = database.get("VM", vm, "suspend_VDI")
            with _copies(context, drives, vdis.snapshot) as disks:
                return _snapshot_object(
                    database,
                    vm,
                    disks,
                    name_label=new_name,
                    power_state="Halted" if before["power_state"] == "Paused" else "Suspended",
                    snapshot_info=_info(before["power_state"]) if runs else {},
                    suspend_VDI=NULL if image == NULL else vdis.snapshot(context, image, {}),
                )
        finally:
            if runs:
                suspend.go_on(context, vm, before["resident_on"])


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


def _info(state):
    return {"power-state-at-snapshot": state, "disk-snapshot-type": "crash_consistent"}


def _snapshot_object(database, vm, drives, power_state="Halted", **fields):
    """What `fields` say beside what it has of the VM."""
    with database.lock:
        record = database.record("VM", vm)
        suspended = power_state == "Suspended"
        new = vms.make(
            database,
            _copied(
                "VM",
                record,
                power_state=power_state,
                suspend_SR=NULL,
                is_a_snapshot=True,
                is_a_template=True,
                ha_always_run=False,
                snapshot_of=vm,
                snapshot_time=Timestamp.now(),
                parent=record["parent"],
                blocked_operations={},
                uuid=new_uuid(),
                **fields,
            ),
        )
        for drive, vdi in drives:
            plugged = suspended and drive["currently_attached"]  # xapi_vbd_helpers.ml, copy
            copy = _copied("VBD", drive, VM=new, VDI=vdi, currently_attached=plugged)
            if drive["type"] == "Disk":  # CA-58405: a snapshot owns its disks
                copy["other_config"] = dict({OWNER: ""}, **drive["other_config"])
            database.create("VBD", copy)
        _copy_interfaces(database, record, new, suspended)
        for vtpm in record["VTPMs"]:
            vtpms.copy(database, new, vtpm)
        for vgpu in record["VGPUs"]:
            gpus.copy(database, new, vgpu)
        database.set("VM", vm, parent=new)
        return new


def _copy_interfaces(database, record, vm, suspended):
    """Those of a VM (its record), with their MAC addresses, for another one (a ref), which is
    `suspended`, with them plugged as they are, or halted."""
    for ref in record["VIFs"]:
        vif = database.record("VIF", ref)
        plugged = suspended and vif["currently_attached"]
        database.create("VIF", _copied("VIF", vif, VM=vm, currently_attached=plugged))


@call("VM.revert", "snapshot:ref(VM)")
def revert(context, snapshot):
    """The VM has clones of the snapshot's disks from then on; those that it had are destroyed,
    before any is made. All snapshots of such a disk are then told to be of the clone. A disk of
    which there is no snapshot is left without a VM. Back at a checkpoint it is suspended, with a
    clone of that image."""
    database = context.database
    with operation(context, snapshot, "revert"):
        vm = database.get("VM", snapshot, "snapshot_of")
        if not database.exists("VM", vm):
            # xapi makes it anew of the snapshot (create_vm_from_snapshot)
            raise Failure("NOT_IMPLEMENTED", "VM.revert")
        with operation(context, vm, "reverting"):
            if database.get("VM", snapshot, "power_state") == "Suspended":
                # message_forwarding.ml: before anything is destroyed
                sr = database.get("VDI", database.get("VM", snapshot, "suspend_VDI"), "SR")
                if not database.where("PBD", SR=sr, currently_attached=True):
                    raise Failure("SR_NO_PBDS", sr)
            if database.get("VM", vm, "power_state") != "Halted":
                vms.shut_down(context, vm, hard=True)
            _revert(context, snapshot, vm)


def _revert(context, snapshot, vm):
    database = context.database
    state = database.get("VM", snapshot, "power_state")
    suspended, image = state == "Suspended", database.get("VM", snapshot, "suspend_VDI")
    kept = [database.record("VBD", vbd) for vbd in database.get("VM", snapshot, "VBDs")]
    disks = [drive["VDI"] for drive in kept if drive["type"] == "Disk"]
    of = {database.get("VDI", vdi, "snapshot_of") for vdi in disks}
    gone = []
    for vbd in database.get("VM", vm, "VBDs"):
        drive = database.record("VBD", vbd)
        gone += [drive["VDI"]] if drive["VDI"] in of else []
        database.destroy("VBD", vbd)
    former_image = database.get("VM", vm, "suspend_VDI")
    gone += [former_image] if database.exists("VDI", former_image) else []
    for vdi in gone:
        vdis.destroy(context, vdi)
    with _copies(context, kept, vdis.clone) as drives:
        for drive, vdi in drives:
            if drive["type"] == "Disk":
                former = database.get("VDI", drive["VDI"], "snapshot_of")
                for one in database.where("VDI", snapshot_of=former) if former != NULL else ():
                    database.set("VDI", one, snapshot_of=vdi)
        if image != NULL:
            image = vdis.clone(context, image, {})
        for drive, vdi in drives:
            plugged = suspended and drive["currently_attached"]
            database.create(
                "VBD", _copied("VBD", drive, VM=vm, VDI=vdi, currently_attached=plugged)
            )
    with database.lock:
        for vif in database.get("VM", vm, "VIFs"):
            database.destroy("VIF", vif)
        _copy_interfaces(database, database.record("VM", snapshot), vm, suspended)
        for vtpm in database.get("VM", vm, "VTPMs"):
            vtpms.remove(database, vtpm)
        for vtpm in database.get("VM", snapshot, "VTPMs"):
            vtpms.copy(database, vm, vtpm)
        for vgpu in database.get("VM", vm, "VGPUs"):
            database.destroy("VGPU", vgpu)
        for vgpu in database.get("VM", snapshot, "VGPUs"):
            gpus.copy(database, vm, vgpu)
        database.set("VM", vm, parent=snapshot, suspend_VDI=image)
    vm_lifecycle.reset(database, vm, state)
