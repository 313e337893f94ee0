# SPDX-License-Identifier: LGPL-2.1-only
"""What the lab says of xapi's classes and messages beside the data model (`model`), as data."""

from lab.xapi import model

# Fields that the database keeps itself: (class, field of the one) -> (class, set of the other
# side).
BACK_REFERENCES = {
    ("VBD", "VM"): ("VM", "VBDs"),
    ("VBD", "VDI"): ("VDI", "VBDs"),
    ("VIF", "VM"): ("VM", "VIFs"),
    ("VIF", "network"): ("network", "VIFs"),
    ("PIF", "network"): ("network", "PIFs"),
    ("PIF", "host"): ("host", "PIFs"),
    ("VDI", "SR"): ("SR", "VDIs"),
    ("PBD", "SR"): ("SR", "PBDs"),
    ("PBD", "host"): ("host", "PBDs"),
    ("VM", "resident_on"): ("host", "resident_VMs"),
    ("VDI", "snapshot_of"): ("VDI", "snapshots"),
    ("VM", "snapshot_of"): ("VM", "snapshots"),
    ("VM", "parent"): ("VM", "children"),
    ("VTPM", "VM"): ("VM", "VTPMs"),
    ("VGPU", "VM"): ("VM", "VGPUs"),
    ("VGPU", "GPU_group"): ("GPU_group", "VGPUs"),
    ("VGPU", "type"): ("VGPU_type", "VGPUs"),
    ("VGPU", "resident_on"): ("PGPU", "resident_VGPUs"),
    ("PGPU", "GPU_group"): ("GPU_group", "PGPUs"),
    ("console", "VM"): ("VM", "consoles"),
    ("task", "subtask_of"): ("task", "subtasks"),
}

# Defaults that the model's file only counts (`map2`): (class, field) -> value. From
# datamodel_host.ml and recorded/xapi-host.get_record.
DEFAULTS = {
    ("host", "license_server"): {"address": "localhost", "port": "27000"},
    ("host", "virtual_hardware_platform_versions"): [0],
    ("subject", "roles"): [],
    ("tunnel", "status"): {"active": "false"},
}

# Fields that no client sees (`internal_only`), and so the model's file has not: class -> {field:
# its type as the model writes it}.
INTERNAL = {"VTPM": {"contents": "secret ref"}}

# Fields that are not RW, but have messages of their own which do no more than set them: set_X,
# add_to_X and so on, as far as xapi has them. Many are hidden, for SM over the local socket.
SETTERS = {
    "VDI": (
        "name_label",
        "name_description",
        "managed",
        "sharable",
        "read_only",
        "missing",
        "virtual_size",
        "physical_utilisation",
        "is_a_snapshot",
        "snapshot_of",
        "snapshot_time",
        "metadata_of_pool",
        "allow_caching",
        "cbt_enabled",
    ),
    "SR": (
        "name_label",
        "name_description",
        "shared",
        "virtual_allocation",
        "physical_size",
        "physical_utilisation",
    ),
    "PBD": ("device_config",),
    "VM": (
        "actions_after_crash",
        "HVM_boot_policy",
        "order",
        "start_delay",
        "shutdown_delay",
        "bios_strings",
        "domain_type",
        "suspend_VDI",
        "platform",
        "other_config",
        "blocked_operations",
    ),
    "VBD": ("mode",),
    "task": ("progress", "result", "error_info", "other_config"),
}

VDI_INTRODUCED = (
    "uuid:string name_label:string name_description:string SR:ref(SR) type:enum(vdi_type) "
    "sharable:bool read_only:bool "
    "other_config:map(string,string) location:string xenstore_data:map(string,string)? "
    "sm_config:map(string,string)? "
    "managed:bool?true virtual_size:int? physical_utilisation:int? metadata_of_pool:ref(pool)? "
    "is_a_snapshot:bool? "
    "snapshot_time:datetime? snapshot_of:ref(VDI)?"
)

# Messages that xapi answers and its documentation, and so the model's file, does not have; read in
# ocaml/idl/datamodel*.ml.
HIDDEN = {
    "VDI.db_introduce": VDI_INTRODUCED + " cbt_enabled:bool?",
    "VDI.pool_introduce": VDI_INTRODUCED + " cbt_enabled:bool?",
    "VDI.db_forget": "vdi:ref(VDI)",
    "VDI.set_managed": "self:ref(VDI) value:bool",
    "VDI.set_missing": "self:ref(VDI) value:bool",
    "VDI.set_virtual_size": "self:ref(VDI) value:int",
    "VDI.set_physical_utilisation": "self:ref(VDI) value:int",
    "VDI.set_is_a_snapshot": "self:ref(VDI) value:bool",
    "VDI.set_snapshot_of": "self:ref(VDI) value:ref(VDI)",
    "VDI.set_snapshot_time": "self:ref(VDI) value:datetime",
    "VDI.set_metadata_of_pool": "self:ref(VDI) value:ref(pool)",
    "VDI.set_cbt_enabled": "self:ref(VDI) value:bool",
    "SR.set_virtual_allocation": "self:ref(SR) value:int",
    "SR.set_physical_utilisation": "self:ref(SR) value:int",
    "VTPM.get_contents": "self:ref(VTPM)",
    "VTPM.set_contents": "self:ref(VTPM) contents:string",
    "VM.pool_migrate_complete": "vm:ref(VM) host:ref(host)",
    "host.allocate_resources_for_vm": "self:ref(host) vm:ref(VM) live:bool",
    "host.get_sm_diagnostics": "host:ref(host)",
    "host.sm_dp_destroy": "host:ref(host) dp:string allow_leak:bool",
    "network.attach_for_vm": "host:ref(host) vm:ref(VM)",
    "network.detach_for_vm": "host:ref(host) vm:ref(VM)",
}

# Such messages of every class that has get_all (datamodel_utils.ml).
HIDDEN_OF_ALL = {"get_all_where": "expr:string", "get_all_records_where": "expr:string"}

# Setters that xapi keeps for its SM drivers: a session may use them that xapi itself opened for a
# driver of that SR (message_forwarding.ml, assert_session_has_internal_sr_access). (class, fields,
# field that names the SR; None: it is the SR.)
INTERNAL_SETTERS = {
    "VDI": (
        (
            "sharable",
            "managed",
            "read_only",
            "missing",
            "virtual_size",
            "physical_utilisation",
            "is_a_snapshot",
            "snapshot_of",
            "snapshot_time",
            "metadata_of_pool",
            "cbt_enabled",
        ),
        "SR",
    ),
    "SR": (("virtual_allocation", "physical_size", "physical_utilisation"), None),
    "PBD": (("device_config",), "SR"),
}

# Classes of which nothing is in the database on disk. Messages are files of their own.
TRANSIENT = tuple(name for name in model.KEPT if model.MODEL[name]["persisted"] == "no")

# No event tells of these (`gen_events:false` in datamodel.ml).
WITHOUT_EVENTS = ("session", "user", "secret")

# Where the database is written at each call: not before the call is answered, but within a second.
# Counters, which the next scan or guest report renews.
LAZY = {
    "SR": {"virtual_allocation", "physical_size", "physical_utilisation"},
    "VDI": {"physical_utilisation"},
    "VM_guest_metrics": {"*"},
    "VM_metrics": {"*"},
}
