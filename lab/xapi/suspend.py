# SPDX-License-Identifier: LGPL-2.1-only
"""VM.suspend, resume and resume_on: a VM's memory in a VDI (xapi_vm.ml, xapi_xenops.ml)."""

from lab.xapi import rrd_service, vdi as vdis, vm as vms, xenops
from lab.xapi.calls import call
from lab.xapi.devices import assert_vm_attachable
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL
from lab.xapi.vm_lifecycle import operation

_MIB = 1 << 20
_BESIDE_MEMORY = 100 * _MIB


@call("VM.suspend", "vm:ref(VM)")
def suspend(context, vm):
    """Raises VM_NO_SUSPEND_SR [vm]. What has no image in the end is halted, or runs on."""
    with operation(context, vm, "suspend"):
        context.database.set("VM", vm, ha_always_run=False)
        put_away(context, vm)


def put_away(context, vm):
    """The same as a part of another operation (xapi_xenops.ml, suspend)."""
    database, pool = context.database, context.pool
    record = database.record("VM", vm)
    image = vdis.create(context, _image(record, _suspend_sr(database, vm, record)))
    database.set("VM", vm, suspend_VDI=image)
    host = record["resident_on"]
    try:
        place = xenops.locator(database, image)
        xenops.run(context, host, "VM.suspend", id=record["uuid"], disk=place)
        xenops.await_events(pool, host)
        xenops.update_vm(pool, vm, host)
        if database.get("VM", vm, "power_state") != "Suspended":
            raise Failure("VM_BAD_POWER_STATE", vm, "suspended", "running")
    except Failure:
        xenops.refresh(pool, vm, host)
        vdis.destroy(context, image)
        database.set("VM", vm, suspend_VDI=NULL)
        raise


def _image(record, sr):
    size = int(int(record["memory_static_max"]) * 1.2 * 1.05) + _BESIDE_MEMORY
    return {
        "name_label": "Suspend image",
        "name_description": "Suspend image",
        "SR": sr,
        "virtual_size": str(size),
        "type": "suspend",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "xenstore_data": {},
        "sm_config": {"vmhint": record["uuid"], "initial_allocation": str(size)},
        "tags": [],
    }


def _suspend_sr(database, vm, record):
    """The VM's, the pool's or the host's, whichever that host sees (helpers.ml,
    choose_suspend_sr)."""
    host = record["resident_on"]
    (pool,) = database.records("pool").values()
    named = [
        record["suspend_SR"],
        pool["suspend_image_SR"],
        database.get("host", host, "suspend_image_sr"),
    ]
    for sr in named:
        if database.where("PBD", SR=sr, host=host, currently_attached=True):
            return sr
    raise Failure("VM_NO_SUSPEND_SR", vm)


@call("VM.resume", "vm:ref(VM) start_paused:bool force:bool")
def resume(context, vm, start_paused, _force):
    with operation(context, vm, "resume"):
        go_on(context, vm, None, start_paused)


@call("VM.resume_on", "vm:ref(VM) host:ref(host) start_paused:bool force:bool")
def resume_on(context, vm, host, start_paused, _force):
    with operation(context, vm, "resume_on"):
        go_on(context, vm, host, start_paused)


def go_on(context, vm, wanted, start_paused=False):
    """Resume a VM on the host `wanted`, or on one that sees what it needs, as a part of another
    operation (xapi_xenops.ml, resume). Raises VM_HAS_NO_SUSPEND_VDI ["VM", vm]: it is halted then;
    VM_REQUIRES_SR. If xenopsd fails, the VM stays suspended, with its image."""
    database, pool = context.database, context.pool
    if start_paused:
        raise Failure("VALUE_NOT_SUPPORTED", "start_paused", "true", "not by this xenopsd")
    assert_vm_attachable(database, vm)
    image = database.get("VM", vm, "suspend_VDI")
    if not database.exists("VDI", image):
        vms.vm_lifecycle.reset(database, vm)
        raise Failure("VM_HAS_NO_SUSPEND_VDI", "VM", vm)
    sr = database.get("VDI", image, "SR")
    hosts = [
        host
        for host in vms.hosts_that_see(database, vm)
        if wanted in (None, host)
        and database.where("PBD", SR=sr, host=host, currently_attached=True)
    ]
    if not hosts:
        raise Failure("VM_REQUIRES_SR", vm, sr)
    host, described = hosts[0], xenops.metadata(database, vm, plugged_only=True)
    add = {"debug_info": "VM.resume", "metadata": described}
    pool.on_host(host, "xenops", method="VM.add", members=add)
    try:
        place = xenops.locator(database, image)
        xenops.run(context, host, "VM.resume", id=described["id"], disk=place)
    except Failure:
        xenops.forget(pool, host, described["id"])
        raise
    database.set("VM", vm, resident_on=host)
    xenops.refresh(pool, vm, host)
    rrd_service.push(pool, host, described["id"])
    database.set("VM", vm, suspend_VDI=NULL)
    vdis.destroy(context, image)
