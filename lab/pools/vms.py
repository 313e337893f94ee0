# SPDX-License-Identifier: LGPL-2.1-only
"""Making VMs, disks and networks in a pool of the lab, by XenAPI as any client would."""

MIB = 1 << 20

VM = {
    "name_description": "",
    "user_version": "1",
    "is_a_template": False,
    "affinity": "OpaqueRef:NULL",
    "memory_static_max": str(256 * MIB),
    "memory_dynamic_max": str(256 * MIB),
    "memory_dynamic_min": str(256 * MIB),
    "memory_static_min": str(256 * MIB),
    "VCPUs_params": {},
    "VCPUs_max": "1",
    "VCPUs_at_startup": "1",
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "destroy",
    "PV_bootloader": "",
    "PV_kernel": "",
    "PV_ramdisk": "",
    "PV_args": "",
    "PV_bootloader_args": "",
    "PV_legacy_args": "",
    "HVM_boot_policy": "BIOS order",
    "HVM_boot_params": {"order": "c"},
    "platform": {},
    "PCI_bus": "",
    "recommendations": "",
    "xenstore_data": {},
    "ha_restart_priority": "",
    "tags": [],
    "blocked_operations": {},
}
"""What VM.create wants beside a name and other_config."""

BY_ITS_USER = "by its user"
"""The text with which a VM's user has blocked an operation."""

NO_QOS = {"qos_algorithm_type": "", "qos_algorithm_params": {}}


def create_disk(xapi, sr, name, size, **changes):
    """A VDI of `size` bytes on `sr` (a ref); its ref."""
    record = {
        "name_label": name,
        "name_description": "",
        "SR": sr,
        "virtual_size": str(size),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    }
    return xapi.VDI.create(dict(record, **changes))


def attach_disk(xapi, vm, vdi, number, mode="RW"):
    """A VBD that joins them; its ref."""
    return xapi.VBD.create(
        dict(
            {
                "VM": vm,
                "VDI": vdi,
                "userdevice": str(number),
                "bootable": number == 0,
                "mode": mode,
                "type": "Disk",
                "unpluggable": True,
                "empty": False,
                "other_config": {},
            },
            **NO_QOS,
        )
    )


def attach_network(xapi, vm, network, number):
    """A VIF of the VM on that network; its ref."""
    return xapi.VIF.create(
        dict(
            {
                "VM": vm,
                "network": network,
                "device": str(number),
                "MAC": "",
                "MTU": "1500",
                "other_config": {},
            },
            **NO_QOS,
        )
    )


def create_vm(xapi, name, disks, network, guest=None):
    """A halted VM. `disks`: [(sr ref, size in bytes)]; `guest`: settings of lab.guest, as strings;
    its ref."""
    other_config = {
        "lab-guest:%s" % key: str(value)
        for key, value in dict({"seed": name}, **(guest or {})).items()
    }
    vm = xapi.VM.create(dict(VM, name_label=name, other_config=other_config))
    for number, (sr, size) in enumerate(disks):
        attach_disk(xapi, vm, create_disk(xapi, sr, "%s disk %d" % (name, number), size), number)
    attach_network(xapi, vm, network, 0)
    return vm
