# SPDX-License-Identifier: LGPL-2.1-only
"""The disks of a migration at its destination: made, or taken, and open behind their gates; opened
anew; given to xapi again; or taken away.

A disk that was made carries the id of the migration in other_config from its creation on, so that
it is found again whoever is killed.
"""

import json
import logging
import secrets as tokens
from typing import TYPE_CHECKING, Any, Collection, Dict, Iterable, List, Optional, Set, Tuple

from storage_motion import waiting
from storage_motion.dom0 import gate_notes
from storage_motion.errors import (
    BadArguments,
    DiskInUse,
    GateOpen,
    ReceiverFailed,
    SmFault,
    TimedOut,
)
from storage_motion.journal.journal import Journal
from storage_motion.migration import received_base, received_snapshots
from storage_motion.migration.phases import blocking
from storage_motion.plan import formats, room
from storage_motion.plan.checks import CLAIM
from storage_motion.sm import marks, smapi
from storage_motion.switch import gate
from storage_motion.xapi import managed
from storage_motion.xapi.records import NULL, Records

if TYPE_CHECKING:
    import XenAPI

SM_TIMEOUT = 120.0
OTHERS_TIMEOUT = 60.0  # seconds for what others had begun with a disk

log = logging.getLogger("sxm")


def make(session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any]) -> Dict[str, Any]:
    """Make a disk, or take its target, and open it behind its gate. Its record for the receiver."""
    sr = session.xenapi.SR.get_by_uuid(disk["sr"])
    # Noted before: a VDI that is made now is looked for by its mark, in the SRs that the journal
    # names.
    key = disk["key"]
    entry.write_disks(
        {
            key: {
                "vdi": disk["target"] or None,
                "created": not disk["target"],
                "sr": disk["sr"],
                "size": disk["size"],
                "read_only": disk["read_only"],
                "unplugged": disk["unplugged"],
                "shut": False,
                "location": None,
                "frozen": disk["frozen"],
                "snapshot_of": disk["snapshot_of"],
                "snapshot_time": disk["snapshot_time"],
            }
        }
    )
    if disk["target"]:
        vdi = _take(session, entry, disk, sr)
    else:
        vdi = _made(session, entry, disk)
        if disk["allow_caching"]:
            session.xenapi.VDI.set_allow_caching(vdi, True)
        _require_as_asked(session, entry, disk, vdi)
    if disk["frozen"]:
        # Now: by that, SM gives back the room of its volume as soon as it is closed (LVHDSR.py,
        # detach).
        received_snapshots.mark(session, vdi, disk, NULL)
    _keep_from_others(session, vdi)  # first: an older database that has the gate then has this, too
    images = room.image_names(Records(session), vdi)
    opened = json.loads(
        smapi.call(session, sr, "vdi_receive_start", vdi_ref=vdi, timeout=SM_TIMEOUT)
    )
    entry.write_disks(
        {
            key: {
                "shut": True,
                "location": session.xenapi.VDI.get_location(vdi),
                "contents": _new_contents(),
            }
        }
    )
    holds = _holds(session, vdi, entry.entry["disks"][key], opened, images)
    return _record(entry.entry["disks"][key], opened, images, holds)


def _made(session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any]) -> str:
    """The ref of a VDI that is made: as a clone, or empty."""
    if disk["base"]:
        return received_snapshots.clone(session, entry, disk)
    cloned = received_base.clone(session, entry, disk) if disk["base_there"] else None
    return cloned or _create(session, entry, disk)


def _holds(
    session: "XenAPI.Session",
    vdi: str,
    disk: Dict[str, Any],
    opened: Dict[str, Any],
    images: List[str],
) -> bool:
    """Whether a VDI (a ref) that was given holds something, which the disk may be compared with.
    Not a QCOW2 on LVM that has images of others below its own, for which none is cloned, either
    (plan/bases.py, unfit)."""
    if disk["created"] or opened["blank"]:
        return False
    view = Records(session)
    record = view.of("VDI", vdi)
    on_lvm = view.of("SR", record["SR"])["type"] in formats.ON_LVM
    return not (on_lvm and len(images) > 1 and formats.of(record) == formats.QCOW2)


def _record(
    disk: Dict[str, Any], opened: Dict[str, Any], images: List[str], holds: bool
) -> Dict[str, Any]:
    """A disk of the journal, what `vdi_receive_start` has answered, the images that it has opened,
    and what `_holds` says, as one record for the receiver and for the source."""
    return {
        "vdi": disk["vdi"],
        "sr": disk["sr"],
        "size": disk["size"],
        "socket": opened["socket"],
        "depth": opened["depth"],
        "blank": bool(opened["blank"]) and disk["created"],
        "contents": disk.get("contents"),  # one of an earlier version has none
        "read_only": disk.get("read_only", False),
        "images": images,
        "holds": holds,
        "no_base": disk.get("no_base"),
    }


def _new_contents() -> str:
    """A name for what a disk holds from now on. It stays for as long as nothing but our receivers
    can have written to it, and all that it was given is there."""
    return tokens.token_hex(16)


def _create(session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any]) -> str:
    sr = session.xenapi.SR.get_by_uuid(disk["sr"])
    vdi: str = session.xenapi.VDI.create(
        {
            "name_label": disk["name_label"],
            "name_description": disk["name_description"],
            "SR": sr,
            "virtual_size": str(disk["size"]),
            "type": disk["type"],
            "sharable": disk["sharable"],
            "read_only": False,
            "other_config": dict(disk["other_config"], **{CLAIM: entry.entry["migration"]}),
            "xenstore_data": disk["xenstore_data"],
            "sm_config": _sm_config(session, sr, disk),
            "tags": disk["tags"],
        }
    )
    entry.write_disks({disk["key"]: {"vdi": session.xenapi.VDI.get_uuid(vdi)}})
    return vdi


def _require_as_asked(
    session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any], vdi: str
) -> None:
    """Raises ReceiverFailed unless SM has made what it was asked for."""
    record = session.xenapi.VDI.get_record(vdi)
    made, noted = int(record["virtual_size"]), formats.of(record)
    if disk["image_format"] and noted not in ("", disk["image_format"]):
        raise ReceiverFailed(
            entry.entry["migration"],
            "SR %s made %s and not the %s asked for" % (disk["sr"], noted, disk["image_format"]),
        )
    if not formats.is_as_large(made, disk["size"]):
        raise ReceiverFailed(
            entry.entry["migration"],
            "SR %s made %d bytes of the %d asked for" % (disk["sr"], made, disk["size"]),
        )


def _sm_config(session: "XenAPI.Session", sr: str, disk: Dict[str, Any]) -> Dict[str, str]:
    """What SM is told of a new disk, as xapi tells it (storage_smapiv1_migrate.ml,
    receive_start_common); not where it can only be what SM makes anyway."""
    asked = disk["image_format"] and formats.may_be_asked(session.xenapi.SR.get_type(sr))
    return {formats.IN_SM_CONFIG: disk["image_format"]} if asked else {}


def _keep_from_others(session: "XenAPI.Session", vdi: str) -> None:
    """Have xapi manage a disk no longer, and see that nobody has begun with it before. Raises
    DiskInUse.

    xapi notes an operation before it looks whether the VDI is managed: what is not seen here is
    refused."""
    managed.set_managed(session.xenapi.VDI.get_SR(vdi), vdi, False)
    try:
        waiting.until(
            lambda: not _others(session, vdi), OTHERS_TIMEOUT, "others to be done with a disk"
        )
    except TimedOut:
        raise DiskInUse(session.xenapi.VDI.get_uuid(vdi), ", ".join(_others(session, vdi)))


def _others(session: "XenAPI.Session", vdi: str) -> List[str]:
    """What others do with a VDI, or have it in, in words."""
    record = session.xenapi.VDI.get_record(vdi)
    return sorted(record["current_operations"].values()) + [
        "VBD %s" % vbd for vbd in record["VBDs"] if vbd != NULL
    ]


def manage(session: "XenAPI.Session", vdi: str) -> None:
    """Have xapi manage a disk again, as any other."""
    if not session.xenapi.VDI.get_managed(vdi):
        managed.set_managed(session.xenapi.VDI.get_SR(vdi), vdi, True)


def reopen(session: "XenAPI.Session", entry: Journal, key: str) -> Dict[str, Any]:
    """Close the tapdisk of a disk and open another one. Its record for the receiver. Raises
    GateOpen if it is not shut."""
    migration, disk = entry.entry["migration"], entry.entry["disks"][key]
    sr, vdi = session.xenapi.SR.get_by_uuid(disk["sr"]), session.xenapi.VDI.get_by_uuid(disk["vdi"])
    config = session.xenapi.VDI.get_sm_config(vdi)
    ours = session.xenapi.VDI.get_other_config(vdi).get(CLAIM) == migration
    shut = gate.is_shut(config) or _is_shut_beside_collector(entry, disk, config)
    if not ours or not shut or gate.active(config):
        raise GateOpen(migration, disk["vdi"])
    closed = smapi.call(session, sr, "vdi_receive_abort", vdi_ref=vdi, timeout=SM_TIMEOUT)
    if closed != smapi.CLOSED_IN_ORDER:
        # A tapdisk that is dead may have had more in its memory than on the disk.
        entry.write_disks({key: {"contents": _new_contents()}})
    images = room.image_names(Records(session), vdi)
    opened = json.loads(
        smapi.call(session, sr, "vdi_receive_start", vdi_ref=vdi, timeout=SM_TIMEOUT)
    )
    holds = _holds(session, vdi, entry.entry["disks"][key], opened, images)
    return _record(entry.entry["disks"][key], opened, images, holds)


def mend_gate(session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any], vdi: str) -> None:
    """Make the gate of a disk (its entry in the journal; a ref) whole of which SM has taken half
    while it was shut. Nothing of a `finish` may be under way."""
    gate.mend(session, vdi)
    config = session.xenapi.VDI.get_sm_config(vdi)
    if _is_shut_beside_collector(entry, disk, config) and not gate.active(config):
        gate.put(session.xenapi.VDI, vdi, marks.RELINKING, marks.SHUT)


def _is_shut_beside_collector(entry: Journal, disk: Dict[str, Any], config: Dict[str, str]) -> bool:
    """Whether only half of a gate is there, as SM's collector leaves it that has merged images of
    others below the disk: it takes `relinking` for its own (cleanup.py, _tagChildrenForRelink).
    Others' images are below each disk of a chain whose first is a clone of somebody's VDI, and may
    be below a VDI that was given to be filled."""
    return (
        any(
            one.get("cloned_from") or not one.get("created", True)
            for one in entry.entry["disks"].values()
        )
        and not gate_notes.noted(disk["vdi"])
        and config.get(marks.PAUSED) == marks.SHUT
        and config.get(marks.RELINKING) in (None, marks.SHUT)
    )


def _take(session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any], sr: str) -> str:
    """Mark the user's VDI as taken. Raises BadArguments if it is not what was planned with."""
    view = Records(session)
    ref, vdi = view.by_uuid("VDI", disk["target"])
    if (
        ref is None
        or not formats.is_as_large(int(vdi["virtual_size"]), disk["size"])
        or vdi["SR"] != sr
        or gate.active(vdi["sm_config"])
    ):
        raise BadArguments(
            "target: VDI %s is not in SR %s, not of %d bytes, or in use"
            % (disk["target"], disk["sr"], disk["size"])
        )
    session.xenapi.VDI.add_to_other_config(ref, CLAIM, entry.entry["migration"])
    return ref


def take_away(
    session: "XenAPI.Session", entry: Journal, keys: Optional[Collection[str]] = None
) -> Tuple[str, ...]:
    """Take away the disks that were made, all or those with these `keys`, and let go of those that
    were to be filled: idempotent. Raises GateOpen if a disk is active. What may be left, as details
    of ImageLeft, or ()."""
    found = entry.entry["migration"]
    known = [
        dict(disk, vdi=disk["vdi"] or _orphan(session, disk["sr"], found, entry))
        for key, disk in entry.entry["disks"].items()
        if keys is None or key in keys
    ]
    for disk in known:
        if disk.get("base") and not disk["vdi"]:
            received_snapshots.destroy_lost(session, entry, disk)
    clones = [disk for disk in known if disk.get("cloned_from") and not disk["vdi"]]
    unproven = sum((received_base.left(session, disk) for disk in clones), ())
    found_again = _find_again(session, known)
    there = [disk for disk in known if disk["vdi"] and Records(session).ref("VDI", disk["vdi"])]
    waiting.at_once(lambda disk: _remove(session, disk, found, disk["vdi"] in found_again), there)
    unnamed = [
        disk for disk in known if not (disk["vdi"] or disk.get("base") or disk.get("cloned_from"))
    ]
    return sum((_remove_unnamed(session, disk, entry) for disk in unnamed), unproven)


def _find_again(session: "XenAPI.Session", disks: Iterable[Dict[str, Any]]) -> Set[str]:
    """A xapi that was killed may have lost the record of a disk that we made; its image is there,
    and known by its UUID. Answers the UUIDs of those that a scan has brought back."""
    lost = [
        disk
        for disk in disks
        if disk["created"] and disk["vdi"] and not Records(session).ref("VDI", disk["vdi"])
    ]
    for sr in sorted({disk["sr"] for disk in lost}):
        session.xenapi.SR.scan(session.xenapi.SR.get_by_uuid(sr))
    return {disk["vdi"] for disk in lost if Records(session).ref("VDI", disk["vdi"])}


def _remove(
    session: "XenAPI.Session", disk: Dict[str, Any], migration: str, found_again: bool
) -> None:
    sr, vdi = session.xenapi.SR.get_by_uuid(disk["sr"]), session.xenapi.VDI.get_by_uuid(disk["vdi"])
    # What a scan has just brought back has no mark any more, nor has a disk of the user's that an
    # older database has, nor a clone that is not marked yet.
    ours = found_again or not disk["created"] or received_base.may_be_unmarked(session, disk)
    unmarked = (None,) if ours else ()
    if session.xenapi.VDI.get_other_config(vdi).get(CLAIM) not in unmarked + (migration,):
        return  # not ours, or not ours any more
    try:
        smapi.call(session, sr, "vdi_receive_abort", vdi_ref=vdi, timeout=SM_TIMEOUT)
    except SmFault:
        # The gate is shut before the disk is opened. Without it there is nothing to close, though
        # the driver cannot say so; it may be that it never could open anything here.
        if marks.SHUT in session.xenapi.VDI.get_sm_config(vdi).values():
            raise
    if gate.active(session.xenapi.VDI.get_sm_config(vdi)):
        raise GateOpen(migration, disk["vdi"])
    if disk["created"]:
        manage(session, vdi)  # xapi destroys nothing else
        session.xenapi.VDI.destroy(vdi)
    else:
        gate.open_again(session, vdi)
        manage(session, vdi)
        blocking.unmark_vdi(session, disk["vdi"], migration)


def _orphan(
    session: "XenAPI.Session", sr_uuid: str, migration: str, entry: Journal
) -> Optional[str]:
    """The UUID of a VDI of ours that was made, but not noted any more."""
    known = {disk["vdi"] for disk in entry.entry["disks"].values()}
    view = Records(session)
    for ref in session.xenapi.SR.get_VDIs(session.xenapi.SR.get_by_uuid(sr_uuid)):
        vdi = view.of("VDI", ref)
        if vdi and vdi["other_config"].get(CLAIM) == migration and vdi["uuid"] not in known:
            uuid: str = vdi["uuid"]
            return uuid
    return None


def _remove_unnamed(
    session: "XenAPI.Session", disk: Dict[str, Any], entry: Journal
) -> Tuple[str, ...]:
    """A VDI was to be made, and is not there: whatever made it may have died when only its image
    was. Details of ImageLeft, or ()."""
    sr = Records(session).ref("SR", disk["sr"])
    if sr is None or "size" not in disk:
        return ()
    try:
        removed = smapi.call(
            session,
            sr,
            "sr_remove_unnamed",
            args=(str(disk["size"]), repr(entry.entry["started"])),
            timeout=SM_TIMEOUT,
        )
    except SmFault as error:
        return (
            "SR %s: an image of %d bytes that no VDI names may be left"
            % (disk["sr"], disk["size"]),
            str(error),
        )
    if removed:
        log.warning(
            "%s: image %s in SR %s, which no VDI names, is removed",
            entry.entry["migration"],
            removed,
            disk["sr"],
        )
    return ()
