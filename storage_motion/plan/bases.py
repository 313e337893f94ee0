# SPDX-License-Identifier: LGPL-2.1-only
"""Which VDI that is at the destination already holds most of a disk that moves, so that the disk
arrives as a clone of it, and only what differs is sent: an older copy of it, the template that its
VM was cloned from, what it was based on where it comes back to.

All of this is a hint. Each block that is not sent is compared when the disk is copied
(migration/phases/copying.py); a wrong hint costs that comparison. So it is small: each VDI that is
made notes in its other_config the UUIDs of the VDI that it came from and of what shared an image
with that there (`noted`). Two VDIs are related where one of these, their own UUIDs, the images that
they are on, or what xapi has noted of their contents (`content_id`, which it copies with a VDI) is
the same.
"""

import time
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from storage_motion.plan import chains, checks, formats, room
from storage_motion.plan.inquiry import Inquiry
from storage_motion.plan.plan import Disk, Plan
from storage_motion.sm import marks
from storage_motion.xapi.records import Records

ARGUMENT = "base"
# Key in a VDI's other_config: when it was sent, in seconds since the epoch, and UUIDs, the most
# telling first; with a space between each.
RELATED = "sxm_related"
MOST = 24  # of these UUIDs
MOST_BESIDE = 8  # of them, of VDIs that share an image with it
# Of a clone all is compared, holes too: a disk that is larger than so many times what it holds is
# sent as quickly, at the 1 Gbit/s of an old network, and one that is named is taken all the same.
SPARSE = 4
CONTENTS = "content_id"  # of xapi's, in other_config (storage_smapiv1.ml)

# Operations of others that xapi lets a clone go beside, or has it wait for a moment.
SHORT = {"copy", "clone", "snapshot"}
# Operations of a VM in which its disks are opened, or will be at once.
OPENING = {"start", "start_on", "resume", "resume_on"}

UNFIT = "VDI %s (%s) %s"
NO_ROOM = (
    "disk %s is not made as a clone of VDI %s: SR %s has no room for what SM wants besides, so all "
    "of the disk is sent"
)


def is_sparse(disk: Disk) -> bool:
    """Whether a disk is sent as quickly as it is compared with another one, holes and all."""
    return disk.size > SPARSE * disk.data


class Wanted(NamedTuple):
    """What a clone of a VDI is to be. `size`: bytes; `links`: how many images more will be put on
    it, one on the other."""

    size: int
    type: str
    sharable: bool
    image_format: str
    links: int = 1


def unfit(records: Records, vdi: Dict[str, Any], wanted: Wanted) -> str:
    """Why a VDI (its record) cannot be cloned, or its clone could not be what is wanted, in words;
    "" if it can. `records`: Records of its pool.

    xapi clones what it manages, plugged or not (xapi_vdi.ml, check_operation_error); but SM looks
    for who has it open at a snapshot only (LVHDSR.py, _snapshot), and clones no raw volume. Of a
    QCOW2 on LVM the collector may take an image away, on the SR's master, that our tapdisk reads
    yet when the guest writes a part of a cluster. On LVM of several hosts none is taken that a VM
    could be started with in that moment (`_may_be_opened`)."""
    config = vdi["sm_config"]
    on_lvm = records.of("SR", vdi["SR"])["type"] in formats.ON_LVM
    for wrong, text in (
        (not vdi["managed"], "is not managed by xapi"),
        (vdi["missing"], "is missing"),
        (not formats.is_as_large(int(vdi["virtual_size"]), wanted.size), "is of another size"),
        (vdi["type"] != wanted.type, "is of another type"),
        (vdi["sharable"] or wanted.sharable, "is marked as sharable, or the disk is"),
        (vdi["read_only"], "is read-only"),
        (vdi["cbt_enabled"], "has changed block tracking enabled"),
        (vdi["on_boot"] == "reset", "is reset on boot"),
        ("key_hash" in config, "is encrypted"),
        (config.get("type") == formats.RAW, "is raw, and SM clones no such VDI"),
        (
            wanted.image_format and formats.of(vdi) not in ("", wanted.image_format),
            "is not in the format asked for",
        ),
        (users(records, vdi), "is in use"),
        (
            set(vdi["current_operations"].values()) - SHORT
            or checks.CLAIM in vdi["other_config"]
            or {marks.PAUSED, marks.RELINKING, marks.ACTIVATING} & set(config),
            "is held by another operation",
        ),
        (on_lvm and formats.of(vdi) == formats.QCOW2, "is QCOW2 on LVM"),
        (
            is_on_lvm_of_several(records, vdi) and _may_be_opened(records, vdi),
            "may be opened on another host meanwhile: it is on LVM, and neither a snapshot nor a "
            "template's",
        ),
        (
            len(chains.of(records, vdi)) + wanted.links >= chains.LONGEST,
            "has too many images below it",
        ),
    ):
        if wrong:
            return UNFIT % (vdi["uuid"], vdi["name_label"], text)
    return ""


def users(records: Records, vdi: Dict[str, Any]) -> List[str]:
    """Who has a VDI (its record) open, or is about to, in words. A VM that starts has its volume
    mapped (SM's attach) before anything but the VM's own operation shows it."""
    found = [
        "VM %s (%s)" % (vm["uuid"], vm["name_label"])
        for vbd, vm in _vbds(records, vdi)
        if vbd["currently_attached"]
        or vbd["current_operations"]
        or OPENING & set(vm["current_operations"].values())
    ]
    hosts = [key[len(marks.HOST) :] for key in vdi["sm_config"] if key.startswith(marks.HOST)]
    known = [(ref, records.of("host", ref)) for ref in hosts]
    return sorted(set(found)) + [
        "host %s" % (host["name_label"] if host else ref) for ref, host in sorted(known)
    ]


def is_on_lvm_of_several(records: Records, vdi: Dict[str, Any]) -> bool:
    """Whether a VDI (its record) is a volume that more than one host may have mapped. SM's clone
    renames that of the VDI, and has it be the image below both; it tells other hosts so at a
    snapshot only (LVHDSR.py, _snapshot: hostRefs). One that has it mapped already would write into
    the image that is shared then."""
    sr = records.of("SR", vdi["SR"])
    return sr["type"] in formats.ON_LVM and len(sr["PBDs"]) > 1


def _may_be_opened(records: Records, vdi: Dict[str, Any]) -> bool:
    """Whether a VM may be started with it, or it is attached to one, while it is cloned. Not if it
    is a snapshot, or if templates and snapshots have it, and nobody else: these do not start."""
    having = [vm for _, vm in _vbds(records, vdi)]
    kept = having and all(vm["is_a_template"] or vm["is_a_snapshot"] for vm in having)
    return not (vdi["is_a_snapshot"] or kept)


def _vbds(records: Records, vdi: Dict[str, Any]) -> List[Tuple[Dict[str, Any], Dict[str, Any]]]:
    """[(VBD, its VM)] of a VDI, as records, but for those that are gone."""
    vbds = [records.of("VBD", ref) for ref in vdi["VBDs"]]
    found = [(vbd, records.of("VM", vbd["VM"])) for vbd in vbds if vbd]
    return [(vbd, vm) for vbd, vm in found if vm]


def find(
    inquiry: Inquiry, disks: List[Disk], history: List[Disk], dropped: Iterable[str]
) -> Tuple[List[Disk], List[Disk]]:
    """The disks of the VM and of its snapshots, as planned, with what each notes of where it comes
    from, and with the VDI of the destination that it is to be a clone of, if there is one; of a
    chain, the first has that. `dropped`: UUIDs of VDIs that go with the VM. What is wrong with
    those that are asked for goes to the problems."""
    sent = history + disks
    leaving = {disk.key for disk in sent} | set(dropped)
    source = _Vdis(inquiry.source)
    there = source if not inquiry.cross_pool else _Vdis(inquiry.destination)
    asked = _asked(inquiry, sent)
    changed = {}
    for disk in sent:
        if disk.target or disk.is_memory or disk.key not in source.by_uuid:
            continue
        known = source.related(source.by_uuid[disk.key], leaving)
        note = dict(disk.other_config)
        note[RELATED] = " ".join(["%d" % time.time()] + known[:MOST])
        made = disk._replace(other_config=note)
        if not disk.base:
            made = _based(inquiry, made, sent, asked.get(disk.key), source, there, known)
        changed[disk.key] = made
    return (
        [changed.get(disk.key, disk) for disk in disks],
        [changed.get(disk.key, disk) for disk in history],
    )


def without(plan: Plan, disks: Iterable[Disk]) -> Plan:
    """A plan in which these disks are clones of nothing that is there."""
    left = {disk.key for disk in disks}

    def plain(disk: Disk) -> Disk:
        return disk._replace(base_there="", base_why="") if disk.key in left else disk

    return plan._replace(
        disks=[plain(disk) for disk in plan.disks], history=[plain(disk) for disk in plan.history]
    )


def cautions(short: Iterable[Disk]) -> List[str]:
    """A sentence for each of these disks, for the clone of which there is no room."""
    return [NO_ROOM % (disk.key, disk.base_there, disk.destination_sr) for disk in short]


class _Vdis:
    """The VDIs of a pool, all of which are read once that is needed."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._by_uuid: Optional[Dict[str, Dict[str, Any]]] = None

    @property
    def by_uuid(self) -> Dict[str, Dict[str, Any]]:
        """{UUID: record}"""
        if self._by_uuid is None:
            vdis = self._records.all("VDI").values()
            self._by_uuid = {vdi["uuid"]: vdi for vdi in vdis}
        return self._by_uuid

    def chain(self, vdi: Dict[str, Any]) -> List[str]:
        """The UUIDs of a VDI (its record) and of those whose images are beneath its own."""
        return [one["uuid"] for one in chains.of(self._records, vdi)]

    def related(self, vdi: Dict[str, Any], leaving: Iterable[str]) -> List[str]:
        """The UUIDs by which a VDI may be known elsewhere: its own, its images', those of others
        on these (the nearest, and those of templates, first; but for those that are `leaving`, too)
        and what it notes itself."""
        chain = self.chain(vdi)
        beside = []
        for one in self.by_uuid.values():
            if one["SR"] != vdi["SR"] or not one["managed"] or one["uuid"] in leaving:
                continue
            shared = [chain.index(uuid) for uuid in self.chain(one) if uuid in chain]
            if shared:
                beside.append((min(shared), not self._of_template(one), one["uuid"]))
        found = chain + [uuid for _, _, uuid in sorted(beside)[:MOST_BESIDE]] + _noted(vdi)[1]
        return sorted(set(found), key=found.index)

    def _of_template(self, vdi: Dict[str, Any]) -> bool:
        return any(vm["is_a_template"] for _, vm in _vbds(self._records, vdi))

    def contents(self, uuids: Iterable[str]) -> List[str]:
        """What xapi has noted of the contents of those of these VDIs that are here."""
        known = [self.by_uuid[uuid]["other_config"] for uuid in uuids if uuid in self.by_uuid]
        return [config[CONTENTS] for config in known if CONTENTS in config]


def _noted(vdi: Dict[str, Any]) -> Tuple[int, List[str]]:
    """(when a VDI was sent, or 0, the UUIDs of its note). Anybody can write such a note."""
    time_text, _, rest = vdi["other_config"].get(RELATED, "").partition(" ")
    when = int(time_text) if time_text.isdigit() and len(time_text) < 12 else 0
    return when, rest.split()[:MOST]


def _asked(inquiry: Inquiry, sent: List[Disk]) -> Dict[str, Tuple[str, str]]:
    """{key of the first disk of a chain: (the argument, the VDI that it asks for)}. Named is the
    VM's disk, or one of a snapshot."""
    by_key = {disk.key: disk for disk in sent}
    found: Dict[str, Tuple[str, str]] = {}
    for key, base in sorted(inquiry.request.bases.items()):
        argument = "%s:%s" % (ARGUMENT, key)
        disk = by_key.get(key)
        if disk is None or disk.is_memory:
            inquiry.problems.add(argument, "is no disk that moves", "the UUID of one")
            continue
        if disk.target:
            inquiry.problems.add(argument, "the disk fills VDI %s" % disk.target, "leave it out")
            continue
        while disk.base:
            disk = by_key[disk.base]
        found[disk.key] = argument, base
    return found


def _based(
    inquiry: Inquiry,
    disk: Disk,
    sent: List[Disk],
    asked: Optional[Tuple[str, str]],
    source: _Vdis,
    there: _Vdis,
    known: List[str],
) -> Disk:
    """The first disk of a chain, with the VDI that it is to be a clone of. `known`: the UUIDs by
    which it may be known."""
    wanted = Wanted(disk.size, disk.type, disk.sharable, disk.image_format, _links(disk, sent))
    sr = inquiry.destination.ref("SR", disk.destination_sr)
    taken = {one.key for one in sent} | {one.target for one in sent}
    if asked:
        argument, uuid = asked
        vdi = there.by_uuid.get(uuid)
        wrong = "no VDI %s at the destination" % uuid
        if vdi:
            name = (vdi["uuid"], vdi["name_label"])
            if vdi["SR"] != sr:
                wrong = UNFIT % (name + ("is not in SR %s" % disk.destination_sr,))
            elif vdi["uuid"] in taken:
                wrong = UNFIT % (name + ("is moved or filled itself",))
            else:
                wrong = unfit(inquiry.destination, vdi, wanted)
        if wrong:
            inquiry.problems.add(argument, wrong, "a VDI that it may be cloned from, or none")
            return disk
        return disk._replace(base_there=uuid, base_why="it is named")
    data = room.data_of(inquiry.source, source.by_uuid[disk.key])
    if not inquiry.request.find_bases or disk.size > SPARSE * data:
        return disk
    ids = known + source.contents(known)
    found = []
    for vdi in there.by_uuid.values():
        if vdi["SR"] != sr or vdi["uuid"] in taken or not vdi["managed"]:
            continue
        when, noted = _noted(vdi)
        its = set(there.chain(vdi) + noted + there.contents([vdi["uuid"]]))
        shared = [place for place, one in enumerate(ids) if one in its]
        if shared and not unfit(inquiry.destination, vdi, wanted):
            # the nearest; of these, the one with most in common; and the latest copy
            rank = (shared[0], -len(shared), -when, vdi["uuid"])
            found.append((rank, vdi["uuid"], ids[shared[0]]))
    if not found:
        return disk
    _, uuid, one = min(found)
    return disk._replace(base_there=uuid, base_why=_why(disk, uuid, one, len(known), ids))


def _why(disk: Disk, uuid: str, one: str, own: int, ids: List[str]) -> str:
    if one == disk.key:
        return "it is a copy of this disk"
    if one == uuid:
        return "this disk comes from it"
    if ids.index(one) >= own:
        return "xapi has noted the same contents of it (%s)" % one
    return "both come from VDI %s" % one


def _links(disk: Disk, sent: List[Disk]) -> int:
    """How many disks there are from this one on, at most, that arrive one as a clone of another."""
    above = [_links(one, sent) for one in sent if one.base == disk.key]
    return 1 + max(above or [0])
