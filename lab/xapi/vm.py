# SPDX-License-Identifier: LGPL-2.1-only
"""VM: virtual machines."""

import logging

from lab.xapi import blobs, ha_plan, rrd_service, vdi as vdis, vm_lifecycle, vtpm as vtpms, xenops
from lab.xapi.calls import call, hidden
from lab.xapi.database import new_uuid
from lab.xapi.devices import assert_vm_attachable
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL, Timestamp, construct
from lab.xapi.vm_lifecycle import operation

log = logging.getLogger("xapi.vm")

_DEVICES = [str(number) for number in range(16)]
_CLEAN = 1200.0  # seconds that a guest may take to shut down (domain_shutdown_total_timeout)


NEVER_KEPT = (
    "blocked_operations",
    "protection_policy",
    "is_snapshot_from_vmpp",
    "snapshot_schedule",
    "is_vmss_snapshot",
)
"""Fields that xapi takes in a record for a VM and does not keep, neither here nor in an import
(xapi_vm.ml, create; import.ml)."""
_LEFT_OUT = NEVER_KEPT + ("power_state", "suspend_VDI", "last_booted_record", "last_boot_CPU_flags")
"""The same of a halted VM that is made."""


@call("VM.create", "args:record(VM)")
def create(context, args):
    made = construct("VM", args)
    if made.get("power_state") == "Suspended":
        raise Failure(
            "VALUE_NOT_SUPPORTED",
            "power_state",
            made["power_state"],
            "no suspended VM can be made here",
        )
    for field in _LEFT_OUT:
        made.pop(field, None)
    made["other_config"].setdefault("mac_seed", new_uuid())
    if made.get("domain_type", "unspecified") == "unspecified":
        made["domain_type"] = "hvm" if made["HVM_boot_policy"] else "pv"
    return make(context.database, made)


def make(database, fields):
    """A VM object, with its metrics."""
    with database.lock:
        metrics = database.create(
            "VM_metrics",
            {
                "memory_actual": fields.get("memory_static_max", 0),
                "VCPUs_number": fields.get("VCPUs_at_startup", 0),
            },
        )
        return database.create("VM", dict(fields, metrics=metrics, domid=-1))


@call("VM.destroy", "self:ref(VM)")
def destroy(context, self):
    """Remove the VM with its blobs, virtual TPM, VBDs, VIFs and virtual GPUs; its disks stay."""
    with operation(context, self, "destroy"):
        for blob in context.database.get("VM", self, "blobs").values():
            if context.database.exists("blob", blob):
                blobs.remove(context.pool, blob)
        context.pool.rrdd.remove(context.database.get("VM", self, "uuid"))
        remove(context.database, self)


def remove(database, vm):
    with database.lock:
        record = database.record("VM", vm)
        for vtpm in record["VTPMs"]:
            vtpms.remove(database, vtpm)
        owned = [
            ("VBD", record["VBDs"]),
            ("VIF", record["VIFs"]),
            ("VGPU", record["VGPUs"]),
            ("console", record["consoles"]),
            ("VM_metrics", [record["metrics"]]),
            ("VM_guest_metrics", [record["guest_metrics"]]),
        ]
        for class_name, refs in owned:
            for ref in refs:
                if database.exists(class_name, ref):
                    database.destroy(class_name, ref)
        for child in record["children"]:
            database.set("VM", child, parent=record["parent"])
        database.destroy("VM", vm)


# --- power


def hosts_that_see(database, vm):
    """The hosts on which every SR of the VM's disks is plugged."""
    hosts = database.refs("host")
    for vbd in database.get("VM", vm, "VBDs"):
        record = database.record("VBD", vbd)
        if record["empty"]:
            continue
        sr = database.get("VDI", record["VDI"], "SR")
        plugged = [
            database.get("PBD", pbd, "host")
            for pbd in database.get("SR", sr, "PBDs")
            if database.get("PBD", pbd, "currently_attached")
        ]
        hosts = [host for host in hosts if host in plugged]
        if not hosts:
            raise Failure("VM_REQUIRES_SR", vm, sr)
    return hosts


@call("VM.get_possible_hosts", "vm:ref(VM)", is_async=False)
def get_possible_hosts(context, vm):
    return hosts_that_see(context.database, vm)


@call("VM.start", "vm:ref(VM) start_paused:bool force:bool")
def start(context, vm, start_paused, _force):
    with operation(context, vm, "start"):
        assert_vm_attachable(context.database, vm)
        hosts = hosts_that_see(context.database, vm)
        affinity = context.database.get("VM", vm, "affinity")
        _start(context, vm, affinity if affinity in hosts else hosts[0], start_paused)


@call("VM.start_on", "vm:ref(VM) host:ref(host) start_paused:bool force:bool")
def start_on(context, vm, host, start_paused, _force):
    context.database.get("host", host, "uuid")
    with operation(context, vm, "start_on"):
        assert_vm_attachable(context.database, vm)
        if host not in hosts_that_see(context.database, vm):
            raise Failure("VM_REQUIRES_SR", vm, _first_unseen(context.database, vm, host))
        _start(context, vm, host, start_paused)


def _first_unseen(database, vm, host):
    for vbd in database.get("VM", vm, "VBDs"):
        record = database.record("VBD", vbd)
        sr = NULL if record["empty"] else database.get("VDI", record["VDI"], "SR")
        if sr != NULL and not database.where("PBD", SR=sr, host=host, currently_attached=True):
            return sr
    return NULL


def _start(context, vm, host, start_paused):
    if start_paused:
        raise Failure(
            "VALUE_NOT_SUPPORTED", "start_paused", "true", "xenopsd here cannot start a VM paused"
        )
    pool, database = context.pool, context.database
    ha_plan.require_start(database, vm, host)
    if database.get("VM", vm, "ha_restart_priority") == ha_plan.RESTART:
        database.set("VM", vm, ha_always_run=True)
    # before xenopsd hears of the VM (xapi_xenops.ml, start)
    for class_name, field in (("VBD", "VBDs"), ("VIF", "VIFs")):
        for device in database.get("VM", vm, field):
            database.set(class_name, device, currently_attached=True)
    database.set("VM", vm, scheduled_to_be_resident_on=host)
    try:
        identity = _push(pool, vm, host)
        xenops.run(context, host, "VM.start", id=identity)
        with database.lock:
            database.set("VM", vm, resident_on=host, domarch="")
            database.set(
                "VM_metrics", database.get("VM", vm, "metrics"), start_time=Timestamp.now()
            )
        xenops.refresh(pool, vm, host)
        rrd_service.push(pool, host, identity)
    except Failure:
        # It looks at what xenopsd says of the VM. Of one that xenopsd has not heard of that is
        # nothing: it stays halted, on that host, with its devices attached, as a real one did.
        database.set("VM", vm, resident_on=host)
        xenops.await_events(pool, host)
        xenops.update_vm(pool, vm, host)
        raise
    finally:
        database.set("VM", vm, scheduled_to_be_resident_on=NULL)


def _push(pool, vm, host):
    """Tell a host's xenopsd of a VM that is to start there (Xenopsd_metadata.push). Its id."""
    firmware = pool.database.get("VM", vm, "HVM_boot_params").get("firmware", "bios")
    if pool.database.get("VM", vm, "VTPMs") and firmware != "uefi":
        raise Failure("NOT_IMPLEMENTED", "Booting BIOS VM with VTPMs attached")
    described = xenops.metadata(pool.database, vm)
    members = {"debug_info": "VM.start", "metadata": described}
    pool.on_host(host, "xenops", method="VM.add", members=members)
    return described["id"]


@call("VM.clean_shutdown", "vm:ref(VM)")
def clean_shutdown(context, vm):
    with operation(context, vm, "clean_shutdown"):
        shut_down(context, vm, hard=False)


@call("VM.hard_shutdown", "vm:ref(VM)")
def hard_shutdown(context, vm):
    with operation(context, vm, "hard_shutdown"):
        shut_down(context, vm, hard=True)


@call("VM.shutdown", "vm:ref(VM)")
def shutdown(context, vm):
    """A clean shutdown, and a hard one where the VM does not obey."""
    try:
        clean_shutdown(context, vm)
    except Failure as failure:
        if failure.code != "INTERNAL_ERROR":
            raise
        hard_shutdown(context, vm)


def _delay(hard):
    """What xenopsd is told of a guest that may take its time."""
    return {} if hard else {"delay": _CLEAN}


def shut_down(context, vm, hard):
    """End a VM, whatever else is going on with it."""
    host, uuid = (
        context.database.get("VM", vm, "resident_on"),
        context.database.get("VM", vm, "uuid"),
    )
    context.database.set("VM", vm, ha_always_run=False)
    if hard and context.database.get("VM", vm, "power_state") == "Suspended":
        image = context.database.get("VM", vm, "suspend_VDI")
        try:
            if image != NULL:
                vdis.destroy(context, image)
        except Failure:  # whether or not that worked, it is forgotten
            log.exception("the suspend image %s stays", image)
        context.database.set("VM", vm, suspend_VDI=NULL)
        vm_lifecycle.reset(context.database, vm)
        return
    xenops.run(context, host, "VM.shutdown", id=uuid, **_delay(hard))
    xenops.refresh(context.pool, vm, host)
    xenops.forget(context.pool, host, uuid)


@call("VM.clean_reboot", "vm:ref(VM)")
def clean_reboot(context, vm):
    with operation(context, vm, "clean_reboot"):
        _reboot(context, vm, hard=False)


@call("VM.hard_reboot", "vm:ref(VM)")
def hard_reboot(context, vm):
    with operation(context, vm, "hard_reboot"):
        _reboot(context, vm, hard=True)


def _reboot(context, vm, hard):
    assert_vm_attachable(context.database, vm)
    record = context.database.record("VM", vm)
    try:
        xenops.run(context, record["resident_on"], "VM.reboot", id=record["uuid"], **_delay(hard))
    finally:
        xenops.refresh(context.pool, vm, record["resident_on"])


@call("VM.power_state_reset", "vm:ref(VM)")
def power_state_reset(context, vm):
    """Make the objects say Halted. Of a VM that runs on the master its xenopsd is asked:
    DOMAIN_EXISTS [vm] if it runs there, else that forgets it. Of one that runs on another host
    nobody is asked: HOST_IS_LIVE [host] as long as that host's xapi answers (xapi_vm.ml). Whatever
    operation of it is under way (message_forwarding.ml)."""
    pool = context.pool
    record = context.database.record("VM", vm)
    host = record["resident_on"]
    if record["power_state"] in ("Running", "Paused") and host == pool.master:
        state = xenops.stat(pool, host, record["uuid"])
        if state and state["power_state"] == "Running":
            raise Failure("DOMAIN_EXISTS", vm)
        if state:
            xenops.forget(pool, host, record["uuid"])
    elif record["power_state"] in ("Running", "Paused") and pool.is_alive(host):
        raise Failure("HOST_IS_LIVE", host)
    vm_lifecycle.reset(context.database, vm)
    rrd_service.archive(pool, pool.own_host, record["uuid"])


@hidden("VM.pool_migrate_complete")
def pool_migrate_complete(context, vm, host):
    """The VM has arrived on `host`: take over what that host's xenopsd says; nothing where it does
    not know the VM."""
    database = context.database
    context.database.get("host", host, "uuid")
    state = xenops.stat(context.pool, host, database.get("VM", vm, "uuid"))
    if state:
        database.set("VM", vm, resident_on=host, scheduled_to_be_resident_on=NULL)
        xenops.await_events(context.pool, host)
        xenops.update_vm(context.pool, vm, host)


# --- questions


@call("VM.assert_operation_valid", "self:ref(VM) op:enum(vm_operations)", is_async=False)
def assert_operation_valid(context, self, op):
    record = context.database.record("VM", self)
    if op not in vm_lifecycle.OPERATIONS:
        raise Failure("NOT_IMPLEMENTED", op)
    failure = vm_lifecycle.refusal(self, record, op)
    if failure:
        raise failure


@call("VM.update_allowed_operations", "self:ref(VM)", is_async=False)
def update_allowed_operations(context, self):
    context.database.get("VM", self, "allowed_operations")  # they are always up to date


def _free_devices(context, vm, devices, class_name, field):
    used = [
        context.database.get(class_name, ref, field)
        for ref in context.database.get("VM", vm, devices)
    ]
    return [device for device in _DEVICES if device not in used]


@call("VM.get_allowed_VBD_devices", "vm:ref(VM)", is_async=False)
def get_allowed_vbd_devices(context, vm):
    return _free_devices(context, vm, "VBDs", "VBD", "userdevice")


@call("VM.get_allowed_VIF_devices", "vm:ref(VM)", is_async=False)
def get_allowed_vif_devices(context, vm):
    return _free_devices(context, vm, "VIFs", "VIF", "device")[:7]


# --- what this xapi only knows how to refuse


def _refusing(name):
    def refuse(context, vm, *_):
        with operation(context, vm, name):
            raise Failure("NOT_IMPLEMENTED", "VM." + name)

    return refuse


for _name, _more in (
    ("pause", ""),
    ("unpause", ""),
    ("clone", " new_name:string"),
    ("copy", " new_name:string sr:ref(SR)"),
    ("pool_migrate", " host:ref(host) options:map(string,string)"),
):
    call("VM." + _name, "vm:ref(VM)" + _more)(_refusing(_name))
