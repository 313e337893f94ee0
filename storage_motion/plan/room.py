# SPDX-License-Identifier: LGPL-2.1-only
"""Whether the SRs have room for a migration: at the destination for the new disks, those of the
VM's snapshots among them; at the source for the snapshots that mirrors begin with, all of which
stay until the VM has moved, and for one more, if a mirror breaks.

What the storage manager itself wants is in volumes.py. On LVM a disk that is written to has its
whole size, however the SR allocates; so has the new leaf that a snapshot makes of it, while the
base shrinks to what is in it, if it is a VHD (LVHDSR.py and LVMSR.py, `_snapshot`). Sizes in bytes.
"""

from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from storage_motion.plan import chains, formats, volumes
from storage_motion.plan.plan import Disk, Plan
from storage_motion.sm import repeated_commands
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    import XenAPI

    from storage_motion.plan.protocols import Problems, Request

GIB = 1024.0**3
SM_TIMEOUT = 60.0
DISKS, HISTORY, FILLING, SNAPSHOTS, RETRY = "disks", "history", "filling", "snapshots", "retry"
WORDS = {
    DISKS: "%.2f GiB for the disks that go there (%d)",
    HISTORY: "%.2f GiB for the disks of the VM's snapshots (%d)",
    FILLING: "%.2f GiB more for one of these, while it is filled",
    SNAPSHOTS: "%.2f GiB for the snapshots of disks (%d), which stay until the VM has moved",
    RETRY: "%.2f GiB for one more, should a mirror have to be taken up again",
}


class Need(NamedTuple):
    """What takes room. `argument`: the one that it comes of; `what`: one of WORDS."""

    argument: str
    what: str
    size: int


class Room(NamedTuple):
    """An SR as a plan finds it. `free`: now; `needed`: at once, in mid-move; `stays`: of that, what
    the VM's disks take there for good."""

    sr: str
    name: str
    type: str
    destination: bool
    size: int
    free: int
    needed: int
    stays: int


# An SR may be both, within a pool: {(which Records, SR's ref): (its record, Needs)}
Found = Dict[Tuple[int, str], Tuple[Dict[str, Any], List[Need]]]


def require(
    ends: Dict[str, Optional[int]],
    source: Records,
    destination: Records,
    plan: Plan,
    request: "Request",
    problems: "Problems",
    rooms: List[Room],
) -> List[Disk]:
    """Look at all SRs of a plan; what is wrong goes to `problems`, what is there to `rooms`.
    `ends`: as data_ends has them; `source`, `destination`: Records, the same object for a move
    within a pool. Answers those disks for which there is room, and none for what SM wants of a VDI
    that they would be clones of (`base_there`)."""
    found: Found = {}
    there = destination.ref("host", plan.destination_host)
    for disk in plan.disks:
        ref, sr = destination.by_uuid("SR", disk.destination_sr)
        assert ref is not None
        _, vdi = source.by_uuid("VDI", disk.key)
        base = source.by_uuid("VDI", disk.base)[1] if disk.base else None
        data = data_of(source, vdi, ends[disk.key], base)
        argument = "vdi:" + disk.key if disk.key in request.vdis else "destination-sr-uuid"
        needed = _of_disk(destination, sr, there, disk, data)
        _needs(found, destination, ref, sr).append(Need(argument, DISKS, needed))
    _history(found, source, destination, plan, there)
    if any(plan.mirrors(disk) for disk in plan.disks):
        for _, needs, sizes in _snapshots(found, source, plan, ends):
            needs.extend(Need("vm", SNAPSHOTS, size) for size in sizes)
            if request.retry_limit:
                needs.append(Need("vm", RETRY, max(sizes)))
    beside: Dict[Tuple[int, str], int] = {}
    for disk in plan.sent:
        if disk.base_there:
            ref, sr = destination.by_uuid("SR", disk.destination_sr)
            assert ref is not None
            wanted = _of_base(sr, destination.by_uuid("VDI", disk.base_there)[1])
            beside[id(destination), ref] = beside.get((id(destination), ref), 0) + wanted
    short = set()
    for key, (sr, needs) in found.items():
        room = _room(sr, needs)
        rooms.append(room)
        free = _judge(room, needs, problems)
        if beside.get(key, 0) > free:
            short.add(sr["uuid"])
    return [disk for disk in plan.sent if disk.base_there and disk.destination_sr in short]


def data_ends(session: "XenAPI.Session", source: Records, plan: Plan) -> Dict[str, Optional[int]]:
    """{disk's key: where the data of a disk that is mirrored ends in its VHD on LVM}, to which SM
    shrinks it when it becomes the base of a snapshot. None if it is not known, or the image does
    not shrink. `session`: of this host's pool. Raises SmFault."""
    return {disk.key: _data_end(session, source, plan, disk) for disk in plan.disks}


def with_data(plan: Plan, source: Records, ends: Dict[str, Optional[int]]) -> Plan:
    """The same, with what its disks hold by these ends: by xapi's records an image on LVM holds all
    of its volume, which has the whole size of a disk that is written to."""
    return plan._replace(
        disks=[
            disk._replace(data=data_of(source, source.by_uuid("VDI", disk.key)[1], ends[disk.key]))
            for disk in plan.disks
        ]
    )


def _data_end(session: "XenAPI.Session", source: Records, plan: Plan, disk: Disk) -> Optional[int]:
    sr = source.by_uuid("SR", disk.source_sr)[1]
    if not plan.mirrors(disk) or sr["type"] not in volumes.TYPES:
        return None
    answer = repeated_commands.ask(
        session, disk.source_sr, "vdi_data_end", disk.key, timeout=SM_TIMEOUT
    )
    return int(answer) if answer else None


def data_of(
    records: Records,
    vdi: Dict[str, Any],
    leaf: Optional[int] = None,
    base: Optional[Dict[str, Any]] = None,
) -> int:
    """Bytes that a VDI holds, by the pool's records: its image and those beneath it, at most its
    size. `leaf`: those in its own image, if they are known better. `base`: another VDI (its
    record), whose images do not count."""
    size, total = int(vdi["virtual_size"]), leaf or 0
    shared = {one["uuid"] for one in chains.of(records, base)} if base else set()
    for one in chains.of(records, vdi):
        if (one is not vdi or not leaf) and one["uuid"] not in shared:
            total += max(0, int(one["physical_utilisation"]))
    return min(total, size)


def image_names(records: Records, vdi: str) -> List[str]:
    """The UUIDs of a VDI (a ref) and of those whose images are beneath its own."""
    found = records.of("VDI", vdi)
    return [one["uuid"] for one in chains.of(records, found)] if found else []


def _needs(found: Found, records: Records, ref: str, sr: Dict[str, Any]) -> List[Need]:
    return found.setdefault((id(records), ref), (sr, []))[1]


def _history(
    found: Found, source: Records, destination: Records, plan: Plan, host: Optional[str]
) -> None:
    """What the disks of snapshots take: each ends as an image with what is its own, below an empty
    one. On LVM it has its whole size while it is filled; that is one at a time."""
    filling: Dict[str, int] = {}
    for disk in plan.history:
        ref, sr = destination.by_uuid("SR", disk.destination_sr)
        assert ref is not None
        vdi = source.by_uuid("VDI", disk.key)[1]
        base = source.by_uuid("VDI", disk.base)[1] if disk.base else None
        data = data_of(source, vdi, base=base)
        kind = formats.will_be(destination, sr, host, disk.size, disk.image_format)
        if sr["type"] in volumes.TYPES:
            whole, empty = volumes.full(kind, disk.size), volumes.smallest(kind, disk.size)
            own = min(whole, volumes.roundup(data, volumes.EXTENT) + empty)
            filling[ref] = max(filling.get(ref, 0), whole - own)
            size = own + empty
        else:
            size = data + 2 * volumes.file(kind, disk.size)
        _needs(found, destination, ref, sr).append(Need("snapshots", HISTORY, size))
    for ref, size in filling.items():
        _needs(found, destination, ref, destination.of("SR", ref)).append(
            Need("snapshots", FILLING, size)
        )


def _of_disk(
    destination: Records, sr: Dict[str, Any], host: Optional[str], disk: Disk, data: int
) -> int:
    """What a disk takes of the destination's SR."""
    on_lvm = sr["type"] in volumes.TYPES
    if disk.target:
        _, vdi = destination.by_uuid("VDI", disk.target)
        has, size = int(vdi["physical_utilisation"]), int(vdi["virtual_size"])
        if not on_lvm:
            return max(0, min(data, size - has))
        return max(0, volumes.full(kind_of(vdi), size) - has)
    kind = formats.will_be(destination, sr, host, disk.size, disk.image_format)
    return volumes.full(kind, disk.size) if on_lvm else data + volumes.file(kind, disk.size)


def kind_of(vdi: Dict[str, Any]) -> str:
    """The format that a VDI (its record) has now."""
    if vdi["sm_config"].get("type") == formats.RAW:
        return formats.RAW
    return formats.of(vdi) or formats.VHD


def _snapshots(
    found: Found, source: Records, plan: Plan, ends: Dict[str, Optional[int]]
) -> Iterator[Tuple[Dict[str, Any], List[Need], List[int]]]:
    """(SR's record, its Needs, [what each snapshot there takes]) of each SR of the source."""
    sizes: Dict[str, Tuple[Dict[str, Any], List[int]]] = {}
    for disk in plan.disks:
        if not plan.mirrors(disk):
            continue
        ref, sr = source.by_uuid("SR", disk.source_sr)
        assert ref is not None
        _, vdi = source.by_uuid("VDI", disk.key)
        sizes.setdefault(ref, (sr, []))[1].append(_of_snapshot(sr, vdi, ends[disk.key]))
    for ref, (sr, each) in sorted(sizes.items()):
        yield sr, _needs(found, source, ref, sr), each


def _of_snapshot(sr: Dict[str, Any], vdi: Dict[str, Any], end: Optional[int]) -> int:
    kind, size = formats.of(vdi) or formats.VHD, int(vdi["virtual_size"])
    if sr["type"] not in volumes.TYPES:
        return 2 * volumes.file(kind, size)
    leaf = volumes.full(kind, size)
    shrunk = leaf if end is None else min(leaf, volumes.roundup(end, volumes.EXTENT))
    return shrunk + volumes.smallest(kind, size)


def _of_base(sr: Dict[str, Any], vdi: Dict[str, Any]) -> int:
    """What SM takes when it makes a clone of a VDI (its record), besides the clone: that VDI gets a
    new leaf. On LVM of its whole size, unless it is a snapshot (LVHDSR.py, _snapshot), which has SM
    look for the room at once; what its old one gives back is not counted, as it is not known."""
    kind, size = kind_of(vdi), int(vdi["virtual_size"])
    if sr["type"] not in volumes.TYPES:
        return 2 * volumes.file(kind, size)
    return volumes.smallest(kind, size) if vdi["is_a_snapshot"] else volumes.full(kind, size)


def _room(sr: Dict[str, Any], needs: List[Need]) -> Room:
    journals = 2 * volumes.JOURNAL if sr["type"] in volumes.TYPES else 0
    stays = [need.size for need in needs if need.what in (DISKS, HISTORY)]
    return Room(
        sr=sr["uuid"],
        name=sr["name_label"],
        type=sr["type"],
        destination=bool(stays),
        size=int(sr["physical_size"]),
        free=int(sr["physical_size"]) - int(sr["physical_utilisation"]),
        needed=sum(need.size for need in needs) + journals,
        stays=sum(stays),
    )


def _judge(room: Room, needs: List[Need], problems: "Problems") -> int:
    """Whether an SR has room for all of that at once; how much more, in bytes."""
    sizes = {what: [need.size for need in needs if need.what == what] for what in WORDS}
    free, needed = room.free, room.needed
    if needed <= free:
        return free - needed
    parts = [
        WORDS[what] % ((sum(sizes[what]) / GIB, len(sizes[what]))[: WORDS[what].count("%")])
        for what in WORDS
        if sizes[what]
    ]
    without = "make room there, or say retry-limit=0"
    right = (
        without
        if needed - sum(sizes[RETRY]) <= free
        else "make room there"
        if sizes[SNAPSHOTS]
        else "an SR with room, or fewer snapshots"
        if sizes[HISTORY]
        else "an SR with room"
    )
    problems.add(
        ", ".join(sorted({need.argument for need in needs})),
        "SR %s (%s) has %.2f GiB free, and needs %.2f GiB: %s"
        % (room.sr, room.name, free / GIB, needed / GIB, ", ".join(parts)),
        right,
    )
    return 0
