# SPDX-License-Identifier: LGPL-2.1-only
"""What is asked for: the VMs and their disks of an SR, a host, a pool, with a tag, or by name; and
what of it is not to be moved, with the reason and what to do about it."""

from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from storage_motion.cli.evacuation.parts import DISK, VM, Disk, Left
from storage_motion.plan import chains
from storage_motion.plan.inquiry import MEMORY
from storage_motion.xapi.records import SUSPENDED, Records

ISO = "iso"
# Types of VDI that are no disk of a VM (xapi's datamodel, vdi_type): what each is, what to do.
OTHER_TYPES = {
    "suspend": (
        "holds the memory of a checkpoint of which no disk is to move, or of nobody",
        "delete the checkpoint, or move its VM's disks, too; if it is nobody's, xe vdi-destroy",
    ),
    "crashdump": ("is a crash dump", "delete it (xe crashdump-destroy), if nobody needs it"),
    "ha_statefile": ("is the statefile of HA", "disable HA, and enable it with another SR"),
    "redo_log": ("is the redo log of xapi", "disable the pool's redo log, or HA"),
    "metadata": ("holds a copy of a pool's database", "make it anew on another SR"),
    "rrd": ("holds statistics of an SR", "nothing: SM makes it anew"),
    "pvs_cache": ("is a cache of PVS", "name another SR for the PVS cache"),
    "cbt_metadata": (
        "holds what had changed between two backups",
        "delete it (xe vdi-destroy): the next backup is a full one",
    ),
}


class What(NamedTuple):
    """What is asked for. `kind`: one of KINDS; `refs`: of the SR, the host or the VMs; `tag`: for
    TAG."""

    kind: str
    refs: Tuple[str, ...] = ()
    tag: str = ""


SR, HOST, POOL, TAG, VMS = "SR", "host", "pool", "tag", "VMs"
KINDS = (SR, HOST, POOL, TAG, VMS)


class Wanted(NamedTuple):
    """A VM that is to move: its ref and its record, and those of its disks that are asked for."""

    ref: str
    record: Dict[str, Any]
    disks: Tuple[Disk, ...]


class Selection(NamedTuple):
    """All that was asked for."""

    wanted: List[Wanted]
    left: List[Left]


def select(records: Records, what: What, all_disks: bool = False) -> Selection:
    """Look all of it up in the pool of `records`. `all_disks`: a VM moves with all its disks,
    wherever they are, as to another pool. Names nothing that is wrong with a VM: the plugin's dry
    run does."""
    for name in ("VM", "VBD", "VDI"):
        records.all(name)  # in one call each, and not one by one
    if what.kind == SR:
        return _of_sr(records, what.refs[0], all_disks)
    chosen = {
        HOST: lambda ref, vm: _belongs_to(records, ref, vm, what.refs[0]),
        POOL: lambda ref, vm: True,
        TAG: lambda ref, vm: what.tag in vm["tags"],
        VMS: lambda ref, vm: ref in what.refs,
    }[what.kind]
    wanted, left = [], []
    for ref, vm in sorted(records.all("VM").items(), key=lambda one: one[1]["name_label"]):
        if vm["is_a_snapshot"] or vm["is_control_domain"] or not chosen(ref, vm):
            continue
        disks = disks_of(records, vm)
        if vm["is_a_template"]:
            # a pool has dozens without a disk, which are no more than settings
            left += [_template(vm, disks)] if disks else []
        elif disks:
            wanted.append(Wanted(ref, vm, disks))
        else:
            left.append(
                Left(VM, vm["uuid"], vm["name_label"], 0, 0, "has no disk", "use xe vm-migrate")
            )
    return Selection(wanted, left)


def disks_of(records: Records, vm: Dict[str, Any]) -> Tuple[Disk, ...]:
    """The disks of a VM (its record), in the order of its devices."""
    found = []
    for ref in vm["VBDs"]:
        vbd = records.of("VBD", ref)
        vdi = records.of("VDI", vbd["VDI"]) if vbd and not vbd["empty"] else None
        if vdi and vbd["type"] != "CD":
            found.append((vbd["userdevice"], _disk(records, vbd, vdi)))
    return tuple(disk for _, disk in sorted(found, key=lambda one: (len(one[0]), one[0])))


def memory_of(records: Records, vm: str) -> Tuple[Disk, ...]:
    """The image of the memory of a suspended VM (a ref), as a disk; of any other none."""
    image = _image(records, records.of("VM", vm))
    return (_disk(records, MEMORY, image),) if image else ()


def images_of(records: Records, vm: str) -> List[Dict[str, Any]]:
    """The images of memory (VDIs) that come along with a disk of a VM (a ref), and count as no
    disks then: its own while it is suspended, and those of its checkpoints."""
    ones = [records.of("VM", ref) for ref in [vm] + records.of("VM", vm)["snapshots"]]
    images = [_image(records, one) for one in ones if one]
    return [image for image in images if image]


def _image(records: Records, vm: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    suspended = vm["power_state"] == SUSPENDED
    image: Optional[Dict[str, Any]] = records.of("VDI", vm["suspend_VDI"]) if suspended else None
    return image


def _disk(records: Records, vbd: Dict[str, Any], vdi: Dict[str, Any]) -> Disk:
    size = int(vdi["virtual_size"])
    images = chains.of(records, vdi)  # a guess, until the dry run tells
    data = sum(max(0, int(image["physical_utilisation"])) for image in images)
    return Disk(
        vdi=vdi["uuid"],
        name=vdi["name_label"],
        device=vbd["device"] or vbd["userdevice"],
        size=size,
        data=min(size, data),
        source_sr=records.of("SR", vdi["SR"])["uuid"],
    )


def _belongs_to(records: Records, ref: str, vm: Dict[str, Any], host: str) -> bool:
    """Whether a VM (its ref and record) is one of the host's (a ref): it runs there; or it does not
    run, and one of its disks, or the image of its memory, is in an SR that no other host sees."""
    if vm["power_state"] in ("Running", "Paused"):
        return vm["resident_on"] == host
    srs = {disk.source_sr for disk in disks_of(records, vm) + memory_of(records, ref)}
    return any(_seers(records, sr) == {host} for sr in srs)


def _seers(records: Records, sr: str) -> Set[str]:
    """The hosts (refs) that have an SR (a UUID) plugged, or would have."""
    ref = records.ref("SR", sr)
    return {pbd["host"] for pbd in records.all("PBD").values() if pbd["SR"] == ref}


def _of_sr(records: Records, sr: str, all_disks: bool) -> Selection:
    record = records.of("SR", sr)
    here = sorted(
        (vdi for vdi in records.all("VDI").values() if vdi["SR"] == sr and _shown(vdi)),
        key=lambda vdi: (vdi["name_label"], vdi["uuid"]),
    )
    if record["content_type"] == ISO:
        return Selection(
            [],
            [
                _left(vdi, "is an ISO", "copy the file to another ISO SR, and scan that")
                for vdi in here
            ],
        )
    asleep = {
        image.vdi: ref
        for ref, vm in records.all("VM").items()
        if not (vm["is_a_snapshot"] or vm["is_a_template"])
        for image in memory_of(records, ref)
    }
    left, refs = [], []
    for vdi in here:
        if vdi["uuid"] in asleep:  # it moves alone, if no disk of that VM does
            refs.append(asleep[vdi["uuid"]])
            continue
        owners = list(_owners(records, vdi))
        reason = _not_moved(records, vdi, [vm for _, vm in owners])
        if reason:
            left.append(_left(vdi, *reason))
        else:
            refs += [ref for ref, vm in owners if not (vm["is_a_snapshot"] or vm["is_a_template"])]
    stays = {one.uuid for one in left}
    wanted: List[Wanted] = []
    for ref in sorted(set(refs), key=lambda ref: records.of("VM", ref)["name_label"]):
        vm = records.of("VM", ref)
        disks = tuple(
            disk
            for disk in disks_of(records, vm)
            if all_disks or (disk.source_sr == record["uuid"] and disk.vdi not in stays)
        )
        wanted.append(Wanted(ref, vm, disks))
    planned = {disk.vdi for one in wanted for disk in one.disks}
    planned |= {image["uuid"] for one in wanted for image in images_of(records, one.ref)}
    return Selection(wanted, [one for one in left if one.uuid not in planned])


def _shown(vdi: Dict[str, Any]) -> bool:
    """Whether a VDI is somebody's: not an image that SM keeps below others."""
    return bool(vdi["managed"])


def _owners(records: Records, vdi: Dict[str, Any]) -> Iterable[Tuple[str, Dict[str, Any]]]:
    """(ref, record) of the VMs that have a VDI as a disk."""
    for ref in vdi["VBDs"]:
        vbd = records.of("VBD", ref)
        vm = records.of("VM", vbd["VM"]) if vbd else None
        if vm:
            yield vbd["VM"], vm


def _not_moved(
    records: Records, vdi: Dict[str, Any], owners: List[Dict[str, Any]]
) -> Optional[Tuple[str, str]]:
    """(Why a VDI is not moved, what to do); None for one that is a VM's disk, or of a snapshot
    which comes along with its VM."""
    if vdi["type"] in OTHER_TYPES:
        return OTHER_TYPES[vdi["type"]]
    if any(vm["is_control_domain"] for vm in owners):
        return "is attached to dom0", "end what uses it there, such as a backup"
    if any(not (vm["is_a_snapshot"] or vm["is_a_template"]) for vm in owners):
        return None
    templates = [vm for vm in owners if vm["is_a_template"] and not vm["is_a_snapshot"]]
    if templates:
        return _OF_TEMPLATE[0] % templates[0]["name_label"], _OF_TEMPLATE[1]
    if owners:
        return _of_snapshot(records, vdi, owners[0])
    if vdi["is_a_snapshot"]:
        return (
            "is a snapshot of a disk, and no snapshot of a VM has it",
            "delete it (xe vdi-destroy), or copy it (xe vdi-copy sr-uuid=SR)",
        )
    return "no VM has it", "delete it, or copy it: xe vdi-copy uuid=%s sr-uuid=SR" % vdi["uuid"]


_OF_TEMPLATE = ("is a disk of template %s", "copy the template: xe vm-copy sr-uuid=SR")


def _of_snapshot(
    records: Records, vdi: Dict[str, Any], snapshot: Dict[str, Any]
) -> Optional[Tuple[str, str]]:
    """Of a disk that a snapshot has: the plugin moves it with the disk that it is one of
    (storage_motion/plan/vm_snapshots.py)."""
    vm = records.of("VM", snapshot["snapshot_of"])
    disk = records.of("VDI", vdi["snapshot_of"])
    if vm and not vm["is_a_template"] and disk and disk["SR"] == vdi["SR"]:
        return None
    what = "of VM %s" % vm["name_label"] if vm else "whose VM is gone"
    return (
        "only snapshot %s (%s) has it" % (snapshot["name_label"], what),
        "delete the snapshot (xe snapshot-uninstall), or copy it out (xe snapshot-copy)",
    )


def _template(vm: Dict[str, Any], disks: Tuple[Disk, ...]) -> Left:
    size = sum(disk.size for disk in disks)
    return Left(
        VM, vm["uuid"], vm["name_label"], len(disks), size, "is a template", _OF_TEMPLATE[1]
    )


def _left(vdi: Dict[str, Any], reason: str, todo: str) -> Left:
    size = int(vdi["virtual_size"])
    return Left(DISK, vdi["uuid"], vdi["name_label"], 1, size, reason, todo)
