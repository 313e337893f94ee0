# SPDX-License-Identifier: LGPL-2.1-only
"""Bringing the disks into sync, one after another, smallest first; those that are in sync stay
mirrored meanwhile.

A mirror that breaks is not mended but made anew, by `clear_broken` and then `synchronise` again: a
new mover, a new snapshot, and at the destination a new tapdisk. Nothing that the dead ones knew is
needed: the copier compares all of the disk, and sends what differs. What the mover before has
verified, and can be trusted, need not be compared again (verified_before.py).

Every snapshot stays until the VM has moved, or the migration is taken back (snapshots.py).
"""

import functools
import logging
import time
from typing import TYPE_CHECKING, Callable, List, Sequence, Tuple

from storage_motion import waiting
from storage_motion.errors import CopyFailed, MirrorBroken, SmFault, TimedOut, VmNotRunning
from storage_motion.migration import durable, mirror_health, snapshots, unplugged_disks
from storage_motion.migration.mover_handle import MoverHandle
from storage_motion.migration.phases import block_tracking, copying, receive, sharable_disks

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

SNAPSHOT_TIMEOUT = 180.0
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
            mirror_health.watch(m)
            raise


def _synchronise(m: "Migration", disk: "Disk") -> None:
    state = m.disk(disk.key)["state"]
    if state == "in-sync":
        return
    if state != "copying":
        # Each of these may take seconds: whoever cancels does not wait for more than one.
        m.pulse()
        mover = m.mover(disk.key)
        # Before another mirror begins: its writes are not in the file of the mover before.
        before = m.disk(disk.key).get("verified_windows")
        m.note(disk.key, mover=mover.start(disk.size).to_json(), verified_windows=None)
        m.pulse()
        copied_from = _mirror(m, disk, mover) if m.plan.mirrors(disk) else disk.key
        m.pulse()
        copying.begin(m, disk, mover, copied_from, before)
    copying.await_end(m, disk)
    if m.plan.keeps_closed(disk):
        unplugged_disks.keep_copying(m, disk)
    copying.close(m, disk)
    if m.plan.keeps_closed(disk):
        unplugged_disks.keep_closed(m, disk)
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


def clear_broken(m: "Migration") -> None:
    """Take away what is broken, at both ends, so that `synchronise` may begin it anew. What is
    sound goes on, a copy included.

    Raises VmNotRunning, and whatever the steps raise; it may be called again then."""
    closed = _await_closed(m)
    state = m.source.xenapi.VM.get_power_state(m.vm())
    if m.plan.live and state not in RUNNING:
        raise VmNotRunning(m.plan.vm, state)
    broken = [
        disk
        for disk in m.plan.disks
        if closed
        and _may_be_another_now(m, disk)
        or m.disk(disk.key).get("kept") == unplugged_disks.CLOSED
        and unplugged_disks.may_have_been_opened(m, disk)
        or not mirror_health.is_sound(m, disk)
    ]
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
        receive.reopen(m, broken)


def _may_be_another_now(m: "Migration", disk: "Disk") -> bool:
    """Of a disk that the guest has closed, and opens again: whether somebody may have written to
    it meanwhile, of which no mirror tells. xapi lets nobody, unless it is marked as sharable."""
    return m.plan.uses(disk) and not m.plan.mirrors(disk) and disk.sharable


def _await_closed(m: "Migration") -> bool:
    """Of a guest that is about to close its disks: until it has. What is made anew before that
    would break at once. Whether it was about to."""
    if not m.guest_closes():
        return False

    def closed() -> bool:
        m.pulse()
        return not mirror_health.any_mirrors(m)

    try:
        waiting.until(closed, CLOSE_BOUND, "VM %s to close its disks" % m.plan.vm)
    except TimedOut as error:
        log.warning("%s: %s", m.id, error)  # somebody has stopped it, such as another's hook
    m.closed()
    return True


def _detach(m: "Migration", disk: "Disk") -> None:
    if m.disk(disk.key).get("mirror"):
        copying.ask(m, disk, "vdi_mirror_stop", disk.key)
        m.note(disk.key, mirror=False)


def _mirror(m: "Migration", disk: "Disk", mover: MoverHandle) -> str:
    """Snapshot the disk and mirror it, in one step. Returns the UUID of the snapshot."""
    block_tracking.require_disabled(m, disk)
    sharable_disks.take_off(m, disk)  # of others `require_off` is to see it
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
            snapshot: str = copying.ask(
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
                fault.fault == copying.NOT_ACTIVE
                and time.monotonic() < end
                and m.source.xenapi.VM.get_power_state(m.vm()) in RUNNING
            )
            if not reboots and fault.fault in copying.PASSING:
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
        lambda: snapshots.find_again(m, disk, snapshot),
        lambda: snapshots.forgotten(m, snapshot),
        "the snapshot of VDI %s" % disk.key,
    )
    return snapshot


# What ends the synchronising of a disk, in this order; each is idempotent. The mover first: when
# its sockets close, a tapdisk that waits for the mirror goes on at once.
_END: Tuple[Step, ...] = (
    ("mover", copying.end_mover),
    ("mirror", _detach),
    ("copy", copying.close),
    ("lock", unplugged_disks.let_go),
)
_STOP = _END + (("snapshots", snapshots.drop),)
