# SPDX-License-Identifier: LGPL-2.1-only
"""The SRs of a migration, brought up to date by xapi before anything is judged by its records: how
much room they have, and how much the disks hold, it knows from their last scan only.

xapi scans an SR only while nothing else is done with it, waits for that for two hours
(message_forwarding.ml, with_sr_marked; helpers.ml, retry), and forwards the call to the SR's
master. So an SR at which somebody is, is waited for, with a bound; after that it is judged as it is
known, and the plan warns of it. A scan also makes SM's garbage collector begin, as any other does.
"""

from typing import TYPE_CHECKING, Any, List, Set, Tuple

import XenAPI

from storage_motion import waiting
from storage_motion.errors import TimedOut
from storage_motion.plan.plan import Plan
from storage_motion.xapi import tasks
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.plan.protocols import Problems

PATIENCE = 60.0  # seconds for others to be done with an SR
SCAN_TIMEOUT = 300.0  # seconds for a scan: xapi may begin it anew ten times (xapi_sr.ml, scan)
POLL = 1.0
BUSY = ("OTHER_OPERATION_IN_PROGRESS", "TASK_CANCELLED", "cancelled")
NOT_SCANNED = "SR %s (%s) could not be scanned (%s): its room is judged by what xapi knows of it"
WRONG = "SR %s (%s) cannot be scanned: %s"
RIGHT = "see /var/log/SMlog on its master; `xe sr-scan` has to succeed"


def scan(source: Records, destination: Records, plan: Plan, problems: "Problems") -> List[str]:
    """Scan each SR that disks of the plan leave or go to, once. `source`, `destination`: Records,
    the same object for a move within a pool; what they have read is old afterwards.

    An SR that cannot be scanned goes to `problems`. Returns warnings: a list of sentences."""
    wanted = [(source, disk.source_sr, "vdi:" + disk.key) for disk in plan.sent]
    wanted += [(destination, disk.destination_sr, "destination-sr-uuid") for disk in plan.sent]
    seen: Set[Tuple[int, str]] = set()
    warnings: List[str] = []
    for records, uuid, argument in wanted:
        ref, sr = records.by_uuid("SR", uuid)
        assert ref is not None
        if (id(records), ref) in seen:
            continue
        seen.add((id(records), ref))
        named = (sr["uuid"], sr["name_label"])
        try:
            scan_one(records.session, ref)
        except Busy as why:
            warnings.append(NOT_SCANNED % (named + (why,)))
        except tasks.TaskFailed as failed:
            problems.add(argument, WRONG % (named + (" ".join(failed.details),)), RIGHT)
    return warnings


class Busy(Exception):
    """Others are at the SR, as the text says."""


def scan_one(session: "XenAPI.Session", sr: str) -> None:
    """Scan an SR (a ref). Raises Busy if others are at it for long; TaskFailed, if it cannot be
    scanned."""
    api = session.xenapi
    try:
        waiting.until(lambda: not api.SR.get_current_operations(sr), PATIENCE, "the SR", POLL)
    except TimedOut:
        raise Busy(", ".join(sorted(api.SR.get_current_operations(sr).values())) or "others use it")
    begun: List[str] = []

    def begin() -> str:
        begun.append(api.Async.SR.scan(sr))
        return begun[-1]

    try:
        tasks.run(session, begin, SCAN_TIMEOUT)
    except tasks.TaskFailed as failed:
        if failed.details[0] in BUSY:
            raise Busy(failed.details[0])
        raise
    except TimedOut:
        _give_up(api, begun[-1])
        raise Busy("no end within %d s" % SCAN_TIMEOUT)


def _give_up(api: Any, task: str) -> None:
    """One that waits for others is not begun any more; one that has begun comes to its end."""
    try:
        api.task.cancel(task)
    except XenAPI.Failure:
        pass  # it has ended just now, or cannot be: nobody waits for it either way
