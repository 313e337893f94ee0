# SPDX-License-Identifier: LGPL-2.1-only
"""VBD and VIF: what connects a VM with disks and networks."""

import random

from lab.xapi import ha_plan, xenops
from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL, construct
from lab.xapi.vdi import assert_managed

_DEBUG = "lab-xapi"


@call("VBD.create", "args:record(VBD)")
def create_vbd(context, args):
    """Raises DEVICE_ALREADY_EXISTS [device], INVALID_DEVICE, VDI_READONLY [vdi]. The VDI need not
    be managed (xapi_vbd.ml): what is refused is to attach it."""
    database = context.database
    made = construct("VBD", args)
    with database.lock:
        database.get("VM", made["VM"], "uuid")
        if made["empty"]:
            if made["type"] == "Disk":
                raise Failure("INVALID_DEVICE", made["userdevice"])
            made["VDI"] = NULL
        else:
            vdi = database.record("VDI", made["VDI"])
            if made["mode"] == "RW" and vdi["read_only"]:
                raise Failure("VDI_READONLY", made["VDI"])
        made["userdevice"] = _device(
            database, made["VM"], "VBDs", "VBD", "userdevice", made["userdevice"]
        )
        made["device"] = made.get("device") or xenops.device_name(made["userdevice"])
        return database.create(
            "VBD", dict(made, currently_attached=False, allowed_operations=["insert", "eject"])
        )


def _device(database, vm, devices, class_name, field, wanted):
    used = [database.get(class_name, ref, field) for ref in database.get("VM", vm, devices)]
    if wanted == "autodetect":
        return next(str(number) for number in range(256) if str(number) not in used)
    if wanted in used:
        raise Failure("DEVICE_ALREADY_EXISTS", wanted)
    return wanted


@call("VBD.set_mode", "self:ref(VBD) value:enum(vbd_mode)")
def set_mode(context, self, value):
    """Only while the VM is halted (xapi_vbd.ml): VM_BAD_POWER_STATE [vm, "halted", what it is]."""
    vm = context.database.get("VBD", self, "VM")
    state = context.database.get("VM", vm, "power_state")
    if state != "Halted":
        raise Failure("VM_BAD_POWER_STATE", vm, "halted", state.lower())
    context.database.set("VBD", self, mode=value)


@call("VBD.destroy", "self:ref(VBD)")
def destroy_vbd(context, self):
    _destroy(context.database, "VBD", self)


@call("VIF.destroy", "self:ref(VIF)")
def destroy_vif(context, self):
    _destroy(context.database, "VIF", self)


def _destroy(database, class_name, ref):
    with database.lock:
        if database.get(class_name, ref, "currently_attached"):
            raise Failure(
                "OPERATION_NOT_ALLOWED",
                "%s '%s' still attached to '%s'"
                % (
                    class_name,
                    database.get(class_name, ref, "uuid"),
                    database.get("VM", database.get(class_name, ref, "VM"), "uuid"),
                ),
            )
        database.destroy(class_name, ref)


@call("VBD.plug", "self:ref(VBD)")
def plug_vbd(context, self):
    """Raises what xapi does (xapi_vbd_helpers.ml), but for what it says of VBDs of others with the
    same VDI, and of guests without drivers. The VBD is said to be plugged from the begin on, and
    remains so where that fails (xapi_xenops.ml, vbd_plug)."""
    host, vbd = _hotplug(context.database, self, True, "DEVICE_ALREADY_ATTACHED")
    context.database.set("VBD", self, currently_attached=True)
    context.pool.on_host(host, "xenops", method="VBD.add", members=dict(vbd, debug_info=_DEBUG))
    try:
        xenops.run(context, host, "VBD.plug", id=vbd["id"], device=vbd["disk"]["device"])
    finally:  # Events_from_xenopsd.with_suppressed
        xenops.update_vbds(context.pool, context.database.get("VBD", self, "VM"), host)


@call("VBD.unplug", "self:ref(VBD)")
def unplug_vbd(context, self):
    if not context.database.get("VBD", self, "unpluggable"):
        raise Failure("VBD_NOT_UNPLUGGABLE", self)
    host, vbd = _hotplug(context.database, self, False, "DEVICE_ALREADY_DETACHED")
    named = {"id": vbd["id"], "device": vbd["disk"]["device"]}
    xenops.run(context, host, "VBD.unplug", **named)
    xenops.update_vbds(context.pool, context.database.get("VBD", self, "VM"), host)
    context.pool.on_host(
        host, "xenops", method="VBD.remove", members=dict(named, debug_info=_DEBUG)
    )


def assert_managed_of(database, vbd):
    """Raises VDI_NOT_MANAGED [vbd] for whatever is to be done with a VBD whose VDI is not
    (xapi_vbd_helpers.ml, valid_operations)."""
    record = database.record("VBD", vbd)
    if not record["empty"] and not database.get("VDI", record["VDI"], "managed"):
        raise Failure("VDI_NOT_MANAGED", vbd)


def assert_vm_attachable(database, vm):
    """The same for all VBDs of a VM that is to start or reboot (message_forwarding.ml,
    with_vbds_marked)."""
    for vbd in database.get("VM", vm, "VBDs"):
        assert_managed_of(database, vbd)


@call("VBD.assert_attachable", "self:ref(VBD)")
def assert_attachable(context, self):
    assert_managed_of(context.database, self)


def _hotplug(database, vbd, done, already):
    """(the VM's host, {"id": the VM's UUID, "disk": as VBD.add takes it}) of a VBD that may be
    plugged (`done`), or unplugged, now."""
    record = database.record("VBD", vbd)
    state = database.get("VM", record["VM"], "power_state")
    if state != "Running":
        raise Failure("VM_BAD_POWER_STATE", record["VM"], "running", state.lower())
    if record["currently_attached"] == done:
        raise Failure(already, vbd)
    assert_managed_of(database, vbd)
    if record["type"] != "Disk":
        raise Failure("NOT_IMPLEMENTED", "a drive for CDs of a VM that runs")
    vm = database.record("VM", record["VM"])
    disk = xenops.disk_metadata(database, record)
    return vm["resident_on"], {"id": vm["uuid"], "disk": disk}


def _removable(database, vbd):
    record = database.record("VBD", vbd)
    state = database.get("VM", record["VM"], "power_state")
    if state == "Suspended":  # xapi_vbd.ml, assert_not_suspended
        raise Failure("VM_BAD_POWER_STATE", record["VM"], "halted, running", "suspended")
    if record["type"] != "CD":
        raise Failure("VBD_NOT_REMOVABLE_MEDIA", vbd)
    return record


@call("VBD.insert", "vbd:ref(VBD) vdi:ref(VDI)")
def insert(context, vbd, vdi):
    with context.database.lock:
        if not _removable(context.database, vbd)["empty"]:
            raise Failure("VBD_NOT_EMPTY", vbd)
        assert_managed(context.database, vdi)
        ha_plan.require_shared(context.database, context.database.get("VBD", vbd, "VM"), vdi)
        context.database.set("VBD", vbd, VDI=vdi, empty=False)


@call("VBD.eject", "vbd:ref(VBD)")
def eject(context, vbd):
    with context.database.lock:
        if _removable(context.database, vbd)["empty"]:
            raise Failure("VBD_IS_EMPTY", vbd)
        assert_managed_of(context.database, vbd)
        context.database.set("VBD", vbd, VDI=NULL, empty=True)


LOCKING = "restrict_vif_locking"
"""A key of the pool's restrictions."""


def has_locking(database):
    """Whether the pool's licence has VIF locking."""
    (pool,) = database.records("pool").values()
    return pool["restrictions"].get(LOCKING) == "false"


def _require_locking(database, mode="unlocked", addresses=()):
    """Raises LICENCE_RESTRICTION [feature] where these want it (xapi_vif_helpers.ml)."""
    if (mode == "locked" or addresses) and not has_locking(database):
        raise Failure("LICENCE_RESTRICTION", "VIF_locking")


@call("VIF.set_locking_mode", "self:ref(VIF) value:enum(vif_locking_mode)")
def set_locking_mode(context, self, value):
    """Nothing here filters packets. A network's own mode is unlocked."""
    _require_locking(context.database, mode=value)
    context.database.set("VIF", self, locking_mode=value)


@call("VIF.set_ipv4_allowed", "self:ref(VIF) value:set(string)")
def set_ipv4_allowed(context, self, value):
    """Of addresses nothing is looked at."""
    _require_locking(context.database, addresses=value)
    context.database.set("VIF", self, ipv4_allowed=sorted(set(value)))


@call("VIF.create", "args:record(VIF)")
def create_vif(context, args):
    database = context.database
    made = construct("VIF", args)
    addresses = made.get("ipv4_allowed", []) + made.get("ipv6_allowed", [])
    _require_locking(database, made.get("locking_mode"), addresses)
    with database.lock:
        database.get("network", made["network"], "uuid")
        made["device"] = _device(database, made["VM"], "VIFs", "VIF", "device", made["device"])
        autogenerated = made["MAC"] == ""
        made["MAC"] = made["MAC"] or random_mac()
        return database.create(
            "VIF", dict(made, currently_attached=False, MAC_autogenerated=autogenerated)
        )


def random_mac():
    """A locally administered unicast address."""
    octets = [random.randrange(256) for _ in range(6)]
    octets[0] = octets[0] & 0xFC | 0x02
    return ":".join("%02x" % octet for octet in octets)
