# SPDX-License-Identifier: LGPL-2.1-only
"""What must hold before a VM and its disks can move, as tables of conditions on the pools' records.

Sources of the refusals: docs/facts/xapi.md ("refuses on_boot=reset, CBT, encryption"), and what
this product cannot do yet.
"""

from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Optional, Tuple, Union

from storage_motion.plan import formats, volumes
from storage_motion.sm.sr_types import DRIVERS_OF_TYPES
from storage_motion.xapi.records import CLAIM as CLAIM, NULL, Records

if TYPE_CHECKING:
    from storage_motion.plan.protocols import Problems

DISK_TYPES = ("system", "user", "ephemeral")  # of a VDI
MAX_DISKS = 255  # VBDs that a VM of xapi can have
GIB = 1024.0**3
SR_TYPES = ", ".join(sorted(DRIVERS_OF_TYPES))

# (does it hold?, what is wrong, what would be right)
Condition = Tuple[Callable[..., bool], Union[str, Callable[..., str]], str]

# For the VM's record.
VM_CHECKS: Tuple[Condition, ...] = (
    (lambda vm: not vm["is_a_template"], "is a template", "a VM"),
    (lambda vm: not vm["is_a_snapshot"], "is a snapshot", "the VM itself"),
    (lambda vm: not vm["is_control_domain"], "is a control domain", "a VM"),
    (
        lambda vm: vm["power_state"] != "Paused",
        "is Paused",
        "unpause it (xe vm-unpause), or shut it down",
    ),
    (
        lambda vm: CLAIM not in vm["other_config"],
        lambda vm: "is being moved already by migration %s" % vm["other_config"][CLAIM],
        "wait for it or cancel it",
    ),
    (
        lambda vm: not {"migrate_send", "pool_migrate"} & set(vm["current_operations"].values()),
        "is being migrated already",
        "wait for that",
    ),
)

# More for one with a virtual GPU. xapi moves it as it runs, where the GPU's driver can do that, and
# what is in the GPU goes with it in the memory stream: nothing here could show that it arrives.
VGPU_CHECKS: Tuple[Condition, ...] = (
    (
        lambda vm: vm["power_state"] == "Halted",
        lambda vm: "has a virtual GPU, and is %s" % vm["power_state"],
        "shut it down (xe vm-shutdown), and move it halted",
    ),
)

# More for one that is suspended.
SUSPENDED_CHECKS: Tuple[Condition, ...] = (
    (
        lambda vm: vm["suspend_VDI"] != NULL,
        "is Suspended, and has no image of its memory",
        "shut it down (xe vm-shutdown)",
    ),
)

# More for one that is to be copied, as xapi has it (xapi_vm_migrate.ml: within a pool migrate_send'
# refuses it, and assert_can_migrate a VM that is not halted): its record, and {"cross_pool":
# whether it would leave its pool, "ha": whether HA is enabled in that}.
COPY_CHECKS: Tuple[Condition, ...] = (
    (
        lambda vm, move: move["cross_pool"],
        "is to be copied within its pool, which xapi has other commands for",
        "xe vm-copy, to another SR as well, or xe vm-clone; or give remote-...",
    ),
    (
        lambda vm, move: vm["power_state"] == "Halted",
        lambda vm, move: "is %s, and only a halted VM is copied" % vm["power_state"],
        "shut it down first (xe vm-shutdown); or leave copy out to move it",
    ),
    (
        # its start would fail in mid-copy. Where HA is off, the mark is left from when it was on.
        lambda vm, move: (
            not (move["ha"] and vm.get("ha_always_run") and vm.get("ha_restart_priority"))
        ),
        "is halted, and HA is about to start it",
        "wait for that and shut it down, or take its ha-restart-priority off",
    ),
)

# For the record of a snapshot that is to come along.
SNAPSHOT_CHECKS: Tuple[Condition, ...] = (
    (
        lambda vm: not vm["current_operations"],
        lambda vm: "is in use (%s)" % ", ".join(sorted(vm["current_operations"].values())),
        "wait for that",
    ),
)

# More for a checkpoint, which is a suspended one: {"image": whether that of its memory is there,
# "arrives": whether it comes along to another pool, "stays": the UUID of that image if the disks go
# to a host which does not see it, "host": the name of that one}.
CHECKPOINT_CHECKS: Tuple[Condition, ...] = (
    (
        lambda checkpoint: checkpoint["image"] or not checkpoint["arrives"],
        "is a checkpoint, and has no image of its memory, without which no pool takes it",
        "delete it first (xe snapshot-uninstall)",
    ),
    (
        # as of what stays of a VM; xapi itself moves it then (xapi_vm_migrate.ml, suspends_vdis)
        lambda checkpoint: not checkpoint["stays"],
        lambda checkpoint: (
            "is a checkpoint, and host %(host)s does not see the SR of the image of "
            "its memory, %(stays)s" % checkpoint
        ),
        "give that image an SR to go to, too: vdi:<image>=<SR>",
    ),
)

# The same for a disk of a snapshot: its VDI's record and its VBD's.
FROZEN_DISK_CHECKS: Tuple[Condition, ...] = (
    (lambda vdi, vbd: "key_hash" not in vdi["sm_config"], "is encrypted", "a disk that is not"),
    (lambda vdi, vbd: not vdi["missing"], "is missing", "scan its SR"),
    (
        lambda vdi, vbd: "paused" not in vdi["sm_config"],
        "is paused (sm_config), so another operation holds it",
        "wait for that",
    ),
    (
        lambda vdi, vbd: CLAIM not in vdi["other_config"],
        "belongs to another migration",
        "wait for it or cancel it",
    ),
)

# The same for a disk of the VM.
DISK_CHECKS: Tuple[Condition, ...] = FROZEN_DISK_CHECKS + (
    (lambda vdi, vbd: vdi["on_boot"] != "reset", "is reset on boot", "set on-boot=persist"),
    (
        # xapi plugs it nowhere then (xapi_vbd_helpers.ml). SM takes the mark off at the next scan
        # (VDI.py, _db_update), and so before the move: nothing is lost with it.
        lambda vdi, vbd: not vdi["read_only"] or vbd["mode"] == "RO",
        "is itself marked as read-only, and the VM has it to be written to",
        "have the VM have it read-only: VBD.set_mode, on a halted VM",
    ),
)

# More where its tracking is not to be renewed.
TRACKING_CHECKS: Tuple[Condition, ...] = (
    (
        lambda vdi, vbd: not vdi["cbt_enabled"],
        "has changed block tracking enabled",
        "say cbt=renew: it is disabled for the move and enabled again at its end, and the next "
        "backup is a full one; or disable it: xe vdi-disable-cbt",
    ),
)


def is_written(vbd: Dict[str, Any]) -> bool:
    """Whether a running VM writes to a disk, by its VBD's record."""
    return bool(vbd["mode"] == "RW" and vbd["currently_attached"])


def check(
    table: Iterable[Condition],
    problems: "Problems",
    argument: str,
    subject: str,
    *records: Dict[str, Any],
) -> None:
    """Look at `records` by a table of conditions. `subject`: how the problem begins, "VM x"."""
    for holds, wrong, right in table:
        if not holds(*records):
            problems.add(
                argument, "%s %s" % (subject, wrong(*records) if callable(wrong) else wrong), right
            )


def others_disk(
    records: Records,
    problems: "Problems",
    argument: str,
    vbd: Dict[str, Any],
    vdi: Dict[str, Any],
    others: Iterable[str],
) -> None:
    """Whether a disk is this VM's alone: `vbd` and `vdi` are its records, `others` the refs of the
    VBDs that others have of it."""
    name = "disk %s (%s)" % (vbd["userdevice"], vdi["name_label"])
    for ref in others:
        other = records.of("VBD", ref)
        vm = other and records.of("VM", other["VM"])
        if not vm:
            problems.add(argument, name + " is attached to another VM as well", "its VM alone")
        elif vm["is_control_domain"]:
            problems.add(
                argument,
                "%s is attached to the control domain %s, as backup programs do"
                % (name, vm["name_label"]),
                "wait until the backup is done; if none runs, destroy that VBD (%s)"
                % other["uuid"],
            )
        else:
            problems.add(
                argument,
                "%s is attached to VM %s (%s) as well" % (name, vm["name_label"], vm["uuid"]),
                "take it from that VM first: destroy its VBD (%s)" % other["uuid"],
            )


def blocked(problems: "Problems", argument: str, vm: Dict[str, Any]) -> None:
    """Somebody has forbidden to migrate this VM: respect that."""
    for operation in ("migrate_send", "pool_migrate"):
        if operation in vm["blocked_operations"]:
            problems.add(
                argument,
                "%s is blocked: %s" % (operation, vm["blocked_operations"][operation]),
                "unblock it first",
            )


def plugged(records: Records, sr: Dict[str, Any], host: str) -> bool:
    """Whether `host` (ref) sees the SR (its record): a PBD of it is plugged there."""
    pbds = [records.of("PBD", ref) for ref in sr["PBDs"]]
    return any(pbd and pbd["host"] == host and pbd["currently_attached"] for pbd in pbds)


def usable(records: Records, host: Dict[str, Any]) -> bool:
    """Whether a host (its record) is enabled and alive."""
    metrics = records.of("host_metrics", host.get("metrics", NULL))
    return host["enabled"] and (metrics is None or metrics.get("live", True))


def source_sr(
    problems: "Problems", argument: str, sr: Dict[str, Any], vdi: Dict[str, Any], mirrored: bool
) -> None:
    """Whether a disk (its VDI's record) in an SR (its record) can be copied, and `mirrored`, to
    another one: whether MirrorSR drives SRs of that type, and SM takes snapshots of it."""
    name = "is in SR %s (%s) of type %s" % (sr["uuid"], sr["name_label"], sr["type"])
    if sr["type"] not in DRIVERS_OF_TYPES:
        problems.add(
            argument,
            name + ", from which nothing can be mirrored",
            "a disk in an SR of type %s" % SR_TYPES,
        )
    elif mirrored and sr["type"] in volumes.TYPES and vdi["sm_config"].get("type") == formats.RAW:
        # LVHDSR.py and LVMSR.py, _snapshot: "Raw VDI, snapshot or clone not permitted"
        problems.add(
            argument,
            name + ", and raw, of which SM takes no snapshot there",
            "shut the VM down, and move it halted",
        )


def destination_sr(
    records: Records,
    problems: "Problems",
    argument: str,
    sr: Dict[str, Any],
    host_ref: Optional[str],
    host: Optional[Dict[str, Any]],
    disks: Iterable[Tuple[str, int, str]],
) -> None:
    """Whether disks can be made in an SR (its record) from `host`. `disks`: [(key, size in bytes,
    format that is asked for or "")]."""
    name = "SR %s (%s)" % (sr["uuid"], sr["name_label"])
    if sr["content_type"] == "iso" or sr["type"] in ("iso", "udev"):
        problems.add(argument, "%s is not for disks of VMs" % name, "an SR for disks")
        return
    if host_ref and host and not plugged(records, sr, host_ref):
        problems.add(
            argument,
            "%s is not seen by host %s" % (name, host["name_label"]),
            "an SR with a plugged PBD on that host, or another host",
        )
    if sr["type"] not in DRIVERS_OF_TYPES:
        problems.add(
            argument,
            "%s is of type %s, to which nothing can be mirrored" % (name, sr["type"]),
            "an SR of type %s" % SR_TYPES,
        )
        return
    for key, size, asked in disks:
        _format(records, problems, argument, sr, host_ref, key, size, asked)


def _format(
    records: Records,
    problems: "Problems",
    argument: str,
    sr: Dict[str, Any],
    host_ref: Optional[str],
    key: str,
    size: int,
    asked: str,
) -> None:
    """Whether a disk of `size` bytes can be made there, in the format that is asked for, as xapi
    looks at that (assert_vdi_format_is_supported)."""
    known = formats.supported(records, sr)
    if asked and known and asked not in known:
        problems.add(
            "image-format:" + key,
            "SR %s (%s) makes no %s" % (sr["uuid"], sr["name_label"], asked),
            "one of %s" % ", ".join(known),
        )
        return
    own = formats.will_be(records, sr, host_ref, size, "")
    if asked and own and asked != own and not formats.may_be_asked(sr["type"]):
        problems.add(
            "image-format:" + key,
            "SM makes the disks of SR %s (%s), which is on LVM, in the format that the SR prefers, "
            "%s, and in no other that it is asked for" % (sr["uuid"], sr["name_label"], own),
            "leave it out; or have the SR prefer %s (device_config:%s of its PBDs)"
            % (asked, formats.PREFERRED),
        )
        return
    kinds = (asked,) if asked else formats.made(records, sr, host_ref)
    if formats.fits(size, kinds):
        return
    right = "another SR"
    qcow2 = formats.QCOW2 in (known or formats.ASKED) and formats.fits(size, (formats.QCOW2,))
    if qcow2 and not asked:
        right = "image-format:%s=qcow2, where that host's SM has QCOW2, or another SR" % key
    most = max(formats.LARGEST[kind] for kind in kinds)
    problems.add(
        "image-format:" + key if asked else argument,
        "disk %s has %.1f GiB, and SR %s (%s) makes a disk of %s of %.1f GiB at most"
        % (key, size / GIB, sr["uuid"], sr["name_label"], " or ".join(kinds), most / GIB),
        right,
    )


def target_vdi(problems: "Problems", argument: str, vdi: Dict[str, Any], size: int) -> None:
    """Whether an existing VDI of the destination can be filled."""
    name = "VDI %s (%s)" % (vdi["uuid"], vdi["name_label"])
    if not formats.is_as_large(int(vdi["virtual_size"]), size):
        problems.add(
            argument,
            "%s has %d bytes, and the disk %d" % (name, int(vdi["virtual_size"]), size),
            "a VDI of the same size, or of as much more as SM rounds up, or an SR",
        )
    if [ref for ref in vdi["VBDs"] if ref != NULL] or any(
        key.startswith("host_") for key in vdi["sm_config"]
    ):
        problems.add(argument, "%s is in use" % name, "a VDI that no VM has")
    for wrong, text in (
        # such as an image of a VM's memory, which no VBD tells of
        (vdi["type"] not in DISK_TYPES, "is of a type that no disk of a VM has"),
        (vdi["read_only"], "is read-only"),
        (vdi["is_a_snapshot"], "is a snapshot"),
        (not vdi["managed"], "is not managed by xapi"),
        (vdi["cbt_enabled"], "has CBT enabled"),
        ("key_hash" in vdi["sm_config"], "is encrypted"),
        (
            "paused" in vdi["sm_config"] or CLAIM in vdi["other_config"],
            "is held by another operation",
        ),
    ):
        if wrong:
            problems.add(argument, "%s %s" % (name, text), "an ordinary VDI, or an SR")
