# SPDX-License-Identifier: LGPL-2.1-only
"""The disks that nobody uses: those of a halted VM, and those that a running one has not plugged.
They are kept closed from before they are copied until they are handed over, which is before the VM
moves; those of a VM that is copied (phases/copied_vm.py) to the end, and then they are its own
again.

xapi lets nobody forbid a VBD.plug, and forgets, with its database, that a VM is not to be started.
Who opened one behind its copy, wrote and closed it would leave no trace, and the destination would
lack that. While it is copied SM's own tag of our tapdisk
keeps writers away. From then on SM's two marks do (sm/marks.py): a plug waits for them, fails after
SM's two minutes, and nothing is lost. One mark is there before the copy is closed, so there is no
moment between. Where both have gone, as to a master that plugs the SR beside a coalesce, somebody
may have been in: the disk is copied anew.
"""

from typing import TYPE_CHECKING

from storage_motion import waiting
from storage_motion.errors import MirrorBroken
from storage_motion.migration import durable
from storage_motion.sm import marks
from storage_motion.switch import disk_switch, gate, source_lock

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

# In the journal's entry of a disk, `kept`: what keeps it closed; not there, or None: nothing.
COPYING, CLOSED = "copying", "closed"


def keep_copying(m: "Migration", disk: "Disk") -> None:
    """The disk is open to be copied: the first mark, durably; and once more before it is closed,
    in case SM has relinked it meanwhile. Raises TimedOut, NotDurable."""
    m.note(disk.key, kept=COPYING)
    durable.keep(
        (m.source,),
        lambda: source_lock.begin_when_relinked(m, disk),
        lambda: [] if source_lock.is_begun(m, disk) else ["the lock of VDI %s" % disk.key],
        "what keeps VDI %s from being opened" % disk.key,
    )


def keep_closed(m: "Migration", disk: "Disk") -> None:
    """The copy is there, and has been closed just now: both marks. Raises as `require_kept`."""
    require_kept(m, disk)
    m.note(disk.key, kept=CLOSED)
    put_back(m, disk)


def put_back(m: "Migration", disk: "Disk") -> None:
    """Put back what of it the journal says was there."""
    kept = m.disk(disk.key).get("kept")
    if kept:
        source_lock.begin_again(m, disk)
    if kept == CLOSED:
        gate.put(m.source.xenapi.VDI, m.source_vdi(disk), marks.PAUSED, marks.of_source(m.id))


def may_have_been_opened(m: "Migration", disk: "Disk") -> bool:
    """Whether neither mark is there any more, or it is open."""
    config = m.source.xenapi.VDI.get_sm_config(m.source_vdi(disk))
    return marks.of_source(m.id) not in config.values() or not gate.is_free(config)


def require_kept(m: "Migration", disk: "Disk") -> None:
    """Raises MirrorBroken if it may have been opened since it was copied."""
    if may_have_been_opened(m, disk):
        raise MirrorBroken(disk.key, "nobody was to open it, and it may have been opened since")


def let_go(m: "Migration", disk: "Disk") -> None:
    """Take the marks away. Idempotent."""
    if m.disk(disk.key).get("kept"):
        gate.remove(m.source, m.source_vdi(disk), marks.of_source(m.id))
        source_lock.take_away(m, disk)
        m.note(disk.key, kept=None)


def hand_over(m: "Migration") -> None:
    """Open their gates at the destination, each after its source is locked, while the VM is still
    at the source. Raises MirrorBroken, MoverFailed, TimedOut."""
    for disk in m.plan.disks:
        if not m.plan.keeps_closed(disk):
            continue
        if not disk_switch.has_begun(m, disk):
            require_kept(m, disk)
            put_back(m, disk)
        one = disk_switch.of_disk(m, disk)
        waiting.until(one.advance, gate.SETTLE_TIMEOUT, "hand-over of %s" % disk.key)
