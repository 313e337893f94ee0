# SPDX-License-Identifier: LGPL-2.1-only
"""VGPU, GPU_group: virtual GPUs of VMs that do not run (xapi_vgpu.ml, xapi_gpu_group.ml). No VM
with one is started here."""

from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.schema import NULL

RESTRICTION = "restrict_gpu"
_DEVICES = range(21)


@call(
    "GPU_group.create",
    "name_label:string? name_description:string? other_config:map(string,string)?",
)
def create_group(context, name_label, name_description, other_config):
    return context.database.create(
        "GPU_group",
        {
            "name_label": name_label,
            "name_description": name_description,
            "other_config": other_config,
        },
    )


@call(
    "VGPU.create",
    "VM:ref(VM) GPU_group:ref(GPU_group) device:string? other_config:map(string,string)? "
    "type:ref(VGPU_type)?",
)
def create(context, vm, group, device, other_config, of_type):
    fields = {"GPU_group": group, "device": device or "0", "other_config": other_config}
    return make(context.database, vm, dict(fields, type=of_type))


@call("VGPU.destroy", "self:ref(VGPU)")
def destroy(context, self):
    context.database.destroy("VGPU", self)


def make(database, vm, fields, powerstate_check=True):
    """One for a VM; its ref. Raises FEATURE_RESTRICTED, VM_BAD_POWER_STATE, INVALID_VALUE,
    VGPU_TYPE_NOT_COMPATIBLE, DEVICE_ALREADY_EXISTS, INVALID_DEVICE."""
    with database.lock:
        (pool,) = database.refs("pool")
        if database.get("pool", pool, "restrictions").get(RESTRICTION) != "false":
            raise Failure("FEATURE_RESTRICTED")
        record = database.record("VM", vm)
        halted = record["power_state"] == "Halted" or record["is_a_snapshot"]
        if powerstate_check and not halted:
            raise Failure("VM_BAD_POWER_STATE", vm, "halted", record["power_state"].lower())
        if not database.exists("VGPU_type", fields["type"]):
            raise Failure("INVALID_VALUE", "type", fields["type"])
        present = [database.record("VGPU", ref) for ref in record["VGPUs"]]
        for other in present:
            if fields["type"] not in database.get(
                "VGPU_type", other["type"], "compatible_types_in_vm"
            ):
                raise Failure("VGPU_TYPE_NOT_COMPATIBLE", fields["type"])
        device = _device(fields["device"], [int(other["device"]) for other in present])
        return database.create("VGPU", dict(fields, VM=vm, device=device))


def _device(asked, taken):
    """Which device it gets; 0 stands for the first that is free."""
    if int(asked) == 0:
        return str(next(device for device in _DEVICES if device not in taken))
    if int(asked) in taken:
        raise Failure("DEVICE_ALREADY_EXISTS", asked)
    if int(asked) not in _DEVICES:
        raise Failure("INVALID_DEVICE", asked)
    return asked


def copy(database, vm, vgpu):
    """One like it for another VM, in whatever state that is."""
    record = database.record("VGPU", vgpu)
    kept = ("GPU_group", "device", "other_config", "type", "compatibility_metadata")
    made = make(database, vm, {name: record[name] for name in kept}, powerstate_check=False)
    database.set("VGPU", made, currently_attached=record["currently_attached"])


def require_capacity(database, host, vm, group, of_type):
    """What a VM that arrives live needs, halted or not, at the host whose import it is (import.ml,
    assert_can_live_import_vgpu). Raises VM_REQUIRES_GPU."""
    for ref in database.where("PGPU", GPU_group=group, host=host):
        record = database.record("PGPU", ref)
        resident = [database.get("VGPU", one, "type") for one in record["resident_VGPUs"]]
        most = record["supported_VGPU_max_capacities"].get(of_type, 0)
        if of_type in record["enabled_VGPU_types"] and set(resident) <= {of_type}:
            if len(resident) < most:
                return
    raise Failure("VM_REQUIRES_GPU", vm if vm != NULL else "", group)
