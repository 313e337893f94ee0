# SPDX-License-Identifier: LGPL-2.1-only
"""Bringing the disks into sync, one after another, smallest first; those that are in sync stay
mirrored meanwhile.

A mirror that breaks is not mended but made anew, by `renew` and then `synchronise` again: a new
mover, a new snapshot, and at the destination a new tapdisk. Nothing that the dead ones knew is
needed: the copier compares all of the disk, and sends what differs.

Every snapshot stays until the VM has moved, or the migration is taken back. Each hidden image that
came of one has two children by that, so SM's garbage collector has nothing to coalesce there; a
coalesce relinks the guest's disk, which breaks its mirror, and a snapshot more for the next mirror
would be the next thing to coalesce. No room is lost: SM itself keeps a mirrored leaf from being
coalesced.
"""

import functools
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

from storage_motion import waiting
from storage_motion.dom0.launch import Process
from storage_motion.errors import (
    CopyFailed,
    DestinationFull,
    MirrorBroken,
    MoverFailed,
    SmFault,
    TimedOut,
    VmNotRunning,
)
from storage_motion.migration import durable
from storage_motion.migration.mover_handle import STALL_BOUND, Mover
from storage_motion.migration.phases import claim, receive
from storage_motion.sm import repeated_commands, smapi, sr_master
from storage_motion.wire.mover_status import BROKEN, ENDED, MIRRORING, READY, fault_of
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

POLL = 0.1
PROMPT = 0.5  # seconds: a destination that takes longer to answer one write may have fallen silent
# a bound for form's sake: a stall of the mirror or of the channel ends a copy much earlier
COPY_TIMEOUT = 30 * 24 * 3600.0
SNAPSHOT_TIMEOUT = 180.0
SM_TIMEOUT = 120.0
# Faults of vdi_mirror_start (drivers/mirror_lib.py, FAULTS) that pass: the guest is rebooting, SM
# has its disk paused, or xapi is restarted.
NOT_ACTIVE, NOT_PROVEN, PAUSED, STUCK = 480, 482, 484, 485
PASSING = (NOT_ACTIVE, NOT_PROVEN, PAUSED, STUCK, smapi.AWAY)
RUNNING = ("Running", "Paused")
REBOOT_BOUND = 120.0  # seconds for a VM that reboots to have its disks active again
REBOOT_POLL = 1.0
CLOSE_BOUND = 60.0  # seconds for a guest that is about to close its disks to have done so

log = logging.getLogger("sxm")

# What it is called, and what does it.
Step = Tuple[str, Callable[["Migration", "Disk"], None]]


def synchronise(m: "Migration") -> None:
    """Mirror (if the VM runs) and copy every disk that is not in sync yet.

    Raises MirrorBroken, CopyFailed, MoverFailed, SmFault or Cancelled."""
    for disk in m.plan.disks:
        try:
            _synchronise(m, disk)
        except (SmFault, CopyFailed):
            # A broken mirror shows in many ways, such as a snapshot that could not be mirrored:
            # name the cause.
            watch(m)
            raise


def _synchronise(m: "Migration", disk: "Disk") -> None:
    state = m.disk(disk.key)["state"]
    if state == "in-sync":
        return
    if state != "copying":
        # Each of these may take seconds: whoever cancels does not wait for more than one.
        m.pulse()
        mover = m.mover(disk.key)
        m.note(disk.key, mover=mover.start(disk.size).to_json())
        m.pulse()
        copied_from = _mirror(m, disk, mover) if m.plan.live else disk.key
        m.pulse()
        _copy(m, disk, mover, copied_from)
    _await_copy(m, disk)
    _close(m, disk)
    m.pulse()
    m.note(disk.key, state="in-sync")


def stop(m: "Migration") -> None:
    """End every mover, detach every mirror, and leave no snapshot. The guest runs on, on its own
    disks.

    As soon as there is no mover any more nothing of this concerns the destination, which is cleared
    meanwhile."""

    def stop_one(disk: "Disk", steps: Sequence[Step]) -> None:
        for what, action in steps:
            with m.tolerated("%s of %s" % (what, disk.key)):
                action(m, disk)

    waiting.at_once(lambda disk: stop_one(disk, _STOP[:1]), m.plan.disks)
    works: List[Callable[[], None]] = [lambda: _clear_destination(m)]
    works += [functools.partial(stop_one, disk, _STOP[1:]) for disk in reversed(m.plan.disks)]
    waiting.at_once(lambda work: work(), works)


def _clear_destination(m: "Migration") -> None:
    """The next undo, begun early. If it fails that one tries again, and tells."""
    try:
        receive.abort(m)
    except Exception as error:
        log.warning("%s: the destination is not cleared yet: %s", m.id, m.describe(error))


def renew(m: "Migration") -> None:
    """Take away what is broken, at both ends, so that `synchronise` may begin it anew. What is
    sound goes on, a copy included.

    Raises VmNotRunning, and whatever the steps raise; it may be called again then."""
    _await_closed(m)
    state = m.source.xenapi.VM.get_power_state(m.vm())
    if m.plan.live and state not in RUNNING:
        raise VmNotRunning(m.plan.vm, state)
    broken = [disk for disk in m.plan.disks if not _sound(m, disk)]
    for disk in broken:
        for _, action in _END:
            action(m, disk)
        entry = m.disk(disk.key)
        begun = entry.get("renewed", False) or entry.get("mover") is not None
        m.note(
            disk.key,
            state="broken" if begun else "waiting",
            mover=None,
            renewed=begun,
            saved_before=entry.get("saved", 0),
            given_up=entry.get("given_up", 0) + 1,
        )
    if broken:
        receive.renew(m, broken)


def _await_closed(m: "Migration") -> None:
    """Of a guest that is about to close its disks: until it has. What is made anew before that
    would break at once."""
    if not m.guest_closes():
        return

    def closed() -> bool:
        m.pulse()
        return not any(_mirrors(m, key) for key in _with_movers(m))

    try:
        waiting.until(closed, CLOSE_BOUND, "VM %s to close its disks" % m.plan.vm)
    except TimedOut as error:
        log.warning("%s: %s", m.id, error)  # somebody has stopped it, such as another's hook
    m.closed()


def _mirrors(m: "Migration", key: str) -> bool:
    try:
        return bool(m.mover(key).status()["state"] == MIRRORING)
    except MoverFailed:
        return False


def _with_movers(m: "Migration") -> List[str]:
    return [key for key, entry in m.entry["disks"].items() if entry.get("mover")]


def watch(m: "Migration") -> Dict[str, Dict[str, Any]]:
    """Look at all movers. Raises MirrorBroken for the first that is broken, or has died, or that
    the guest is about to end. Returns {key: status}."""
    found: Dict[str, Dict[str, Any]] = {}
    why = m.guest_closes()
    for key in _with_movers(m):
        if why:
            raise MirrorBroken(key, "the guest closes the disk (%s)" % why)
        try:
            status = m.mover(key).status()
        except MoverFailed as error:
            m.note(key, state="broken")
            raise MirrorBroken(key, str(error))
        m.progress.take(key, status)
        found[key] = status
        why = _fault(m, status)
        if why:
            m.note(key, state="broken")
            raise fault_of(key, status, why)
    return found


def await_answers(m: "Migration") -> None:
    """Wait until every write that is mirrored just now is answered promptly. Raises MirrorBroken or
    Cancelled.

    For just before the VM is moved: a destination that has fallen silent is found out by the stall
    bound, which must not strike when the guest is suspended already. One that is merely slow all
    the time is moved to all the same, after twice that bound."""
    end = time.monotonic() + 2 * STALL_BOUND
    while (
        any(status.get("oldest_wait", 0.0) > PROMPT for status in watch(m).values())
        and time.monotonic() < end
    ):
        m.pulse()
        time.sleep(POLL)


def _fault(m: "Migration", status: Dict[str, Any]) -> Optional[str]:
    """What is wrong with a mirror while the VM is not on its way, or None."""
    if status["state"] == BROKEN:
        return str(status.get("error"))
    if status["state"] == ENDED and m.plan.live:
        return "the guest's tapdisk has closed the disk, as it does when the guest reboots"
    return None


def _sound(m: "Migration", disk: "Disk") -> bool:
    """Whether a disk's mirror stands, and its copy is under way or done: then there is nothing to
    renew."""
    entry = m.disk(disk.key)
    if entry["state"] not in ("copying", "in-sync") or not entry.get("mover"):
        return False
    try:
        status = m.mover(disk.key).status()
    except MoverFailed:
        return False
    stands: bool = status["state"] == (MIRRORING if m.plan.live else READY)
    return stands and status["copy"]["state"] in ("running", "done")


def _end_mover(m: "Migration", disk: "Disk") -> None:
    m.mover(disk.key).end(Process.from_json(m.disk(disk.key).get("mover")), "abort")


def _detach(m: "Migration", disk: "Disk") -> None:
    if m.disk(disk.key).get("mirror"):
        _sm(m, disk, "vdi_mirror_stop", disk.key)
        m.note(disk.key, mirror=False)


def _mirror(m: "Migration", disk: "Disk", mover: Mover) -> str:
    """Snapshot the disk and mirror it, in one step. Returns the UUID of the snapshot."""
    # Noted before: whatever is killed now, the undo looks for a mirror and a snapshot.
    since, others = (
        m.disk(disk.key).get("snapshot_since") or time.time(),
        m.disk(disk.key).get("given_up", 0),
    )
    m.note(disk.key, state="mirroring", mirror=True, snapshot_since=since)
    end = time.monotonic() + REBOOT_BOUND
    while True:
        try:
            m.closed()  # a word from before says nothing of the mirror that begins now
            snapshot: str = _sm(
                m,
                disk,
                "vdi_mirror_start",
                disk.key,
                args=(mover.secondary,),
                timeout=SNAPSHOT_TIMEOUT,
            )
            break
        except SmFault as fault:
            # A guest that reboots is no try's fault: its disk is active again in a moment.
            reboots = (
                fault.fault == NOT_ACTIVE
                and time.monotonic() < end
                and m.source.xenapi.VM.get_power_state(m.vm()) in RUNNING
            )
            if not reboots and fault.fault in PASSING:
                raise MirrorBroken(disk.key, str(fault))
            if not reboots:
                raise
        m.pulse()
        time.sleep(REBOOT_POLL)
    # Of one that is not the first try there may be snapshots that nobody has told us of.
    m.note(disk.key, snapshot=snapshot, snapshot_since=since if others else None)
    # Else a crash of xapi leaves an image that no VDI names; and if it has forgotten the snapshot
    # already, that is copied all the same.
    durable.keep(
        (m.source,),
        lambda: _find_again(m, disk, snapshot),
        lambda: _forgotten(m, snapshot),
        "the snapshot of VDI %s" % disk.key,
    )
    return snapshot


def _forgotten(m: "Migration", uuid: str) -> List[str]:
    return [] if Records(m.source).ref("VDI", uuid) else ["VDI %s" % uuid]


def _copy(m: "Migration", disk: "Disk", mover: Mover, copied_from: str) -> None:
    """Begin to copy what the VDI `copied_from` (a UUID) holds."""
    entry = m.disk(disk.key)
    m.note(disk.key, copy_open=copied_from)
    opened = json.loads(_sm(m, disk, "vdi_copy_open", copied_from))
    m.pulse()
    extents = json.loads(_sm(m, disk, "vdi_extents", copied_from))
    compare = entry.get("renewed", False) and not entry["blank"]
    mover.copy(opened, extents, entry["blank"], compare=compare)
    m.note(disk.key, state="copying")


def _await_copy(m: "Migration", disk: "Disk") -> None:
    """Wait until all of it is there and verified."""

    def done() -> bool:
        m.pulse()
        status = watch(m)[disk.key]
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


def _close(m: "Migration", disk: "Disk") -> None:
    opened = m.disk(disk.key).get("copy_open")
    _find_again(m, disk, opened)
    if opened and Records(m.source).ref("VDI", opened):
        _sm(m, disk, "vdi_copy_close", opened)
    m.note(disk.key, copy_open=None)


def _find_again(m: "Migration", disk: "Disk", uuid: Optional[str]) -> None:
    """A xapi that was killed may have lost the record of a snapshot (a UUID) that it had just made;
    its image is there."""
    if uuid and not Records(m.source).ref("VDI", uuid):
        m.source.xenapi.SR.scan(m.source.xenapi.SR.get_by_uuid(disk.source_sr))


def _note_lost(m: "Migration", disk: "Disk") -> None:
    """Note the snapshots of tries that have not come about, whose xapi ended before it could note
    whose they are. They have stayed until now as the others have, and for the same reason."""
    entry = m.disk(disk.key)
    if not entry.get("snapshot_since"):
        return
    found = sr_master.lost_snapshots(m.source, disk.source_sr, disk.key, entry["snapshot_since"])
    # Each try can have left one of which xapi knows nothing.
    if len(found["nameless"]) > entry.get("given_up", 0) + 1:
        log.warning(
            "%s: which of %s are snapshots of %s is not known: they stay",
            m.id,
            ", ".join(found["nameless"]),
            disk.key,
        )
        found["nameless"] = []
    lost = sorted(set(found["nameless"] + found["unfinished"]) - {entry.get("snapshot")})
    if lost:
        log.warning("%s: snapshots of %s that xapi has lost: %s", m.id, disk.key, ", ".join(lost))
    m.note(disk.key, lost=lost, snapshot_since=None)


def drop_snapshots(m: "Migration", disk: "Disk") -> None:
    """Destroy the snapshots of a disk that were taken for a mirror of ours. One that somebody else
    took meanwhile is his, and only loses the claim, which xapi has copied to it."""
    _note_lost(m, disk)
    api, entry = m.source.xenapi.VDI, m.disk(disk.key)
    known = [uuid for uuid in entry.get("lost", []) + [entry.get("snapshot")] if uuid]
    for uuid in known:
        _find_again(m, disk, uuid)
    # which may no longer say of which disk they are
    there = [Records(m.source).ref("VDI", uuid) for uuid in known]
    found_again = {ref for ref in there if ref is not None}
    for ref in sorted(set(api.get_snapshots(m.source_vdi(disk))) | found_again):
        record = api.get_record(ref)
        if record["uuid"] in known or m.id in record["other_config"].get(
            smapi.MIRROR_MARK, ""
        ).split("/"):
            api.destroy(ref)
        else:
            claim.unmark_vdi(m.source, record["uuid"], m.id)
    m.note(disk.key, snapshot=None, lost=[])


# What ends the synchronising of a disk, in this order; each is idempotent. The mover first: when
# its sockets close, a tapdisk that waits for the mirror goes on at once.
_END: Tuple[Step, ...] = (("mover", _end_mover), ("mirror", _detach), ("copy", _close))
_STOP = _END + (("snapshots", drop_snapshots),)


def _sm(
    m: "Migration",
    disk: "Disk",
    command: str,
    vdi_uuid: str,
    args: Sequence[str] = (),
    timeout: float = SM_TIMEOUT,
) -> Any:
    """One of MirrorSR's commands for a VDI of the disk's SR. Raises SmFault."""
    return repeated_commands.ask(m.source, disk.source_sr, command, vdi_uuid, args, timeout)
