# SPDX-License-Identifier: LGPL-2.1-only
"""The disks that this host has handed over, or is about to, by its own journals: nobody is to start
a VM from them any more.

The first lock on them are the marks in their sm_config (switch/gate.py, source_lock.py). Those are
in xapi's database, which a crash takes back by minutes; the journal is on disk before each step.
"""

from typing import Any, Dict, Set

from storage_motion.journal.steps import LOCKED, LOCKING, OPEN, OPENING
from storage_motion.plan.plan import Plan

# From the moment in which the gate is about to be led past the source.
STEPS = (LOCKING, LOCKED, OPENING, OPEN)


def locators(entry: Dict[str, Any]) -> Set[str]:
    """Of the journal's content of a migration's source: the locators ("SR uuid/location") of those
    disks, a set.

    For ever, if the migration went well: a disk that was verified elsewhere and removed is
    nobody's. One that was taken back is at ATTACHED again. A copy hands none over: the VM stays on
    its disks."""
    plan = Plan.from_json(entry["plan"])
    if plan.copy:
        return set()
    return {
        "%s/%s" % (disk.source_sr, disk.location)
        for disk in plan.disks
        if entry["committed"] or entry["disks"][disk.key].get("gate") in STEPS
    }
