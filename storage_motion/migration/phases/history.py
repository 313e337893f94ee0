# SPDX-License-Identifier: LGPL-2.1-only
"""The disks of the VM's snapshots, sent before its own: each behind the one that it is based on, as
a clone of that, so that only what differs goes over, and the chain arrives as a chain.

Nobody writes to them, so they need no mirror. Each is copied and verified as the disk of a halted
VM is, and then kept at the destination: its gate opened, and still nobody's but ours, as xapi does
not manage it (xapi/managed.py). What breaks is made anew from its begin.
"""

from typing import TYPE_CHECKING, Callable, List, Optional

from storage_motion import waiting
from storage_motion.errors import Cancelled, NotCleanedUp
from storage_motion.migration.phases import adopt, copying, receive
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

WAITING, KEPT = "waiting", receive.KEPT  # states of such a disk, beside those of any that is copied


def send(m: "Migration") -> None:
    """Send all that are not kept yet. Raises CopyFailed, MoverFailed, SmFault or Cancelled.

    While the destination keeps one, and makes the next one, the source closes it, and opens the
    next one: most of what a snapshot takes are short programs of dom0, on two hosts."""
    left = [disk for disk in m.plan.history if m.disk(disk.key)["state"] != KEPT]
    following: List[Optional["Disk"]] = [*left[1:], None]
    source = _turn(m, None, left[0]) if left else None
    for disk, then in zip(left, following):
        m.pulse()
        _copy(m, disk, source)
        source = _turn(m, disk, then)


def _copy(m: "Migration", disk: "Disk", source: Optional[copying.Source]) -> None:
    mover = m.mover(disk.key)
    m.note(disk.key, mover=mover.start(disk.size).to_json())
    m.pulse()
    copying.begin(m, disk, mover, disk.key, source=source)
    copying.await_end(m, disk)
    m.pulse()


def _turn(
    m: "Migration", copied: Optional["Disk"], following: Optional["Disk"]
) -> Optional[copying.Source]:
    """Be done with a disk that was copied, and ready for the one that follows, at both ends at
    once. What that one is copied from."""

    def at_source() -> Optional[copying.Source]:
        if copied:
            copying.close(m, copied)
        return following and copying.open_source(m, following, following.key, _heed_cancel)

    def at_destination() -> None:
        if copied:
            m.mover(copied.key).finish(False)  # the gate opens only for what is verified
            copying.end_mover(m, copied, "exit")
            m.note(copied.key, mover=None)
            receive.keep(m, [copied])
            m.note(copied.key, state=KEPT)
        if following:
            receive.add(m, [following])

    works: List[Callable[[], Optional[copying.Source]]] = [at_source, at_destination]
    return waiting.at_once(lambda work: work(), works)[0]


def _heed_cancel(m: "Migration") -> None:
    """For one of two threads: the other one reports."""
    if m.cancel_asked():
        raise Cancelled(m.id)


def clear_broken(m: "Migration") -> None:
    """Take away what was under way, so that `send` begins it anew; what is kept stays."""
    for disk in m.plan.history:
        entry = m.disk(disk.key)
        if entry["state"] in (WAITING, KEPT) and entry.get("mover") is None:
            if copying.is_open(m, disk):
                copying.close(m, disk)
            continue
        _end(m, disk)
        m.note(disk.key, state=WAITING, mover=None, given_up=entry.get("given_up", 0) + 1)


def stop(m: "Migration") -> None:
    """End what is under way, and have the destination take everything away again."""
    for disk in m.plan.history:
        with m.tolerated("copy of %s" % disk.key):
            _end(m, disk)
            m.note(disk.key, mover=None)
    receive.abort(m)


def _end(m: "Migration", disk: "Disk") -> None:
    copying.end_mover(m, disk)
    copying.close(m, disk)


def adopt_within(m: "Migration") -> None:
    """Give the snapshots their new disks, within a pool: xapi's records of them stay. Behind the
    point of no return; idempotent."""
    if m.plan.cross_pool:
        return
    for disk in m.plan.history:
        vm = Records(m.source).ref("VM", disk.snapshot)
        # else somebody has destroyed it since, or the image of its memory: the old one goes, too
        if vm and not adopt.is_taken_away(m, disk):
            adopt.replace(m, vm, disk, m.destination_vdi(disk))


def require_kept(m: "Migration", disk: "Disk") -> None:
    """Raises NotCleanedUp unless a disk was verified at the destination, and is kept there: without
    that the source is the only true copy."""
    if m.disk(disk.key)["state"] != KEPT:
        raise NotCleanedUp("VDI %s was not verified at the destination" % disk.key)
