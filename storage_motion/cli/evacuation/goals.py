# SPDX-License-Identifier: LGPL-2.1-only
"""Where each VM goes: by what was said, and by the room that is left after what is planned
already."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

from storage_motion.cli.evacuation.parts import VM, Disk, Left, Planned
from storage_motion.cli.evacuation.selection import Wanted, images_of, memory_of
from storage_motion.plan import volumes
from storage_motion.sm.sr_types import DRIVERS_OF_TYPES
from storage_motion.xapi.records import NULL, Records

GIB = 1024.0**3


class To(NamedTuple):
    """Where to. `records`: of the destination's pool, the same as the source's for a move within
    it; `srs`: refs there, none for those that the host sees; `host`: a ref, or "". `networks`:
    {network of the source's pool, a ref: network there, a UUID}; `network`: for all others, or "":
    the one that is called alike. `leave`: SRs of the source (refs) in which nothing is to stay.
    `further`: more arguments of the plugin."""

    records: Records
    cross_pool: bool = False
    srs: Tuple[str, ...] = ()
    host: str = ""
    networks: Dict[str, str] = {}
    network: str = ""
    leave: Tuple[str, ...] = ()
    further: Dict[str, str] = {}


class Room:
    """What the SRs of the destination have left, after what is planned: a guess, by which one is
    chosen. What there has to be the dry runs tell."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._taken: Dict[str, int] = {}

    def take(self, sr: str, disks: Tuple[Disk, ...]) -> None:
        """Plan disks into an SR (a ref)."""
        record = self._records.of("SR", sr)
        self._taken[sr] = self._taken.get(sr, 0) + sum(needed(record, disk) for disk in disks)

    def left(self, sr: str) -> int:
        """Bytes; negative where more is planned than there is."""
        return self._free(sr) - self._taken.get(sr, 0)

    def _free(self, sr: str) -> int:
        record = self._records.of("SR", sr)
        return int(record["physical_size"]) - int(record["physical_utilisation"])


def needed(sr: Dict[str, Any], disk: Disk) -> int:
    """What a disk takes of an SR (its record), in bytes: on LVM its whole size, however much is in
    it (storage_motion/plan/room.py judges each VM by itself, as exactly as SM does)."""
    if sr["type"] in volumes.TYPES:
        return volumes.full("vhd", disk.size)
    return disk.data + volumes.file("vhd", disk.size)


def choose(source: Records, wanted: Wanted, to: To, room: Room) -> Union[Planned, Left]:
    """What is planned with a VM; or that it stays, as nothing of it has to move, or can."""
    seen = _seeing(source, wanted, to)
    srs = [sr for sr in to.srs or _possible(to.records) if _plugged(to.records, sr, seen)]
    moving = tuple(disk for disk in wanted.disks if _moves(source, disk, to, seen))
    moving = moving or tuple(
        image
        for image in memory_of(source, wanted.ref)
        if to.cross_pool or _image_moves(source, source.ref("SR", image.source_sr) or "", to)
    )
    if not moving:
        return stay(_left(wanted, *_why_none(source, wanted, to)), wanted.record, to)
    uuids = {disk.source_sr for disk in moving}
    if not to.cross_pool:
        srs = [sr for sr in srs if to.records.of("SR", sr)["uuid"] not in uuids]
    if not srs:
        return _left(
            wanted,
            "no SR that it may go to is plugged where it would run",
            "plug the SR there (xe pbd-plug), or name another SR or host",
        )._replace(stays=True)
    chosen = max(srs, key=lambda sr: (room.left(sr), to.records.of("SR", sr)["uuid"]))
    room.take(chosen, moving)
    uuid = to.records.of("SR", chosen)["uuid"]
    moving = tuple(disk._replace(destination_sr=uuid) for disk in moving)
    hosts = {ref for ref in (wanted.record["resident_on"], to.host) if ref and ref != NULL}
    names = {source.of("host", ref)["uuid"] for ref in hosts if source.of("host", ref)}
    return Planned(
        vm=wanted.record["uuid"],
        name=wanted.record["name_label"],
        disks=moving,
        arguments=_arguments(source, wanted, to, moving, uuid),
        hosts=tuple(sorted(names)),
    )


def _why_none(source: Records, wanted: Wanted, to: To) -> Tuple[str, str]:
    """(why nothing of a VM moves, what to do)"""
    for image in images_of(source, wanted.ref):
        if _image_moves(source, image["SR"], to):
            return (
                "all its disks are there already, and the memory of a checkpoint of it, which is "
                "in SR %s, moves with a disk only" % source.of("SR", image["SR"])["name_label"],
                "delete the checkpoint (xe snapshot-uninstall), if nothing is to be left there",
            )
    return "all its disks are there already", "nothing"


def stay(left: Left, vm: Dict[str, Any], to: To) -> Left:
    """The same, if a VM (its record) of which no disk has to move is where it shall be; else that
    it stays behind, with what to do."""
    if to.cross_pool:
        return left._replace(
            stays=True, todo="move it with xe vm-migrate remote-master=..., or xe vm-export"
        )
    running = vm["power_state"] in ("Running", "Paused")
    if not (to.host and running and vm["resident_on"] != to.host):
        return left
    host = to.records.of("host", to.host)["uuid"]
    return left._replace(
        stays=True,
        reason=left.reason + ", and it runs at another host",
        todo="move it without disks: xe vm-migrate uuid=%s host-uuid=%s live=true"
        % (vm["uuid"], host),
    )


def _arguments(
    source: Records, wanted: Wanted, to: To, moving: Tuple[Disk, ...], sr: str
) -> Dict[str, str]:
    arguments = dict(to.further, vm=wanted.record["uuid"])
    if to.cross_pool:
        # for all that the VM has besides: snapshots, the image of its memory
        arguments["destination-sr-uuid"] = sr
        for ref in wanted.record["VIFs"]:
            vif = source.of("VIF", ref)
            network = to.networks.get(vif["network"], to.network)
            if network:
                arguments["vif:" + vif["uuid"]] = network
    else:
        arguments.update({"vdi:" + disk.vdi: sr for disk in moving})
        for image in images_of(source, wanted.ref):
            if _image_moves(source, image["SR"], to):
                arguments["vdi:" + image["uuid"]] = sr
    if to.host:
        arguments["host-uuid"] = to.records.of("host", to.host)["uuid"]
    return arguments


def _seeing(source: Records, wanted: Wanted, to: To) -> Optional[str]:
    """The host (a ref) that has to see the new SR; None if any may."""
    if to.host or to.cross_pool:
        return to.host or None
    resident = wanted.record["resident_on"]
    return resident if wanted.record["power_state"] != "Halted" and resident != NULL else None


def _moves(source: Records, disk: Disk, to: To, seen: Optional[str]) -> bool:
    """Whether a disk has to move: to another pool, or out of an SR, always; within one, if it is in
    no SR that was named; and without any named, if the host does not see its SR."""
    ref = source.ref("SR", disk.source_sr)
    if to.cross_pool or ref in to.leave:
        return True
    if to.srs:
        return ref not in to.srs
    return not _plugged(source, ref or "", seen)


def _image_moves(source: Records, sr: str, to: To) -> bool:
    """Whether an image of memory in an SR (a ref) moves within its pool: `migrate` leaves it where
    it is unless it is named (docs/operations.md, "Move within the pool")."""
    if to.host and not _plugged(source, sr, to.host):
        return True
    return sr in to.leave if to.leave else bool(to.srs) and sr not in to.srs


def _possible(records: Records) -> List[str]:
    """The SRs (refs) that may take disks, where none is named."""
    return [
        ref
        for ref, sr in sorted(records.all("SR").items())
        if sr["type"] in DRIVERS_OF_TYPES and sr["content_type"] != "iso"
    ]


def _plugged(records: Records, sr: str, host: Optional[str]) -> bool:
    """Whether an SR is plugged on a host (refs); on any, if that is None."""
    return any(
        pbd["SR"] == sr and pbd["currently_attached"] and host in (None, pbd["host"])
        for pbd in records.all("PBD").values()
    )


def _left(wanted: Wanted, reason: str, todo: str) -> Left:
    record = wanted.record
    return Left(
        VM,
        record["uuid"],
        record["name_label"],
        len(wanted.disks),
        sum(disk.size for disk in wanted.disks),
        reason,
        todo,
    )
