# SPDX-License-Identifier: LGPL-2.1-only
"""What protects a VM is on disk before the step that it protects: xapi's databases are synced at
these points, and looked at afterwards.

    point                          whose database       else a crash of that xapi, in the five minutes until it writes by itself,
    the disks receive              the destination's    forgets the disks that are being filled, and their gates
    a disk is snapshotted          the source's         forgets what is copied, and leaves an image that no VDI names
    before xenopsd is asked        both                 unlocks the source:  the VM could be started on a stale disk, by HA as well;
                                                        forgets the VM that arrives, and shuts it down
    a gate is shut again           the destination's    opens it, when the source's disk is free already
    a VM has its old disks again   its pool's           names the new ones, which are destroyed next (within a pool)
    a VM is taken out again        the destination's    brings that VM back, when its disks are gone and nobody looks for it any more
    the VM has been taken          the destination's    forgets that VM, or where it is, when the source is deleted
    the source is cleaned up       the source's         brings back records of what is gone
    it is ended, or taken back     both                 brings back marks and blocks, which nobody would take away; forgets that HA is
                                                        to protect the VM

What is found forgotten is made again, up to the suspend of the guest by the phases themselves
(docs/reliability.md has the table).

The model of the cut-over (tests/unit/switch/test_cutover_syncs.py) finds each of them needed, but
for the first two, which keep a migration alive and its source tidy, and the last one at the
destination: blocked operations are not in the model, nor is HA. None lies between the suspend of the guest and
its resume.
"""  # noqa: E501

import logging
from typing import TYPE_CHECKING, Callable, Iterable, List

from storage_motion import waiting
from storage_motion.errors import NotDurable
from storage_motion.xapi import database

if TYPE_CHECKING:
    import XenAPI

TRIES = 3  # a xapi that is restarted again and again

log = logging.getLogger("sxm")


def sync(*sessions: "XenAPI.Session") -> None:
    """Sync the databases of the pools of these sessions, which may be one. Raises NotDurable."""
    waiting.at_once(database.sync, {id(session): session for session in sessions}.values())


def keep(
    sessions: Iterable["XenAPI.Session"],
    make: Callable[[], None],
    lacking: Callable[[], List[str]],
    what: str,
) -> None:
    """`make()`, sync, and see that it is there still: `lacking()` answers a list of what is not, in
    words. Raises NotDurable.

    Who looks only before the sync may have had written down what came back from an older
    database."""
    for _ in range(TRIES):
        make()
        sync(*sessions)
        missing = lacking()
        if not missing:
            return
        log.warning("%s: not there any more after a sync: %s", what, "; ".join(missing))
    raise NotDurable("%s: xapi has forgotten it %d times: %s" % (what, TRIES, "; ".join(missing)))
