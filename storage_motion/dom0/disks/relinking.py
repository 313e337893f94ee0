"""SM's own `relinking` on a disk, and whether anybody will take it away.

SM's collector tags the leaves of an image that it merges, relinks them, and takes the tag away from
those that it finds then. After an online merge below a live QCOW2 leaf (tap-ctl commit) it may not
find the leaf any more, and the tag stays (cleanup.py of XCP-ng 3.2.12-21, _tagChildrenForRelink,
_reloadChildren; facts: xcp-ng-8.3, 5): SM activates no such disk again.

From before it tags until it has taken the tags away a collector holds the lock `gc_active` of the
SR, on the SR's master, and it takes that lock with the SR's lock held (cleanup.py, LockActive). So,
with the SR's lock held there, a tag that is there while
`gc_active` is free is nobody's; and no collector that is about to begin is turned away by our
looking.
"""
from storage_motion.dom0 import stock_sm
from storage_motion.dom0.disks import pauses
from storage_motion.dom0.smapi import BOLT_KEY

SM_MARK = "True"            # what SM writes; ours has other values
COLLECTOR = "gc_active"
NONE, LEFT, UNKNOWN = "none", "left", "unknown"

Lock = stock_sm.module("core.lock").Lock


def state(disk):
    """On the SR's master: NONE, if SM's tag is not on a disk; LEFT, if nobody will take it away;
    UNKNOWN, while a collector is at work, or somebody else at the SR."""
    if disk.sm_config().get(BOLT_KEY) != SM_MARK:
        return NONE
    with pauses.sr_locked(disk.sr) as held:
        if not held:
            return UNKNOWN
        lock = Lock(COLLECTOR, disk.sr.uuid)
        if not lock.acquireNoblock():
            return UNKNOWN
        try:
            return LEFT if disk.sm_config().get(BOLT_KEY) == SM_MARK else NONE
        finally:
            lock.release()
