"""Bringing the disks into sync, one after another, smallest first; those that are in sync stay mirrored meanwhile.

A mirror that breaks is not mended but made anew, by `renew` and then `synchronise` again: a new mover, a new snapshot, and at the
destination a new tapdisk. Nothing that the dead ones knew is needed: the copier compares all of the disk, and sends what differs.

Every snapshot stays until the VM has moved, or the migration is taken back. Each hidden image that came of one has two children by
that, so SM's garbage collector has nothing to coalesce there; a coalesce relinks the guest's disk, which breaks its mirror, and a
snapshot more for the next mirror would be the next thing to coalesce. No room is lost: SM itself keeps a mirrored leaf from being coalesced.
"""
import functools
import json
import logging
import time

from storage_motion.control import claim, driver, durable, receive, sr_master, waiting
from storage_motion.control.movers import BROKEN, ENDED, MIRRORING, READY, STALL_BOUND, fault_of
from storage_motion.dom0 import smapi
from storage_motion.dom0.launch import Process
from storage_motion.errors import CopyFailed, DestinationFull, MirrorBroken, MoverFailed, SmFault, TimedOut, VmNotRunning
from storage_motion.xapi.records import Records

POLL = 0.1
PROMPT = 0.5                      # seconds: a destination that takes longer to answer one write may have fallen silent
COPY_TIMEOUT = 30 * 24 * 3600.0   # a bound for form's sake: a stall of the mirror or of the channel ends a copy much earlier
SNAPSHOT_TIMEOUT = 180.0
SM_TIMEOUT = 120.0
# Faults of vdi_mirror_start (drivers/mirror_lib.py, FAULTS) that pass: the guest is rebooting, SM has its disk paused, or xapi is restarted.
NOT_ACTIVE, NOT_PROVEN, PAUSED, STUCK = 480, 482, 484, 485
PASSING = (NOT_ACTIVE, NOT_PROVEN, PAUSED, STUCK, smapi.AWAY)
RUNNING = ("Running", "Paused")
REBOOT_BOUND = 120.0              # seconds for a VM that reboots to have its disks active again
REBOOT_POLL = 1.0
CLOSE_BOUND = 60.0                # seconds for a guest that is about to close its disks to have done so

log = logging.getLogger("sxm")


def synchronise(m):
    """Mirror (if the VM runs) and copy every disk that is not in sync yet.

    Raises MirrorBroken, CopyFailed, MoverFailed, SmFault or Cancelled."""
    for disk in m.plan.disks:
        try:
            _synchronise(m, disk)
        except (SmFault, CopyFailed):
            # A broken mirror shows in many ways, such as a snapshot that could not be mirrored: name the cause.
            watch(m)
            raise


def _synchronise(m, disk):
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


def stop(m):
    """End every mover, detach every mirror, and leave no snapshot. The guest runs on, on its own disks.

    As soon as there is no mover any more nothing of this concerns the destination, which is cleared meanwhile."""
    def stop_one(disk, steps):
        for what, action in steps:
            with m.tolerated("%s of %s" % (what, disk.key)):
                action(m, disk)
    waiting.at_once(lambda disk: stop_one(disk, _STOP[:1]), m.plan.disks)
    works = [lambda: _clear_destination(m)] + [functools.partial(stop_one, disk, _STOP[1:]) for disk in reversed(m.plan.disks)]
    waiting.at_once(lambda work: work(), works)


def _clear_destination(m):
    """The next undo, begun early. If it fails that one tries again, and tells."""
    try:
        receive.abort(m)
    except Exception as error:
        log.warning("%s: the destination is not cleared yet: %s", m.id, m.describe(error))


def renew(m):
    """Take away what is broken, at both ends, so that `synchronise` may begin it anew. What is sound goes on, a copy included.

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
        m.note(disk.key, state="broken" if begun else "waiting", mover=None, renewed=begun, saved_before=entry.get("saved", 0),
               given_up=entry.get("given_up", 0) + 1)
    if broken:
        receive.renew(m, broken)


def _await_closed(m):
    """Of a guest that is about to close its disks: until it has. What is made anew before that would break at once."""
    if not m.guest_closes():
        return

    def closed():
        m.pulse()
        return not any(_mirrors(m, key) for key in _with_movers(m))
    try:
        waiting.until(closed, CLOSE_BOUND, "VM %s to close its disks" % m.plan.vm)
    except TimedOut as error:
        log.warning("%s: %s", m.id, error)   # somebody has stopped it, such as another's hook
    m.closed()


def _mirrors(m, key):
    try:
        return m.mover(key).status()["state"] == MIRRORING
    except MoverFailed:
        return False


def _with_movers(m):
    return [key for key, entry in m.entry["disks"].items() if entry.get("mover")]


def watch(m):
    """Look at all movers. Raises MirrorBroken for the first that is broken, or has died, or that the guest is about to end. Returns
    {key: status}."""
    found, why = {}, m.guest_closes()
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


def await_answers(m):
    """Wait until every write that is mirrored just now is answered promptly. Raises MirrorBroken or Cancelled.

    For just before the VM is moved: a destination that has fallen silent is found out by the stall bound, which must not strike
    when the guest is suspended already. One that is merely slow all the time is moved to all the same, after twice that bound."""
    end = time.monotonic() + 2 * STALL_BOUND
    while any(status.get("oldest_wait", 0.0) > PROMPT for status in watch(m).values()) and time.monotonic() < end:
        m.pulse()
        time.sleep(POLL)


def _fault(m, status):
    """What is wrong with a mirror while the VM is not on its way, or None."""
    if status["state"] == BROKEN:
        return str(status.get("error"))
    if status["state"] == ENDED and m.plan.live:
        return "the guest's tapdisk has closed the disk, as it does when the guest reboots"
    return None


def _sound(m, disk):
    """Whether a disk's mirror stands, and its copy is under way or done: then there is nothing to renew."""
    entry = m.disk(disk.key)
    if entry["state"] not in ("copying", "in-sync") or not entry.get("mover"):
        return False
    try:
        status = m.mover(disk.key).status()
    except MoverFailed:
        return False
    return status["state"] == (MIRRORING if m.plan.live else READY) and status["copy"]["state"] in ("running", "done")


def _end_mover(m, disk):
    m.mover(disk.key).end(Process.from_json(m.disk(disk.key).get("mover")), "abort")


def _detach(m, disk):
    if m.disk(disk.key).get("mirror"):
        _sm(m, disk, "vdi_mirror_stop", disk.key)
        m.note(disk.key, mirror=False)


def _mirror(m, disk, mover):
    """Snapshot the disk and mirror it, in one step. Returns the UUID of the snapshot."""
    # Noted before: whatever is killed now, the undo looks for a mirror and a snapshot.
    since, others = m.disk(disk.key).get("snapshot_since") or time.time(), m.disk(disk.key).get("given_up", 0)
    m.note(disk.key, state="mirroring", mirror=True, snapshot_since=since)
    end = time.monotonic() + REBOOT_BOUND
    while True:
        try:
            m.closed()   # a word from before says nothing of the mirror that begins now
            snapshot = _sm(m, disk, "vdi_mirror_start", disk.key, args=(mover.secondary,), timeout=SNAPSHOT_TIMEOUT)
            break
        except SmFault as fault:
            # A guest that reboots is no try's fault: its disk is active again in a moment.
            reboots = fault.fault == NOT_ACTIVE and time.monotonic() < end and m.source.xenapi.VM.get_power_state(m.vm()) in RUNNING
            if not reboots and fault.fault in PASSING:
                raise MirrorBroken(disk.key, str(fault))
            if not reboots:
                raise
        m.pulse()
        time.sleep(REBOOT_POLL)
    # Of one that is not the first try there may be snapshots that nobody has told us of.
    m.note(disk.key, snapshot=snapshot, snapshot_since=since if others else None)
    # Else a crash of xapi leaves an image that no VDI names; and if it has forgotten the snapshot already, that is copied all the same.
    durable.keep((m.source,), lambda: _find_again(m, disk, snapshot), lambda: _forgotten(m, snapshot), "the snapshot of VDI %s" % disk.key)
    return snapshot


def _forgotten(m, uuid):
    return [] if Records(m.source).ref("VDI", uuid) else ["VDI %s" % uuid]


def _copy(m, disk, mover, copied_from):
    """Begin to copy what the VDI `copied_from` (a UUID) holds."""
    entry = m.disk(disk.key)
    m.note(disk.key, copy_open=copied_from)
    opened = json.loads(_sm(m, disk, "vdi_copy_open", copied_from))
    m.pulse()
    extents = json.loads(_sm(m, disk, "vdi_extents", copied_from))
    compare = entry.get("renewed", False) and not entry["blank"]
    mover.copy(opened, extents, entry["blank"], compare=compare)
    m.note(disk.key, state="copying")


def _await_copy(m, disk):
    """Wait until all of it is there and verified."""
    def done():
        m.pulse()
        status = watch(m)[disk.key]
        copy = status["copy"]
        if copy["state"] == "failed":
            fault = fault_of(disk.key, status, str(copy.get("error")))
            raise fault if isinstance(fault, DestinationFull) else CopyFailed(disk.key, str(copy.get("error")))
        return copy["state"] == "done"
    waiting.until(done, COPY_TIMEOUT, "copy of %s" % disk.key, POLL)


def _close(m, disk):
    opened = m.disk(disk.key).get("copy_open")
    _find_again(m, disk, opened)
    if opened and Records(m.source).ref("VDI", opened):
        _sm(m, disk, "vdi_copy_close", opened)
    m.note(disk.key, copy_open=None)


def _find_again(m, disk, uuid):
    """A xapi that was killed may have lost the record of a snapshot (a UUID) that it had just made; its image is there."""
    if uuid and not Records(m.source).ref("VDI", uuid):
        m.source.xenapi.SR.scan(m.source.xenapi.SR.get_by_uuid(disk.source_sr))


def _note_lost(m, disk):
    """Note the snapshots of tries that have not come about, whose xapi ended before it could note whose they are. They have stayed until now
    as the others have, and for the same reason."""
    entry = m.disk(disk.key)
    if not entry.get("snapshot_since"):
        return
    found = sr_master.lost_snapshots(m.source, disk.source_sr, disk.key, entry["snapshot_since"])
    # Each try can have left one of which xapi knows nothing.
    if len(found["nameless"]) > entry.get("given_up", 0) + 1:
        log.warning("%s: which of %s are snapshots of %s is not known: they stay", m.id, ", ".join(found["nameless"]), disk.key)
        found["nameless"] = []
    lost = sorted(set(found["nameless"] + found["unfinished"]) - {entry.get("snapshot")})
    if lost:
        log.warning("%s: snapshots of %s that xapi has lost: %s", m.id, disk.key, ", ".join(lost))
    m.note(disk.key, lost=lost, snapshot_since=None)


def drop_snapshots(m, disk):
    """Destroy the snapshots of a disk that were taken for a mirror of ours. One that somebody else took meanwhile is his, and only
    loses the claim, which xapi has copied to it."""
    _note_lost(m, disk)
    api, entry = m.source.xenapi.VDI, m.disk(disk.key)
    known = [uuid for uuid in entry.get("lost", []) + [entry.get("snapshot")] if uuid]
    for uuid in known:
        _find_again(m, disk, uuid)
    found_again = {Records(m.source).ref("VDI", uuid) for uuid in known} - {None}   # which may no longer say of which disk they are
    for ref in sorted(set(api.get_snapshots(m.source_vdi(disk))) | found_again):
        record = api.get_record(ref)
        if record["uuid"] in known or m.id in record["other_config"].get(smapi.MIRROR_MARK, "").split("/"):
            api.destroy(ref)
        else:
            claim.unmark_vdi(m.source, record["uuid"], m.id)
    m.note(disk.key, snapshot=None, lost=[])


# What ends the synchronising of a disk, in this order; each is idempotent. The mover first: when its sockets close, a tapdisk that
# waits for the mirror goes on at once.
_END = (("mover", _end_mover), ("mirror", _detach), ("copy", _close))
_STOP = _END + (("snapshots", drop_snapshots),)


def _sm(m, disk, command, vdi_uuid, args=(), timeout=SM_TIMEOUT):
    """One of MirrorSR's commands for a VDI of the disk's SR. Raises SmFault."""
    return driver.ask(m.source, disk.source_sr, command, vdi_uuid, args, timeout)
