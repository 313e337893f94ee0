# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that SM's collector has left tagged as `relinking`, which SM activates no more: found
before anything begins."""

import time
from typing import TYPE_CHECKING, Any, Dict

from storage_motion.plan.plan import Plan
from storage_motion.sm import marks, sr_master
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    import XenAPI

    from storage_motion.plan.protocols import Problems

LEFT, UNKNOWN = "left", "unknown"
# Seconds for a collector that is just at it; one that goes on is waited for in the move
# (switch/source_lock.py).
PATIENCE = 10.0
POLL = 1.0
WRONG = (
    "SM has left %s=%s in its sm_config, so that it cannot be activated again, and no "
    "collector is at work that would take it away" % (marks.RELINKING, marks.RELINKED_BY_SM)
)
RIGHT = "take the key away, and migrate again: docs/operations.md, `relinking`"


def require(session: "XenAPI.Session", source: Records, plan: Plan, problems: "Problems") -> None:
    """Look at all disks of the VM and of its snapshots: each has to be activated again. `source`:
    Records of its pool. What is wrong goes to `problems`."""
    end = time.monotonic() + PATIENCE
    for uuid in [disk.key for disk in plan.sent] + list(plan.staying):
        _, vdi = source.by_uuid("VDI", uuid)
        marked = vdi and vdi["sm_config"].get(marks.RELINKING) == marks.RELINKED_BY_SM
        if marked and _is_left(session, source, vdi, end):
            problems.add("vdi:" + uuid, WRONG, RIGHT)


def _is_left(session: "XenAPI.Session", source: Records, vdi: Dict[str, Any], end: float) -> bool:
    sr = source.of("SR", vdi["SR"])["uuid"]
    while True:
        found = sr_master.relinking(session, sr, vdi["uuid"])
        if found != UNKNOWN or time.monotonic() > end:
            return found == LEFT
        time.sleep(POLL)
