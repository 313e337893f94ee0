"""What must hold before a VM and its disks can move, as tables of conditions on the pools' records.

Sources of the refusals: facts/xapi.md ("refuses on_boot=reset, CBT, encryption"), and what this product cannot do yet.
"""
from storage_motion.control import formats
from storage_motion.dom0.stock_sm import DRIVERS_OF_TYPES
from storage_motion.xapi.records import NULL

MAX_DISKS = 255            # VBDs that a VM of xapi can have
GIB = 1024.0 ** 3
THICK_TYPES = ("lvm", "lvmoiscsi", "lvmohba")  # the whole size is allocated, unless sm_config says thin
SR_TYPES = ", ".join(sorted(DRIVERS_OF_TYPES))
THICK_OVERHEAD = 1.01      # metadata of a VHD in LVM: header, batmap and bitmaps, under one per cent
PARENT = "vhd-parent"      # key in a VDI's sm_config: the UUID of the VDI whose image its own is based on
CLAIM = "sxm_migration"    # key in other_config of VM, VDI and task: the id of the migration that it belongs to

# (does it hold?, what is wrong, what would be right), for the VM's record.
VM_CHECKS = (
    (lambda vm: not vm["is_a_template"], "is a template", "a VM"),
    (lambda vm: not vm["is_a_snapshot"], "is a snapshot", "the VM itself"),
    (lambda vm: not vm["is_control_domain"], "is a control domain", "a VM"),
    (lambda vm: vm["is_a_template"] or vm["is_a_snapshot"] or vm["power_state"] in ("Running", "Halted"),
     lambda vm: "is %s" % vm["power_state"], "a VM that is Running or Halted"),
    (lambda vm: not vm.get("VGPUs"), "has a virtual GPU", "a VM without"),
    (lambda vm: not vm.get("VTPMs"), "has a virtual TPM", "a VM without"),
    (lambda vm: not vm.get("snapshots"), "has snapshots, which cannot be moved yet", "delete them first"),
    (lambda vm: not vm.get("ha_always_run"), "is restarted by high availability", "take it out of HA first"),
    (lambda vm: CLAIM not in vm["other_config"],
     lambda vm: "is being moved already by migration %s" % vm["other_config"][CLAIM], "wait for it or cancel it"),
    (lambda vm: not {"migrate_send", "pool_migrate"} & set(vm["current_operations"].values()),
     "is being migrated already", "wait for that"),
)

# The same for a disk: its VDI's record and its VBD's.
DISK_CHECKS = (
    (lambda vdi, vbd: not vdi["cbt_enabled"], "has changed block tracking enabled", "disable it: VDI.disable_cbt"),
    (lambda vdi, vbd: "key_hash" not in vdi["sm_config"], "is encrypted", "a disk that is not"),
    (lambda vdi, vbd: vdi["on_boot"] != "reset", "is reset on boot", "set on-boot=persist"),
    (lambda vdi, vbd: vbd["mode"] == "RW", "is attached read-only, which cannot be moved yet", "attach it read-write"),
    (lambda vdi, vbd: not vdi["sharable"], "is shared with other VMs", "a disk of this VM alone"),
    (lambda vdi, vbd: len([ref for ref in vdi["VBDs"] if ref != NULL]) <= 1, "is attached to another VM as well",
     "a disk of this VM alone"),
    (lambda vdi, vbd: not vdi["missing"], "is missing", "scan its SR"),
    (lambda vdi, vbd: "paused" not in vdi["sm_config"], "is paused (sm_config), so another operation holds it",
     "wait for that"),
    (lambda vdi, vbd: CLAIM not in vdi["other_config"], "belongs to another migration", "wait for it or cancel it"),
)

# More for one of a running VM.
LIVE_DISK_CHECKS = (
    (lambda vdi, vbd: vbd["currently_attached"], "is not plugged, which cannot be moved with a running VM yet",
     "plug it, or take it from the VM"),
)


def check(table, problems, argument, subject, *records):
    """Look at `records` by a table of conditions. `subject`: how the problem begins, "VM x"."""
    for holds, wrong, right in table:
        if not holds(*records):
            problems.add(argument, "%s %s" % (subject, wrong(*records) if callable(wrong) else wrong), right)


def blocked(problems, argument, vm):
    """Somebody has forbidden to migrate this VM: respect that."""
    for operation in ("migrate_send", "pool_migrate"):
        if operation in vm["blocked_operations"]:
            problems.add(argument, "%s is blocked: %s" % (operation, vm["blocked_operations"][operation]),
                         "unblock it first")


def plugged(records, sr, host):
    """Whether `host` (ref) sees the SR (its record): a PBD of it is plugged there."""
    pbds = [records.of("PBD", ref) for ref in sr["PBDs"]]
    return any(pbd and pbd["host"] == host and pbd["currently_attached"] for pbd in pbds)


def source_sr(problems, argument, sr):
    """Whether a disk in an SR (its record) can be mirrored to another one: whether MirrorSR drives SRs of that type."""
    if sr["type"] not in DRIVERS_OF_TYPES:
        problems.add(argument, "is in SR %s (%s) of type %s, from which nothing can be mirrored"
                     % (sr["uuid"], sr["name_label"], sr["type"]), "a disk in an SR of type %s" % SR_TYPES)


def thick(sr):
    """Whether a new VDI takes its whole size from the SR (its record) at once."""
    return sr["type"] in THICK_TYPES and sr["sm_config"].get("allocation", "thick") != "thin"


def data_of(records, vdi):
    """Bytes that a VDI holds, by the pool's records: its image and those beneath it, at most its size."""
    size, total, seen = int(vdi["virtual_size"]), 0, set()
    while vdi and vdi["uuid"] not in seen:
        seen.add(vdi["uuid"])
        total += max(0, int(vdi["physical_utilisation"]))
        parent = vdi["sm_config"].get(PARENT)
        vdi = records.by_uuid("VDI", parent)[1] if parent else None
    return min(total, size)


def room(records, demands, problems):
    """Whether each SR has room for all that goes there.

    `demands`: {SR ref: [(argument, size, data)]} in bytes."""
    for ref, entries in sorted(demands.items()):
        sr = records.of("SR", ref)
        if thick(sr):
            needed, how = sum(size for _, size, _ in entries) * THICK_OVERHEAD, "their whole size"
        else:
            needed, how = sum(data for _, _, data in entries), "their data"
        free = int(sr["physical_size"]) - int(sr["physical_utilisation"])
        if needed > free:
            problems.add(", ".join(sorted({argument for argument, _, _ in entries})),
                         "SR %s (%s) has %.1f GiB free, and the %d disks that go there need %.1f GiB (%s)"
                         % (sr["uuid"], sr["name_label"], free / GIB, len(entries), needed / GIB, how),
                         "an SR with room")


def room_for_snapshots(disks, problems):
    """Whether each thick SR of the source can take the snapshot of its largest disk: SM gives the new leaf its whole size.

    `disks`: [(SR record, size)]."""
    largest = {}
    for sr, size in disks:
        if thick(sr):
            largest[sr["uuid"]] = (sr, max(size, largest.get(sr["uuid"], (sr, 0))[1]))
    for uuid, (sr, size) in sorted(largest.items()):
        free = int(sr["physical_size"]) - int(sr["physical_utilisation"])
        if size * THICK_OVERHEAD > free:
            problems.add("vm", "its SR %s (%s) has %.1f GiB free, and the snapshot of a disk needs %.1f GiB until it has moved"
                         % (uuid, sr["name_label"], free / GIB, size * THICK_OVERHEAD / GIB), "make room there")


def destination_sr(records, problems, argument, sr, host_ref, host, disks):
    """Whether disks can be made in an SR (its record) from `host`. `disks`: [(key, size in bytes,
    format that is asked for or "")]."""
    name = "SR %s (%s)" % (sr["uuid"], sr["name_label"])
    if sr["content_type"] == "iso" or sr["type"] in ("iso", "udev"):
        problems.add(argument, "%s is not for disks of VMs" % name, "an SR for disks")
        return
    if host_ref and not plugged(records, sr, host_ref):
        problems.add(argument, "%s is not seen by host %s" % (name, host["name_label"]),
                     "an SR with a plugged PBD on that host, or another host")
    if sr["type"] not in DRIVERS_OF_TYPES:
        problems.add(argument, "%s is of type %s, to which nothing can be mirrored" % (name, sr["type"]),
                     "an SR of type %s" % SR_TYPES)
        return
    for key, size, asked in disks:
        _format(records, problems, argument, sr, host_ref, key, size, asked)


def _format(records, problems, argument, sr, host_ref, key, size, asked):
    """Whether a disk of `size` bytes can be made there, in the format that is asked for, as xapi
    looks at that (assert_vdi_format_is_supported)."""
    known = formats.supported(records, sr)
    if asked and known and asked not in known:
        problems.add("image-format:" + key,
                     "SR %s (%s) makes no %s" % (sr["uuid"], sr["name_label"], asked),
                     "one of %s" % ", ".join(known))
        return
    kinds = (asked,) if asked else formats.made(records, sr, host_ref)
    if formats.fits(size, kinds):
        return
    right = "another SR"
    qcow2 = formats.QCOW2 in (known or formats.ASKED) and formats.fits(size, (formats.QCOW2,))
    if qcow2 and not asked:
        right = "image-format:%s=qcow2, where that host's SM has QCOW2, or another SR" % key
    most = max(formats.LARGEST[kind] for kind in kinds)
    problems.add("image-format:" + key if asked else argument,
                 "disk %s has %.1f GiB, and SR %s (%s) makes a disk of %s of %.1f GiB at most"
                 % (key, size / GIB, sr["uuid"], sr["name_label"], " or ".join(kinds), most / GIB),
                 right)


def target_vdi(problems, argument, vdi, size):
    """Whether an existing VDI of the destination can be filled."""
    name = "VDI %s (%s)" % (vdi["uuid"], vdi["name_label"])
    if not formats.is_as_large(int(vdi["virtual_size"]), size):
        problems.add(argument, "%s has %d bytes, and the disk %d" % (name, int(vdi["virtual_size"]), size),
                     "a VDI of the same size, or of as much more as SM rounds up, or an SR")
    if [ref for ref in vdi["VBDs"] if ref != NULL] or any(key.startswith("host_") for key in vdi["sm_config"]):
        problems.add(argument, "%s is in use" % name, "a VDI that no VM has")
    for wrong, text in ((vdi["read_only"], "is read-only"), (vdi["is_a_snapshot"], "is a snapshot"),
                        (not vdi["managed"], "is not managed by xapi"), (vdi["cbt_enabled"], "has CBT enabled"),
                        ("key_hash" in vdi["sm_config"], "is encrypted"),
                        ("paused" in vdi["sm_config"] or CLAIM in vdi["other_config"], "is held by another operation")):
        if wrong:
            problems.add(argument, "%s %s" % (name, text), "an ordinary VDI, or an SR")
