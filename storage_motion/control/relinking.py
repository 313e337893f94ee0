"""A disk that SM's collector has left tagged as `relinking`, which SM activates no more: found
before anything begins."""
import time

from storage_motion.control import sr_master
from storage_motion.dom0.smapi import BOLT_KEY

SM_MARK = "True"            # what SM writes into the key (dom0/disks/relinking.py)
LEFT, UNKNOWN = "left", "unknown"
# Seconds for a collector that is just at it; one that goes on is waited for in the move (bar.py).
PATIENCE = 10.0
POLL = 1.0
WRONG = ("SM has left %s=%s in its sm_config, so that it cannot be activated again, and no "
         "collector is at work that would take it away" % (BOLT_KEY, SM_MARK))
RIGHT = "take the key away, and migrate again: docs/operations.md, `relinking`"


def require(session, source, plan, problems):
    """Look at all disks of the VM: each has to be activated again. `source`: Records of its pool.
    What is wrong goes to `problems`."""
    end = time.monotonic() + PATIENCE
    for uuid in [disk.key for disk in plan.disks] + list(plan.staying):
        _, vdi = source.by_uuid("VDI", uuid)
        marked = vdi and vdi["sm_config"].get(BOLT_KEY) == SM_MARK
        if marked and _is_left(session, source, vdi, end):
            problems.add("vdi:" + uuid, WRONG, RIGHT)


def _is_left(session, source, vdi, end):
    sr = source.of("SR", vdi["SR"])["uuid"]
    while True:
        found = sr_master.relinking(session, sr, vdi["uuid"])
        if found != UNKNOWN or time.monotonic() > end:
            return found == LEFT
        time.sleep(POLL)
