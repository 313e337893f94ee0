# SPDX-License-Identifier: LGPL-2.1-only
"""SM's own `relinking` on a disk, and whether anybody will take it away.

SM's collector tags the leaves of an image that it merges, relinks them, and takes the tag away from
those that it finds then. After an online merge below a live QCOW2 leaf (tap-ctl commit) it may not
find the leaf any more, and the tag stays (cleanup.py of XCP-ng 3.2.12-21, _tagChildrenForRelink,
_reloadChildren; docs/facts/xcp-ng-8.3.md, 5): SM activates no such disk again.

From before it tags until it has taken the tags away a collector holds the lock `gc_active` of the
SR, on the SR's master, and it takes that lock with the SR's lock held (cleanup.py, LockActive). So,
with the SR's lock held there, a tag that is there while
`gc_active` is free is nobody's; and no collector that is about to begin is turned away by our
looking.
"""

from typing import Callable

from storage_motion.sm import marks, stock_sm
from storage_motion.sm.disks import pauses
from storage_motion.sm.disks.disk import Disk

COLLECTOR = "gc_active"
NONE, LEFT, UNKNOWN = "none", "left", "unknown"

Lock = stock_sm.module("core.lock").Lock


def state(disk: Disk) -> str:
    """On the SR's master: NONE, if SM's tag is not on a disk; LEFT, if nobody will take it away;
    UNKNOWN, while a collector is at work, or somebody else at the SR."""
    return _look(disk, lambda: None)


def end(disk: Disk) -> str:
    """The same; a tag that was left is taken away."""
    return _look(disk, lambda: disk.api.remove_from_sm_config(disk.ref, marks.RELINKING))


def _look(disk: Disk, when_left: Callable[[], None]) -> str:
    if disk.sm_config().get(marks.RELINKING) != marks.RELINKED_BY_SM:
        return NONE
    with pauses.sr_locked(disk.sr) as held:
        if not held:
            return UNKNOWN
        lock = Lock(COLLECTOR, disk.sr.uuid)
        if not lock.acquireNoblock():
            return UNKNOWN
        try:
            if disk.sm_config().get(marks.RELINKING) != marks.RELINKED_BY_SM:
                return NONE
            when_left()
            return LEFT
        finally:
            lock.release()
