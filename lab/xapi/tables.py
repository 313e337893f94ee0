"""The classes and fields of XenAPI that the lab keeps, as data: names, types and writability as in XenAPI's data model.

One line per field: `name  type  access  [default]`. Access: RW (may be set by a client), ST (given when the object is
made, fixed afterwards), DY (set by xapi alone). A `!` after it: a constructor must be given this field. A default is a
JSON value; without one it is the type's empty value.
"""

# Names for types that are long.
TYPES = {
    "vm_operation": "enum(snapshot|clone|copy|create_template|revert|checkpoint|snapshot_with_quiesce|provision|start|start_on|"
                    "pause|unpause|clean_shutdown|clean_reboot|hard_shutdown|power_state_reset|hard_reboot|suspend|csvm|resume|"
                    "resume_on|pool_migrate|migrate_send|get_boot_record|send_sysrq|send_trigger|query_services|shutdown|"
                    "call_plugin|changing_memory_live|awaiting_memory_live|changing_dynamic_range|changing_static_range|"
                    "changing_memory_limits|changing_shadow_memory|changing_shadow_memory_live|changing_VCPUs|"
                    "changing_VCPUs_live|changing_NVRAM|assert_operation_valid|data_source_op|update_allowed_operations|"
                    "make_into_template|import|export|metadata_export|reverting|destroy|create_vtpm|sysprep)",
}

CLASSES = {
    "session": """
        uuid string DY
        this_host ref(host) DY
        this_user ref(user) DY
        last_active datetime DY
        pool bool DY
        other_config map(string,string) RW
        is_local_superuser bool DY
        subject ref(subject) DY
        validation_time datetime DY
        auth_user_sid string DY
        auth_user_name string DY
        rbac_permissions set(string) DY
        tasks set(ref(task)) DY
        parent ref(session) DY
        originator string DY
        client_certificate bool DY
    """,
    "task": """
        uuid string DY
        name_label string DY
        name_description string DY
        allowed_operations set(string) DY
        current_operations map(string,string) DY
        created datetime DY
        finished datetime DY
        status enum(pending|success|failure|cancelling|cancelled) DY "pending"
        resident_on ref(host) DY
        progress float DY
        type string DY "<none/>"
        result string DY
        error_info set(string) DY
        other_config map(string,string) RW
        subtask_of ref(task) DY
        subtasks set(ref(task)) DY
        backtrace string DY "()"
    """,
    "pool": """
        uuid string DY
        name_label string RW
        name_description string RW
        master ref(host) DY
        default_SR ref(SR) RW
        suspend_image_SR ref(SR) RW
        crash_dump_SR ref(SR) RW
        other_config map(string,string) RW
        ha_enabled bool DY
        ha_configuration map(string,string) DY
        ha_statefiles set(string) DY
        ha_host_failures_to_tolerate int DY
        ha_plan_exists_for int DY
        ha_allow_overcommit bool RW
        ha_overcommitted bool DY
        blobs map(string,string) DY
        tags set(string) RW
        gui_config map(string,string) RW
        health_check_config map(string,string) RW
        wlb_url string DY
        wlb_username string DY
        wlb_enabled bool RW
        wlb_verify_cert bool RW
        redo_log_enabled bool DY
        redo_log_vdi ref(VDI) DY
        vswitch_controller string DY
        restrictions map(string,string) DY
        metadata_VDIs set(ref(VDI)) DY
        ha_cluster_stack string DY "xhad"
        allowed_operations set(string) DY
        current_operations map(string,string) DY
        guest_agent_config map(string,string) DY
        cpu_info map(string,string) DY
        policy_no_vendor_device bool RW
        live_patching_disabled bool RW
        igmp_snooping_enabled bool DY
        migration_compression bool RW
        tls_verification_enabled bool DY
        is_psr_pending bool RW
    """,
    "host": """
        uuid string DY
        name_label string RW
        name_description string RW
        memory_overhead int DY
        allowed_operations set(string) DY
        current_operations map(string,string) DY
        API_version_major int DY
        API_version_minor int DY
        API_version_vendor string DY
        API_version_vendor_implementation map(string,string) DY
        enabled bool DY
        software_version map(string,string) DY
        other_config map(string,string) RW
        capabilities set(string) DY
        cpu_configuration map(string,string) DY
        sched_policy string DY
        supported_bootloaders set(string) DY
        resident_VMs set(ref(VM)) DY
        logging map(string,string) RW
        PIFs set(ref(PIF)) DY
        suspend_image_sr ref(SR) RW
        crash_dump_sr ref(SR) RW
        crashdumps set(ref(host_crashdump)) DY
        patches set(ref(host_patch)) DY
        updates set(ref(pool_update)) DY
        PBDs set(ref(PBD)) DY
        host_CPUs set(ref(host_cpu)) DY
        cpu_info map(string,string) DY
        hostname string RW
        address string RW
        metrics ref(host_metrics) DY
        license_params map(string,string) DY
        ha_statefiles set(string) DY
        ha_network_peers set(string) DY
        blobs map(string,string) DY
        tags set(string) RW
        external_auth_type string DY
        external_auth_service_name string DY
        external_auth_configuration map(string,string) DY
        edition string DY
        license_server map(string,string) RW
        bios_strings map(string,string) DY
        power_on_mode string DY
        power_on_config map(string,string) DY
        local_cache_sr ref(SR) DY
        chipset_info map(string,string) DY
        PCIs set(ref(PCI)) DY
        PGPUs set(ref(PGPU)) DY
        PUSBs set(ref(PUSB)) DY
        ssl_legacy bool DY
        guest_VCPUs_params map(string,string) RW
        display enum(enabled|disable_on_reboot|disabled|enable_on_reboot) DY "enabled"
        virtual_hardware_platform_versions set(int) DY
        control_domain ref(VM) DY
        updates_requiring_reboot set(ref(pool_update)) DY
        features set(ref(Feature)) DY
        iscsi_iqn string DY
        multipathing bool DY
        uefi_certificates string DY
        certificates set(ref(Certificate)) DY
        editions set(string) DY
        tls_verification_enabled bool DY
        https_only bool DY
    """,
    "SR": """
        uuid string DY
        name_label string DY
        name_description string DY
        allowed_operations set(string) DY
        current_operations map(string,string) DY
        VDIs set(ref(VDI)) DY
        PBDs set(ref(PBD)) DY
        virtual_allocation int DY
        physical_utilisation int DY
        physical_size int DY
        type string DY
        content_type string DY
        shared bool DY
        other_config map(string,string) RW
        tags set(string) RW
        sm_config map(string,string) RW
        blobs map(string,string) DY
        local_cache_enabled bool DY
        introduced_by ref(DR_task) DY
        clustered bool DY
        is_tools_sr bool DY
    """,
    "PBD": """
        uuid string DY
        host ref(host) ST!
        SR ref(SR) ST!
        device_config map(string,string) ST!
        currently_attached bool DY
        other_config map(string,string) RW
    """,
    "SM": """
        uuid string DY
        name_label string DY
        name_description string DY
        type string DY
        vendor string DY
        copyright string DY
        version string DY
        required_api_version string DY
        configuration map(string,string) DY
        capabilities set(string) DY
        features map(string,int) DY
        other_config map(string,string) RW
        driver_filename string DY
        required_cluster_stack set(string) DY
        supported_image_formats set(string) DY
    """,
    "VDI": """
        uuid string DY
        name_label string ST!
        name_description string ST!
        allowed_operations set(string) DY
        current_operations map(string,string) DY
        SR ref(SR) ST!
        VBDs set(ref(VBD)) DY
        crash_dumps set(ref(crashdump)) DY
        virtual_size int ST!
        physical_utilisation int DY
        type enum(system|user|ephemeral|suspend|crashdump|ha_statefile|metadata|redo_log|rrd|pvs_cache|cbt_metadata) ST!
        sharable bool ST!
        read_only bool ST!
        other_config map(string,string) RW!
        storage_lock bool DY
        location string DY
        managed bool DY
        missing bool DY
        parent ref(VDI) DY
        xenstore_data map(string,string) RW
        sm_config map(string,string) RW
        is_a_snapshot bool DY
        snapshot_of ref(VDI) DY
        snapshots set(ref(VDI)) DY
        snapshot_time datetime DY
        tags set(string) RW
        allow_caching bool DY
        on_boot enum(reset|persist) DY "persist"
        metadata_of_pool ref(pool) DY
        metadata_latest bool DY
        is_tools_iso bool DY
        cbt_enabled bool DY
    """,
    "VBD": """
        uuid string DY
        allowed_operations set(string) DY
        current_operations map(string,string) DY
        VM ref(VM) ST!
        VDI ref(VDI) ST!
        device string ST
        userdevice string RW!
        bootable bool RW!
        mode enum(RO|RW) ST!
        type enum(CD|Disk|Floppy) RW!
        unpluggable bool RW true
        storage_lock bool DY
        empty bool ST!
        other_config map(string,string) RW!
        currently_attached bool ST
        status_code int DY
        status_detail string DY
        runtime_properties map(string,string) DY
        qos_algorithm_type string RW!
        qos_algorithm_params map(string,string) RW!
        qos_supported_algorithms set(string) DY
        metrics ref(VBD_metrics) DY
    """,
    "VM": """
        uuid string DY
        name_label string RW!
        name_description string RW!
        allowed_operations set(string) DY
        current_operations map(string,string) DY
        power_state enum(Halted|Paused|Running|Suspended) ST "Halted"
        user_version int RW!
        is_a_template bool RW!
        is_default_template bool DY
        suspend_VDI ref(VDI) ST
        resident_on ref(host) DY
        scheduled_to_be_resident_on ref(host) DY
        affinity ref(host) RW!
        memory_overhead int DY
        memory_target int ST
        memory_static_max int ST!
        memory_dynamic_max int ST!
        memory_dynamic_min int ST!
        memory_static_min int ST!
        VCPUs_params map(string,string) RW!
        VCPUs_max int ST!
        VCPUs_at_startup int ST!
        actions_after_softreboot enum(destroy|restart|preserve|soft_reboot) RW "soft_reboot"
        actions_after_shutdown enum(destroy|restart) RW!
        actions_after_reboot enum(destroy|restart) RW!
        actions_after_crash enum(destroy|coredump_and_destroy|restart|coredump_and_restart|preserve|rename_restart) ST!
        consoles set(ref(console)) DY
        VIFs set(ref(VIF)) DY
        VBDs set(ref(VBD)) DY
        VUSBs set(ref(VUSB)) DY
        crash_dumps set(ref(crashdump)) DY
        VTPMs set(ref(VTPM)) DY
        PV_bootloader string RW!
        PV_kernel string RW!
        PV_ramdisk string RW!
        PV_args string RW!
        PV_bootloader_args string RW!
        PV_legacy_args string RW!
        HVM_boot_policy string ST!
        HVM_boot_params map(string,string) RW!
        HVM_shadow_multiplier float ST 1.0
        platform map(string,string) RW!
        PCI_bus string RW!
        other_config map(string,string) RW!
        domid int DY -1
        domarch string DY
        last_boot_CPU_flags map(string,string) ST
        is_control_domain bool DY
        metrics ref(VM_metrics) DY
        guest_metrics ref(VM_guest_metrics) DY
        last_booted_record string ST
        recommendations string RW!
        xenstore_data map(string,string) RW
        ha_always_run bool ST
        ha_restart_priority string ST
        is_a_snapshot bool DY
        snapshot_of ref(VM) DY
        snapshots set(ref(VM)) DY
        snapshot_time datetime DY
        transportable_snapshot_id string DY
        blobs map(string,string) DY
        tags set(string) RW
        blocked_operations map(vm_operation,string) RW
        snapshot_info map(string,string) DY
        snapshot_metadata string DY
        parent ref(VM) DY
        children set(ref(VM)) DY
        bios_strings map(string,string) DY
        protection_policy ref(VMPP) ST
        is_snapshot_from_vmpp bool ST
        snapshot_schedule ref(VMSS) ST
        is_vmss_snapshot bool ST
        appliance ref(VM_appliance) ST
        start_delay int ST
        shutdown_delay int ST
        order int ST
        VGPUs set(ref(VGPU)) DY
        attached_PCIs set(ref(PCI)) DY
        suspend_SR ref(SR) RW
        version int ST
        generation_id string ST "0:0"
        hardware_platform_version int RW
        has_vendor_device bool ST true
        requires_reboot bool DY
        reference_label string ST
        domain_type enum(hvm|pv|pv_in_pvh|pvh|unspecified) ST "unspecified"
        NVRAM map(string,string) ST
        pending_guidances set(string) DY
    """,
    "VM_metrics": """
        uuid string DY
        memory_actual int DY
        VCPUs_number int DY
        VCPUs_utilisation map(int,float) DY
        VCPUs_CPU map(int,int) DY
        VCPUs_params map(string,string) DY
        VCPUs_flags map(int,set(string)) DY
        state set(string) DY
        start_time datetime DY
        install_time datetime DY
        last_updated datetime DY
        other_config map(string,string) RW
        hvm bool DY
        nested_virt bool DY
        nomigrate bool DY
        current_domain_type enum(hvm|pv|pv_in_pvh|pvh|unspecified) DY "unspecified"
    """,
    "VM_guest_metrics": """
        uuid string DY
        os_version map(string,string) DY
        PV_drivers_version map(string,string) DY
        PV_drivers_up_to_date bool DY
        memory map(string,string) DY
        disks map(string,string) DY
        networks map(string,string) DY
        other map(string,string) DY
        last_updated datetime DY
        other_config map(string,string) RW
        live bool DY
        can_use_hotplug_vbd enum(yes|no|unspecified) DY "unspecified"
        can_use_hotplug_vif enum(yes|no|unspecified) DY "unspecified"
        PV_drivers_detected bool DY
    """,
    "VIF": """
        uuid string DY
        allowed_operations set(string) DY
        current_operations map(string,string) DY
        device string ST!
        network ref(network) ST!
        VM ref(VM) ST!
        MAC string ST!
        MTU int ST!
        other_config map(string,string) RW!
        currently_attached bool ST
        status_code int DY
        status_detail string DY
        runtime_properties map(string,string) DY
        qos_algorithm_type string RW!
        qos_algorithm_params map(string,string) RW!
        qos_supported_algorithms set(string) DY
        metrics ref(VIF_metrics) DY
        MAC_autogenerated bool DY
        locking_mode enum(network_default|locked|unlocked|disabled) ST "network_default"
        ipv4_allowed set(string) ST
        ipv6_allowed set(string) ST
        ipv4_configuration_mode enum(None|Static) DY "None"
        ipv4_addresses set(string) DY
        ipv4_gateway string DY
        ipv6_configuration_mode enum(None|Static) DY "None"
        ipv6_addresses set(string) DY
        ipv6_gateway string DY
    """,
    "network": """
        uuid string DY
        name_label string RW!
        name_description string RW
        allowed_operations set(string) DY
        current_operations map(string,string) DY
        VIFs set(ref(VIF)) DY
        PIFs set(ref(PIF)) DY
        MTU int RW 1500
        other_config map(string,string) RW!
        bridge string ST
        managed bool ST true
        blobs map(string,string) DY
        tags set(string) RW
        default_locking_mode enum(unlocked|disabled) DY "unlocked"
        assigned_ips map(ref(VIF),string) DY
        purpose set(string) DY
    """,
    "PIF": """
        uuid string DY
        device string DY
        network ref(network) DY
        host ref(host) DY
        MAC string DY
        MTU int DY 1500
        VLAN int DY -1
        metrics ref(PIF_metrics) DY
        physical bool DY
        currently_attached bool DY
        ip_configuration_mode enum(None|DHCP|Static) DY "None"
        IP string DY
        netmask string DY
        gateway string DY
        DNS string DY
        bond_slave_of ref(Bond) DY
        bond_master_of set(ref(Bond)) DY
        VLAN_master_of ref(VLAN) DY
        VLAN_slave_of set(ref(VLAN)) DY
        management bool DY
        other_config map(string,string) RW
        disallow_unplug bool DY
        tunnel_access_PIF_of set(ref(tunnel)) DY
        tunnel_transport_PIF_of set(ref(tunnel)) DY
        ipv6_configuration_mode enum(None|DHCP|Static|Autoconf) DY "None"
        IPv6 set(string) DY
        ipv6_gateway string DY
        primary_address_type enum(IPv4|IPv6) DY "IPv4"
        managed bool DY true
        properties map(string,string) DY
        capabilities set(string) DY
        igmp_snooping_status enum(enabled|disabled|unknown) DY "unknown"
        sriov_physical_PIF_of set(ref(network_sriov)) DY
        sriov_logical_PIF_of set(ref(network_sriov)) DY
        PCI ref(PCI) DY
    """,
    "message": """
        uuid string DY
        name string DY
        priority int DY
        cls string DY
        obj_uuid string DY
        timestamp datetime DY
        body string DY
    """,
    "console": """
        uuid string DY
        protocol enum(vt100|rfb|rdp) DY "rfb"
        location string DY
        VM ref(VM) DY
        other_config map(string,string) RW
    """,
}

# Fields that the database keeps itself: (class, field of the one) -> (class, set of the other side).
BACK_REFERENCES = {
    ("VBD", "VM"): ("VM", "VBDs"), ("VBD", "VDI"): ("VDI", "VBDs"), ("VIF", "VM"): ("VM", "VIFs"),
    ("VIF", "network"): ("network", "VIFs"), ("PIF", "network"): ("network", "PIFs"), ("PIF", "host"): ("host", "PIFs"),
    ("VDI", "SR"): ("SR", "VDIs"), ("PBD", "SR"): ("SR", "PBDs"), ("PBD", "host"): ("host", "PBDs"),
    ("VM", "resident_on"): ("host", "resident_VMs"), ("VDI", "snapshot_of"): ("VDI", "snapshots"),
    ("VM", "snapshot_of"): ("VM", "snapshots"), ("VM", "parent"): ("VM", "children"),
    ("console", "VM"): ("VM", "consoles"), ("task", "subtask_of"): ("task", "subtasks"),
}

# Setters that are calls of their own in XenAPI (many hidden, used by SM over the local socket) for fields that are not RW.
SETTERS = {
    "VDI": ("name_label", "name_description", "managed", "sharable", "read_only", "missing", "virtual_size",
            "physical_utilisation", "is_a_snapshot", "snapshot_of", "snapshot_time", "metadata_of_pool", "on_boot",
            "allow_caching", "cbt_enabled"),
    "SR": ("name_label", "name_description", "shared", "virtual_allocation", "physical_size", "physical_utilisation"),
    "PBD": ("device_config",),
    "VM": ("actions_after_crash", "HVM_boot_policy", "ha_always_run", "ha_restart_priority", "order", "start_delay",
           "shutdown_delay", "bios_strings", "domain_type", "suspend_VDI"),
    "VBD": ("mode",),
    "task": ("status", "progress", "result", "error_info", "resident_on"),
}

# Classes of which nothing is in the database on disk ("persisted": "no" in docs of the data model). Messages are files of their own.
TRANSIENT = ("session", "task", "message")

# Fields that are empty again after a restart of xapi (datamodel.ml, field_persist:false).
NOT_ON_DISK = {
    "*": {"allowed_operations", "current_operations"},
    "VM_metrics": {"VCPUs_CPU", "VCPUs_flags", "VCPUs_params", "VCPUs_utilisation", "hvm", "last_updated", "memory_actual", "nested_virt",
                   "nomigrate", "other_config", "state"},
}

# No event tells of these.
WITHOUT_EVENTS = ("session",)

# Where the database is written at each call: not before the call is answered, but within a second. Counters, which the next scan or
# guest report renews.
LAZY = {
    "SR": {"virtual_allocation", "physical_size", "physical_utilisation"},
    "VDI": {"physical_utilisation"},
    "VM_guest_metrics": {"*"},
    "VM_metrics": {"*"},
}
