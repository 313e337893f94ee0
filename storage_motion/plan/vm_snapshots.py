# SPDX-License-Identifier: LGPL-2.1-only
"""The VM's snapshots: which come along, where their disks go, and which disk each of these is based
on.

A disk of a snapshot goes where the disk goes that it is a snapshot of. What it is based on the tree
of snapshots says (VM.parent; a revert makes a branch of it): the nearest one above it that has a
disk of the same disk. That only is where to look: how far two disks differ is read from their
images when they are copied (migration/phases/copying.py).
"""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from storage_motion.plan import checks, disk_goals, vifs
from storage_motion.plan.disk_goals import SR_ARGUMENT
from storage_motion.plan.inquiry import Inquiry, disks_of
from storage_motion.plan.plan import Disk, Snapshot, Vif
from storage_motion.xapi.records import NULL

ARGUMENT = "snapshots"
DELETED = (
    "snapshot %s (%s) does not come along, and is deleted with its disks when the VM has moved"
)
STAYS = "snapshot %s (%s) stays with the VM: the copy has none"
# What a clone has of the disk that it is one of, and cannot be given.
INHERITED = ("virtual_size", "type", "sharable", "SR")


class Found(NamedTuple):
    """What the plan says of the snapshots; `disks`: those of the VM, with what they are based
    on."""

    disks: List[Disk]
    history: List[Disk]
    snapshots: List[Snapshot]
    interfaces: List[Vif]
    dropped: List[str]


def find(inquiry: Inquiry, moving: List[Disk], interfaces: List[Vif]) -> Found:
    """Look at all snapshots; what is wrong goes to the problems. `moving`, `interfaces`: the VM's
    own, as they are planned."""
    found = _Snapshots(inquiry)
    if inquiry.request.copy:
        stay = [Snapshot(vm["uuid"], vm["name_label"], False) for vm in found.records.values()]
        return Found(moving, [], stay, _interfaces(inquiry, found, interfaces), [])
    for vm in found.records.values():
        subject = "snapshot %s (%s)" % (vm["uuid"], vm["name_label"])
        checks.check(checks.SNAPSHOT_CHECKS, inquiry.problems, ARGUMENT, subject, vm)
    snapshots = [
        Snapshot(vm["uuid"], vm["name_label"], not inquiry.request.drop_snapshots)
        for vm in found.records.values()
    ]
    if inquiry.request.drop_snapshots:
        if snapshots and not inquiry.cross_pool:
            inquiry.problems.add(
                ARGUMENT,
                "is drop, and within the pool the VM keeps its snapshots",
                "leave it out; or delete them first (xe snapshot-uninstall)",
            )
        for vm in found.records.values():
            for _, vbd, vdi in disks_of(inquiry.source, vm):
                _require_own(inquiry, vm, vbd, vdi)
        return Found(moving, [], snapshots, [], found.all_vdis())
    if inquiry.cross_pool:
        _require_new(inquiry, snapshots)
    history = _History(inquiry, found, moving)
    return Found(
        [history.based(disk) for disk in moving],
        history.disks,
        snapshots,
        _interfaces(inquiry, found, interfaces) if inquiry.cross_pool else [],
        [],
    )


def cautions(inquiry: Inquiry, found: Found) -> List[str]:
    """What becomes of the snapshots, for whoever asked: a list of sentences."""
    dropped = [
        (STAYS if inquiry.request.copy else DELETED) % (snapshot.vm, snapshot.name)
        for snapshot in found.snapshots
        if not snapshot.kept
    ]
    tracked = [
        "the disk %s of snapshot %s has changed block tracking, of which nothing comes along: the "
        "next backup is a full one" % (disk.key, disk.snapshot)
        for disk in found.history
        if disk.tracked
    ]
    return dropped + tracked


class _Snapshots:
    """The snapshots of the VM in the order of their tree, {ref: record}; those of one generation
    as they were taken."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry
        known = {ref: inquiry.source.of("VM", ref) for ref in inquiry.vm.get("snapshots", [])}
        self.records = {ref: vm for ref, vm in known.items() if vm}
        order = sorted(
            self.records.items(),
            key=lambda pair: (
                len(list(self.above(pair[1]))),
                str(pair[1]["snapshot_time"]),
                pair[1]["uuid"],
            ),
        )
        self.records = dict(order)

    def above(self, vm: Dict[str, Any]) -> Iterator[str]:
        """The refs of the snapshots that a VM, or a snapshot (its record), has behind it, the
        latest first."""
        seen: List[str] = []
        ref = vm.get("parent", NULL)
        while ref in self.records and ref not in seen:
            seen.append(ref)
            yield ref
            ref = self.records[ref]["parent"]

    def all_vdis(self) -> List[str]:
        """The UUIDs of all their disks and memory images."""
        found = []
        for vm in self.records.values():
            found += [vdi["uuid"] for _, _, vdi in disks_of(self._inquiry.source, vm)]
            image = self._inquiry.source.of("VDI", vm.get("suspend_VDI", NULL))
            found += [image["uuid"]] if image else []
        return sorted(set(found))


class _History:
    """The disks of snapshots that move: `disks`, each behind the one that it is based on."""

    def __init__(self, inquiry: Inquiry, snapshots: _Snapshots, moving: List[Disk]) -> None:
        self._inquiry = inquiry
        self._snapshots = snapshots
        self._moving = {disk.key: disk for disk in moving}
        self.disks: List[Disk] = []
        # (snapshot, the disk that it is of; refs) -> (the planned disk, the record of its VDI)
        self._found: Dict[Tuple[str, str], Tuple[Disk, Dict[str, Any]]] = {}
        for ref, vm in snapshots.records.items():
            for _, vbd, vdi in disks_of(inquiry.source, vm):
                self._add(ref, vm, vbd, vdi)

    def based(self, disk: Disk) -> Disk:
        """A disk of the VM, with what it is based on."""
        ref, vdi = self._inquiry.source.by_uuid("VDI", disk.key)
        assert ref is not None
        base = None if disk.target else self._base(self._inquiry.vm, ref, vdi, disk)
        return disk._replace(base=base or "")

    def _add(self, ref: str, vm: Dict[str, Any], vbd: Dict[str, Any], vdi: Dict[str, Any]) -> None:
        inquiry, problems = self._inquiry, self._inquiry.problems
        of = inquiry.source.of("VDI", vdi["snapshot_of"])
        owner = self._moving.get(of["uuid"]) if of else None
        goal = self._goal(vdi, owner, of is not None)
        subject = "disk %s (%s) of snapshot %s" % (vbd["userdevice"], vdi["uuid"], vm["name_label"])
        if goal is None:
            if inquiry.cross_pool and not problems:
                problems.add(
                    SR_ARGUMENT,
                    "%s is a snapshot of no disk of the VM, and has no SR to go to" % subject,
                    "the UUID of an SR",
                )
            return  # else it stays where it is
        sr = inquiry.source.of("SR", vdi["SR"])
        argument = ("vdi:" + owner.key) if owner else SR_ARGUMENT
        checks.check(checks.FROZEN_DISK_CHECKS, problems, ARGUMENT, subject, vdi, vbd)
        _require_own(inquiry, vm, vbd, vdi)
        checks.source_sr(problems, ARGUMENT, sr, vdi, False)
        if not checks.plugged(inquiry.source, sr, inquiry.here):
            problems.add(
                ARGUMENT,
                "%s is in SR %s (%s), which the VM's host does not see"
                % (subject, sr["uuid"], sr["name_label"]),
                "plug that SR there, or delete the snapshot",
            )
        there = inquiry.destination.of("SR", goal)
        image_format = owner.image_format if owner else ""
        size = int(vdi["virtual_size"])
        checks.destination_sr(
            inquiry.destination,
            problems,
            argument,
            there,
            None,
            None,
            [(owner.key if owner else vdi["uuid"], size, image_format)],
        )
        disk = disk_goals.as_planned(inquiry, vbd, vdi, sr, there, None)._replace(
            snapshot=vm["uuid"],
            snapshot_of=owner.key if owner else "",
            snapshot_time=str(vdi["snapshot_time"]),
            image_format=image_format,
            unplugged=False,  # which is said of what the VM could plug
        )
        base = self._base(vm, vdi["snapshot_of"], vdi, disk)
        disk = disk._replace(base=base or "")
        self.disks.append(disk)
        self._found[(ref, vdi["snapshot_of"])] = disk, vdi

    def _goal(self, vdi: Dict[str, Any], owner: Optional[Disk], has_owner: bool) -> Optional[str]:
        """The ref of the SR that a disk of a snapshot goes to; None if it has none, or stays."""
        destination = self._inquiry.destination
        if owner:
            return destination.ref("SR", owner.destination_sr)
        if has_owner and not self._inquiry.cross_pool:
            return None  # that disk stays, too
        named = self._inquiry.request.destination_sr
        sr = destination.ref("SR", named) if named else None
        return None if not self._inquiry.cross_pool and sr == vdi["SR"] else sr

    def _base(self, vm: Dict[str, Any], of: str, vdi: Dict[str, Any], disk: Disk) -> Optional[str]:
        """The key of the disk that another one (its VDI's record) is based on: of the nearest
        snapshot above a VM or a snapshot (its record). None if it cannot arrive as a clone of
        it."""
        if of == NULL:
            return None
        for ref in self._snapshots.above(vm):
            if (ref, of) in self._found:
                base, record = self._found[(ref, of)]
                alike = all(record[field] == vdi[field] for field in INHERITED)
                alike = alike and base.destination_sr == disk.destination_sr
                return base.key if alike and base.image_format == disk.image_format else None
        return None


def _require_own(
    inquiry: Inquiry, vm: Dict[str, Any], vbd: Dict[str, Any], vdi: Dict[str, Any]
) -> None:
    """The disk of a snapshot is nobody else's: it goes, at the end."""
    others = [one for one in vdi["VBDs"] if one != NULL and one not in vm["VBDs"]]
    checks.others_disk(inquiry.source, inquiry.problems, ARGUMENT, vbd, vdi, others)


def _require_new(inquiry: Inquiry, snapshots: List[Snapshot]) -> None:
    for snapshot in snapshots:
        if inquiry.destination.ref("VM", snapshot.vm):
            inquiry.problems.add(
                ARGUMENT,
                "the destination pool has a VM %s already, as snapshot %s is"
                % (snapshot.vm, snapshot.name),
                "remove that one first",
            )


def _interfaces(inquiry: Inquiry, snapshots: _Snapshots, own: List[Vif]) -> List[Vif]:
    """Each goes to the network of the VM's interface with the same MAC address, as xapi has it
    (xapi_vm_migrate.ml, infer_vif_map); one that has none, as an interface of the VM would."""
    networks = {inquiry.source.by_uuid("VIF", vif.vif)[1]["MAC"]: vif.network for vif in own}
    found = []
    for vm in snapshots.records.values():
        for ref in vm["VIFs"]:
            record = inquiry.source.of("VIF", ref)
            network = networks.get(record["MAC"])
            if network is None or record["uuid"] in inquiry.request.vifs:
                there = vifs.network_there(inquiry, record)
                network = there["uuid"] if there else network
            if network:
                found.append(Vif(vif=record["uuid"], device=record["device"], network=network))
    return found
