# SPDX-License-Identifier: LGPL-2.1-only
"""The copy of one frozen disk, by its mover: the snapshot that a mirror was begun with, the disk of
a VM that is halted, or the disk of a snapshot.

A disk that arrives as a clone of another one (`base`) is sent as far as it differs from that. How
far that is the storage manager's images say, and nothing else; where they know nothing of each
other, all of the disk is compared. So it is if it arrives as a clone of a VDI that was at the
destination before (`base_there`), or fills one that holds something: what that is nobody has
verified.
"""

import functools
import json
import logging
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from storage_motion import waiting
from storage_motion.dom0.launch import Process
from storage_motion.errors import CopyFailed, DestinationFull, MirrorBroken, SmFault, VmChanged
from storage_motion.migration import (
    bandwidth,
    mirror_health,
    snapshots,
    unplugged_disks,
    verified_before,
)
from storage_motion.migration.mover_handle import MoverHandle
from storage_motion.plan import bases, changes, formats, room
from storage_motion.sm import repeated_commands, smapi
from storage_motion.wire.mover_status import fault_of
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

POLL = 0.1
# a bound for form's sake: a stall of the mirror or of the channel ends a copy much earlier
COPY_TIMEOUT = 30 * 24 * 3600.0
SM_TIMEOUT = 120.0
UNRELATED = 487  # a fault of vdi_extents (drivers/mirror_lib.py, FAULTS)
# Faults of MirrorSR (drivers/mirror_lib.py, FAULTS) that pass: the guest is rebooting, SM has its
# disk paused, or xapi is restarted.
NOT_ACTIVE, NOT_PROVEN, PAUSED, STUCK = 480, 482, 484, 485
PASSING = (NOT_ACTIVE, NOT_PROVEN, PAUSED, STUCK, smapi.AWAY)
OPENED = ("copy_open", "base_open")  # in the journal, of a disk: what is open for its copy

log = logging.getLogger("sxm")


class Source(NamedTuple):
    """What a copy reads: what vdi_copy_open has answered, the extents that are to be sent, and
    whether these are all in which it may differ from its base."""

    opened: Dict[str, Any]
    extents: Dict[str, Any]
    based: bool


def open_source(
    m: "Migration", disk: "Disk", copied_from: str, look: Callable[["Migration"], None]
) -> Source:
    """Open what a disk is copied from, the VDI `copied_from` (a UUID). `look`: called between two
    commands of SM's, each of which may take SM_TIMEOUT; what it raises ends this. Nothing of the
    destination is needed. Raises SmFault, MirrorBroken."""
    m.note(disk.key, copy_open=copied_from)
    opened = json.loads(_open(m, disk, copied_from))
    look(m)
    # What is taken up again has been mirrored to: which part of it is as the base nobody knows.
    if not disk.base or m.disk(disk.key).get("renewed", False):
        return Source(opened, json.loads(ask(m, disk, "vdi_extents", copied_from)), False)
    return Source(opened, *_differing(m, disk, copied_from, look))


def begin(
    m: "Migration",
    disk: "Disk",
    mover: MoverHandle,
    copied_from: str,
    verified: Optional[str] = None,
    source: Optional[Source] = None,
) -> None:
    """Begin to copy what the VDI `copied_from` (a UUID) holds. `verified`: the path of the file of
    the mover that mirrored and copied this disk last, or None. `source`: of `open_source`, if that
    is open already. Raises SmFault, MoverFailed, MirrorBroken."""
    entry = m.disk(disk.key)
    opened, extents, based = source or open_source(m, disk, copied_from, _look)
    renewed = entry.get("renewed", False)
    cloned = bool(disk.base or disk.base_there)
    filled = entry.get("holds", False) and not bases.is_sparse(disk)
    compare = (renewed or filled or cloned and not based) and not entry["blank"]
    known = None
    if verified and renewed and compare and not _is_on_images_of_others(m):
        _look(m)
        since = functools.partial(_since, m, disk, look=_look)
        known = verified_before.look(m, disk, copied_from, verified, since)
        _look(m)
    heading = verified_before.heading(m, disk, copied_from)
    limit = bandwidth.of(m.entry)
    if limit:  # before the first byte; `await_end` sees to the rest
        mover.limit(limit)
    mover.copy(opened, extents, entry["blank"], heading, compare=compare, known=known, based=based)
    m.note(disk.key, state="copying", verified_windows=mover.verified)


def _look(m: "Migration") -> None:
    """Whoever cancels, or a mirror of another disk that has broken meanwhile, waits for no more
    than one command. Raises Cancelled, MirrorBroken."""
    m.pulse()
    mirror_health.watch(m)


def _open(m: "Migration", disk: "Disk", copied_from: str) -> str:
    """What vdi_copy_open answers. Raises MirrorBroken where a guest that has the disk read-only has
    it closed just now, as while it reboots."""
    if not m.plan.uses(disk) or m.plan.mirrors(disk):
        if m.plan.keeps_closed(disk):
            unplugged_disks.let_go(m, disk)  # of an earlier try: it would keep us out, too
            changes.require_none(m)
        answer: str = ask(m, disk, "vdi_copy_open", copied_from)
        if m.plan.keeps_closed(disk):
            unplugged_disks.keep_copying(m, disk)
        return answer
    try:
        return str(ask(m, disk, "vdi_copy_open", copied_from, (smapi.BESIDE_READER,)))
    except SmFault as fault:
        if fault.fault in PASSING:
            raise MirrorBroken(disk.key, str(fault))
        raise


def _differing(
    m: "Migration", disk: "Disk", copied_from: str, look: Callable[["Migration"], None]
) -> Tuple[Dict[str, Any], bool]:
    """(the extents in which it may differ from its base, True), or, where their images are not
    known to be of one tree, (all that hold data, False)."""
    try:
        return _since(m, disk, copied_from, disk.base, look), True
    except SmFault as fault:
        if fault.fault != UNRELATED:
            raise
        log.warning("%s: all of VDI %s is compared: %s", m.id, disk.key, fault)
        return json.loads(ask(m, disk, "vdi_extents", copied_from)), False


def _since(
    m: "Migration", disk: "Disk", copied_from: str, base: str, look: Callable[["Migration"], None]
) -> Dict[str, Any]:
    """The extents in which the VDI `copied_from` may differ from the VDI `base` (UUIDs). Raises
    SmFault.

    On LVM images are there only while they are open, so the base is opened, too. Files are always
    there."""
    if Records(m.source).by_uuid("SR", disk.source_sr)[1]["type"] in formats.ON_LVM:
        m.note(disk.key, base_open=base)
        ask(m, disk, "vdi_copy_open", base)
    try:
        look(m)
        found: Dict[str, Any] = json.loads(ask(m, disk, "vdi_extents", copied_from, (base,)))
        return found
    finally:
        _close(m, disk, "base_open")


def await_end(m: "Migration", disk: "Disk") -> None:
    """Wait until all of it is there and verified. Raises CopyFailed, DestinationFull, MirrorBroken,
    VmChanged, Cancelled."""

    share = bandwidth.Share(m, disk.key)

    def done() -> bool:
        m.pulse()
        statuses = mirror_health.watch(m)
        share.keep(statuses)
        status = statuses[disk.key]
        copy = status["copy"]
        if copy["state"] == "failed":
            fault = fault_of(disk.key, status, str(copy.get("error")))
            raise (
                fault
                if isinstance(fault, DestinationFull)
                else CopyFailed(disk.key, str(copy.get("error")))
            )
        return bool(copy["state"] == "done")

    waiting.until(done, COPY_TIMEOUT, "copy of %s" % disk.key, POLL)
    _require_there(m, disk)
    require_same_images(m, disk)


def _require_there(m: "Migration", disk: "Disk") -> None:
    """Raises CopyFailed, or VmChanged if it cannot be made anew, where somebody has destroyed what
    was copied. Our tapdisk has read on; but on LVM the SR's master may have given its room to
    others, when this host is another one (LVHDSR.py, delete: it asks no other host)."""
    copied = m.disk(disk.key).get("copy_open")
    snapshots.find_again(m, disk, copied)
    if copied and not Records(m.source).ref("VDI", copied):
        gone = "VDI %s was destroyed while it was copied" % copied
        if copied == disk.key:
            raise VmChanged(m.plan.vm, gone)
        raise CopyFailed(disk.key, gone)


def require_same_images(m: "Migration", disk: "Disk") -> None:
    """Of a disk that is on images which are not ours: that the images are those still that its
    tapdisk has opened. Raises MirrorBroken.

    SM's collector merges what others have left in such a chain, and has those tapdisks open it anew
    that it knows of, not ours. An image that it has taken away since ours may read as anything, and
    what was found the same there was not: so what a mover before has verified does not count
    either."""
    opened = m.disk(disk.key).get("images")
    if not opened or not _is_on_images_of_others(m):
        return
    now = room.image_names(Records(m.destination), m.destination_vdi(disk))
    if now != opened:
        m.note(disk.key, state="broken")
        raise MirrorBroken(disk.key, "SM has merged images below VDI %s meanwhile" % opened[0])


def _is_on_images_of_others(m: "Migration") -> bool:
    """Whether a disk of this migration is; one that is a clone of that is, too. A VDI that was
    given to be filled is one where it has images below its own."""
    return any(
        disk.base_there or disk.target and len(m.disk(disk.key).get("images") or ()) > 1
        for disk in m.plan.sent
    )


def is_open(m: "Migration", disk: "Disk") -> bool:
    """Whether anything is open for its copy, or may be."""
    return any(m.disk(disk.key).get(opened) for opened in OPENED)


def close(m: "Migration", disk: "Disk") -> None:
    """Close what is open for its copy. Idempotent."""
    for opened in OPENED:
        _close(m, disk, opened)


def _close(m: "Migration", disk: "Disk", what: str) -> None:
    opened = m.disk(disk.key).get(what)
    snapshots.find_again(m, disk, opened)
    if opened and Records(m.source).ref("VDI", opened):
        ask(m, disk, "vdi_copy_close", opened)
    elif opened:  # somebody has destroyed it; our tapdisk still has it open
        ask(m, disk, "sr_copy_close", None, (opened,))
    m.note(disk.key, **{what: None})


def end_mover(m: "Migration", disk: "Disk", command: str = "abort") -> None:
    """Have its mover go, and the destination know why, where that is no good end. Idempotent."""
    process = Process.from_json(m.disk(disk.key).get("mover"))
    m.mover(disk.key).end(process, command, why=m.why_stopped if command == "abort" else None)


def ask(
    m: "Migration",
    disk: "Disk",
    command: str,
    vdi_uuid: Optional[str],
    args: Sequence[str] = (),
    timeout: float = SM_TIMEOUT,
) -> Any:
    """One of MirrorSR's commands for a VDI of the disk's SR, or for that. Raises SmFault."""
    return repeated_commands.ask(m.source, disk.source_sr, command, vdi_uuid, args, timeout)
