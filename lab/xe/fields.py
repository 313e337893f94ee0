# SPDX-License-Identifier: LGPL-2.1-only
"""The fields of xe's records: their names, whether they can be changed, and where they come from.

Names, order and access are those of xapi-cli-server/records.ml; what a command lists by default is
cli_operations.ml's. One field a line: xe's name, access, source. Access: RO, RW, and with S for a
set or M for a map before it. Source: the XenAPI field; `field.uuid` and `field.name` follow a
reference, or each of a set of them.
"""

import collections

Field = collections.namedtuple("Field", "name access source follow")
Record = collections.namedtuple("Record", "api fields default filters")
"""`api`: the class in XenAPI; `default`: fields that are listed; `filters`: what is listed unless
it is asked otherwise."""


def _fields(text):
    fields = []
    for line in text.strip().splitlines():
        name, access, source = line.split()
        source, _, follow = source.partition(".")
        fields.append(Field(name, access, source, follow))
    return fields


_VM = _fields("""
    uuid RO uuid
    name-label RW name_label
    name-description RW name_description
    is-a-template RW is_a_template
    is-a-snapshot RO is_a_snapshot
    snapshot-of RO snapshot_of.uuid
    snapshots RO snapshots.uuid
    is-control-domain RO is_control_domain
    power-state RO power_state
    platform MRW platform
    allowed-operations SRO allowed_operations
    current-operations SRO current_operations
    blocked-operations MRW blocked_operations
    resident-on RO resident_on.uuid
    affinity RW affinity.uuid
    other-config MRW other_config
    dom-id RO domid
    xenstore-data MRW xenstore_data
    VBDs SRO VBDs.uuid
    tags SRW tags
""")
_VDI = _fields("""
    uuid RO uuid
    name-label RW name_label
    name-description RW name_description
    is-a-snapshot RO is_a_snapshot
    snapshot-of RO snapshot_of.uuid
    snapshots RO snapshots.uuid
    allowed-operations SRO allowed_operations
    current-operations SRO current_operations
    sr-uuid RO SR.uuid
    sr-name-label RO SR.name
    vbd-uuids SRO VBDs.uuid
    virtual-size RO virtual_size
    physical-utilisation RO physical_utilisation
    location RO location
    type RO type
    sharable RO sharable
    read-only RO read_only
    managed RO managed
    missing RO missing
    other-config MRW other_config
    xenstore-data MRO xenstore_data
    sm-config MRO sm_config
    on-boot RW on_boot
    allow-caching RW allow_caching
    tags SRW tags
    cbt-enabled RO cbt_enabled
""")
_VBD = _fields("""
    uuid RO uuid
    vm-uuid RO VM.uuid
    vm-name-label RO VM.name
    vdi-uuid RO VDI.uuid
    vdi-name-label RO VDI.name
    empty RO empty
    device RO device
    userdevice RW userdevice
    bootable RW bootable
    mode RW mode
    type RW type
    unpluggable RW unpluggable
    currently-attached RO currently_attached
    other-config MRW other_config
""")
_VIF = _fields("""
    uuid RO uuid
    vm-uuid RO VM.uuid
    vm-name-label RO VM.name
    device RO device
    MAC RO MAC
    MTU RO MTU
    currently-attached RO currently_attached
    other-config MRW other_config
    network-uuid RO network.uuid
    network-name-label RO network.name
""")
_NETWORK = _fields("""
    uuid RO uuid
    name-label RW name_label
    name-description RW name_description
    VIF-uuids SRO VIFs.uuid
    PIF-uuids SRO PIFs.uuid
    MTU RW MTU
    bridge RO bridge
    other-config MRW other_config
    tags SRW tags
""")
_PIF = _fields("""
    uuid RO uuid
    device RO device
    MAC RO MAC
    currently-attached RO currently_attached
    MTU RO MTU
    VLAN RO VLAN
    management RO management
    network-uuid RO network.uuid
    network-name-label RO network.name
    host-uuid RO host.uuid
    host-name-label RO host.name
    IP-configuration-mode RO ip_configuration_mode
    IP RO IP
    netmask RO netmask
    gateway RO gateway
    other-config MRW other_config
""")
_TASK = _fields("""
    uuid RO uuid
    name-label RO name_label
    name-description RO name_description
    resident-on RO resident_on.uuid
    status RO status
    progress RO progress
    type RO type
    result RO result
    created RO created
    finished RO finished
    error_info RO error_info
    other-config MRW other_config
""")
_POOL = _fields("""
    uuid RO uuid
    name-label RW name_label
    name-description RW name_description
    master RO master.uuid
    default-SR RW default_SR.uuid
    other-config MRW other_config
    tags SRW tags
""")
_HOST = _fields("""
    uuid RO uuid
    name-label RW name_label
    name-description RW name_description
    enabled RO enabled
    software-version MRO software_version
    other-config MRW other_config
    hostname RO hostname
    address RO address
    resident-vms SRO resident_VMs.uuid
    tags SRW tags
""")
_SR = _fields("""
    uuid RO uuid
    name-label RW name_label
    name-description RW name_description
    host RO PBDs.host
    allowed-operations SRO allowed_operations
    current-operations SRO current_operations
    VDIs SRO VDIs.uuid
    PBDs SRO PBDs.uuid
    virtual-allocation RO virtual_allocation
    physical-utilisation RO physical_utilisation
    physical-size RO physical_size
    type RO type
    content-type RO content_type
    shared RW shared
    other-config MRW other_config
    sm-config MRO sm_config
    tags SRW tags
""")
_PBD = _fields("""
    uuid RO uuid
    host-uuid RO host.uuid
    sr-uuid RO SR.uuid
    device-config MRO device_config
    currently-attached RO currently_attached
    other-config MRW other_config
""")

RECORDS = {
    "vm": Record("VM", _VM, "name-label uuid power-state".split(), {"is-a-template": "false"}),
    "snapshot": Record(
        "VM", _VM, "name-label name-description uuid snapshot-of".split(), {"is-a-snapshot": "true"}
    ),
    "vdi": Record(
        "VDI",
        _VDI,
        "uuid name-label name-description virtual-size read-only sharable sr-uuid".split(),
        {},
    ),
    "vbd": Record("VBD", _VBD, "uuid vm-uuid vm-name-label vdi-uuid device empty".split(), {}),
    "vif": Record("VIF", _VIF, "uuid device vm-uuid network-uuid".split(), {}),
    "network": Record("network", _NETWORK, "uuid name-label name-description bridge".split(), {}),
    "pif": Record(
        "PIF", _PIF, "uuid device VLAN MAC network-uuid currently-attached host-uuid".split(), {}
    ),
    "task": Record("task", _TASK, "uuid name-label name-description status progress".split(), {}),
    "pool": Record("pool", _POOL, "uuid name-label name-description master default-SR".split(), {}),
    "host": Record("host", _HOST, "uuid name-label name-description".split(), {}),
    "sr": Record("SR", _SR, "uuid name-label name-description host type content-type".split(), {}),
    "pbd": Record(
        "PBD", _PBD, "uuid host-uuid sr-uuid device-config currently-attached".split(), {}
    ),
}
