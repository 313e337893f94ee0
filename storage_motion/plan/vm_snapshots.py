# SPDX-License-Identifier: LGPL-2.1-only
"""The VM's snapshots: which come along, where their disks go, and which disk each of these is based
on.

A disk of a snapshot goes where the disk goes that it is a snapshot of; the image of a checkpoint's
memory where a suspended VM's would. What it is based on the tree of snapshots says (VM.parent; a
revert makes a branch of it): the nearest one above it that has a disk of the same disk. That only
is where to look: how far two disks differ is read from their images when they are copied
(migration/phases/copying.py).
"""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from storage_motion.plan import chains, checks, disk_goals, vifs
from storage_motion.plan.disk_goals import SR_ARGUMENT
from storage_motion.plan.inquiry import MEMORY, Inquiry, disks_of
from storage_motion.plan.plan import Disk, Snapshot, Vif
from storage_motion.xapi.records import NULL, SUSPENDED

ARGUMENT = "snapshots"
DELETED = (
    "snapshot %s (%s) does not come along, and is deleted with its disks when the VM has moved"
)
STAYS = "snapshot %s (%s) stays with the VM: the copy has none"
# What a clone has of the disk that it is one of, and cannot be given.
INHERITED = ("virtual_size", "type", "sharable", "SR")
# Of a disk that has no SR to go to; whether it is the image of a checkpoint's memory: what it is,
# and what would be right.
WITHOUT_SR = {
    False: ("is a snapshot of no disk of the VM", "the UUID of an SR"),
    True: ("is the image of its memory", "the UUID of an SR, for it alone by vdi:<image>=<SR>"),
}


class Found(NamedTuple):
    """What the plan says of the snapshots; `disks`: those of the VM, with what they are based
    on."""

    disks: List[Disk]
    history: List[Disk]
    snapshots: List[Snapshot]
    interfaces: List[Vif]
    dropped: List[str]


def find(
    inquiry: Inquiry,
    moving: List[Disk],
    interfaces: List[Vif],
    host_ref: Optional[str],
    host: Optional[Dict[str, Any]],
) -> Found:
    """Look at all snapshots; what is wrong goes to the problems. `moving`, `interfaces`: the VM's
    own, as they are planned; `host_ref`, `host`: where to, if that is known."""
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
    history = _History(inquiry, found, moving, host_ref, host)
    _require_possible(inquiry, found, history, host)
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

    def image(self, vm: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """The record of the image of the memory of a checkpoint (its record), if it is there."""
        return self._inquiry.source.of("VDI", vm.get("suspend_VDI", NULL))

    def all_vdis(self) -> List[str]:
        """The UUIDs of all their disks and memory images."""
        found = []
        for vm in self.records.values():
            found += [vdi["uuid"] for _, _, vdi in disks_of(self._inquiry.source, vm)]
            image = self.image(vm)
            found += [image["uuid"]] if image else []
        return sorted(set(found))


class _History:
    """The disks of snapshots that move: `disks`, each behind the one that it is based on.
    `unseen`: {the ref of a checkpoint that gets other disks within its pool: the UUID of its image,
    which stays where `host` does not see it}."""

    def __init__(
        self,
        inquiry: Inquiry,
        snapshots: _Snapshots,
        moving: List[Disk],
        host_ref: Optional[str],
        host: Optional[Dict[str, Any]],
    ) -> None:
        self._inquiry = inquiry
        self._to = host_ref, host
        self._snapshots = snapshots
        self._moving = {disk.key: disk for disk in moving}
        self.disks: List[Disk] = []
        self.unseen: Dict[str, str] = {}
        # {key: images of the chain that it is at the destination by then, at most}
        self._lengths: Dict[str, int] = {}
        self._cloned: Set[str] = set()
        # (snapshot, the disk that it is of; refs) -> (the planned disk, the record of its VDI)
        self._found: Dict[Tuple[str, str], Tuple[Disk, Dict[str, Any]]] = {}
        for ref, vm in snapshots.records.items():
            before = len(self.disks)
            for _, vbd, vdi in disks_of(inquiry.source, vm):
                self._add(ref, vm, vbd, vdi)
            if len(self.disks) > before and not inquiry.cross_pool:
                self._look_at_image(ref, vm)

    def _look_at_image(self, ref: str, vm: Dict[str, Any]) -> None:
        """Of a snapshot (its ref and record) that gets other disks."""
        (host_ref, _), image = self._to, self._snapshots.image(vm)
        if image and host_ref and image["uuid"] not in [disk.key for disk in self.disks]:
            sr = self._inquiry.source.of("SR", image["SR"])
            if not checks.plugged(self._inquiry.source, sr, host_ref):
                self.unseen[ref] = image["uuid"]

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
        # the SR of which it goes to; not that of an image of which `vdi:` says where to
        leads = None if vbd is MEMORY and vdi["uuid"] in inquiry.request.vdis else owner
        argument, goal = self._goal(vbd, vdi, leads, of is not None)
        subject = "disk %s (%s) of snapshot %s" % (vbd["userdevice"], vdi["uuid"], vm["name_label"])
        if goal is None:
            if inquiry.cross_pool and not problems:
                wrong, right = WITHOUT_SR[vbd is MEMORY]
                problems.add(argument, "%s %s, and has no SR to go to" % (subject, wrong), right)
            return  # else it stays where it is
        sr = inquiry.source.of("SR", vdi["SR"])
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
        image_format = leads.image_format if leads else ""
        size = int(vdi["virtual_size"])
        checks.destination_sr(
            inquiry.destination,
            problems,
            argument,
            there,
            *((None, None) if leads else self._to),  # where that one goes has been looked at
            [(leads.key if leads else vdi["uuid"], size, image_format)],
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
        self._lengths[disk.key] = self._lengths.get(disk.base, 1)
        self.disks.append(disk)
        self._found[(ref, vdi["snapshot_of"])] = disk, vdi

    def _goal(
        self, vbd: Dict[str, Any], vdi: Dict[str, Any], owner: Optional[Disk], has_owner: bool
    ) -> Tuple[str, Optional[str]]:
        """(the argument that says so, the ref of the SR that a disk of a snapshot goes to; None if
        it has none, or stays)."""
        destination, request = self._inquiry.destination, self._inquiry.request
        if vbd is MEMORY and not self._inquiry.cross_pool and vdi["uuid"] not in request.vdis:
            return SR_ARGUMENT, None  # it stays, as xapi has it (xapi_vm_migrate.ml, suspends_vdis)
        if owner:
            return "vdi:" + owner.key, destination.ref("SR", owner.destination_sr)
        if has_owner and not self._inquiry.cross_pool:
            return SR_ARGUMENT, None  # that disk stays, too
        argument, named = SR_ARGUMENT, request.destination_sr
        if vdi["uuid"] in request.vdis:  # which planner.py takes of an image only
            argument, named = "vdi:" + vdi["uuid"], request.vdis[vdi["uuid"]]
        sr = destination.ref("SR", named) if named else None
        return argument, None if not self._inquiry.cross_pool and sr == vdi["SR"] else sr

    def _base(self, vm: Dict[str, Any], of: str, vdi: Dict[str, Any], disk: Disk) -> Optional[str]:
        """The key of the disk that another one (its VDI's record) is based on: of the nearest
        snapshot above a VM or a snapshot (its record). None if it cannot arrive as a clone of it,
        as where SM makes no clone of so long a chain."""
        if of == NULL:
            return None
        for ref in self._snapshots.above(vm):
            if (ref, of) in self._found:
                base, record = self._found[(ref, of)]
                alike = all(record[field] == vdi[field] for field in INHERITED)
                alike = alike and base.destination_sr == disk.destination_sr
                alike = alike and base.image_format == disk.image_format
                if not alike or self._lengths[base.key] >= chains.LONGEST:
                    return None
                self._have_cloned(base)
                return base.key
        return None

    def _have_cloned(self, base: Disk) -> None:
        """Its image goes below an empty one of its own, at the first clone; later ones, whose base
        is empty, are put beside that."""
        if base.key not in self._cloned:
            self._cloned.add(base.key)
            self._lengths[base.key] += 1


def images(inquiry: Inquiry) -> List[str]:
    """The UUIDs of the images of the memory of the VM's checkpoints that come along: `vdi:` may say
    where to."""
    if inquiry.request.drop_snapshots:
        return []
    found = _Snapshots(inquiry)
    images = [found.image(vm) for vm in found.records.values() if vm["power_state"] == SUSPENDED]
    return [image["uuid"] for image in images if image]


def _require_possible(
    inquiry: Inquiry, found: _Snapshots, history: _History, host: Optional[Dict[str, Any]]
) -> None:
    """What xapi can do with a checkpoint."""
    for ref, vm in found.records.items():
        if vm["power_state"] == SUSPENDED:
            checkpoint = {
                "image": found.image(vm) is not None,
                "arrives": inquiry.cross_pool,
                "stays": history.unseen.get(ref),
                "host": host and host["name_label"],
            }
            subject = "snapshot %s (%s)" % (vm["uuid"], vm["name_label"])
            checks.check(checks.CHECKPOINT_CHECKS, inquiry.problems, ARGUMENT, subject, checkpoint)


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
