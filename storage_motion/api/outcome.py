# SPDX-License-Identifier: LGPL-2.1-only
"""How a migration of this host ends, for who waits for it: its last status, or the error that has
ended it."""

import time
from typing import TYPE_CHECKING, Any, Dict

from storage_motion.api import dead_worker, status
from storage_motion.api.other_hosts import RemoteFailure
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal

if TYPE_CHECKING:
    import XenAPI

POLL = 0.5


def wait(session: "XenAPI.Session", found: str) -> Dict[str, Any]:
    """Wait for a migration of this host to end, also by the worker that follows one that has died.
    Its final status; raises its error, or WorkerDied."""
    worker_watch = dead_worker.DeadWorkerWatch()
    while True:
        entry = Journal.load(found)
        if entry.entry["state"] != journal.RUNNING:
            return final(status.of(entry.entry))
        see_to_it(worker_watch, status.worker_alive(entry.entry), entry.entry)
        time.sleep(POLL)


def see_to_it(
    worker_watch: dead_worker.DeadWorkerWatch, driven: bool, entry: Dict[str, Any]
) -> None:
    """Wait on for a migration that has not ended. Raises what has stopped it, or WorkerDied."""
    why = None if driven else status.stopped(entry)
    if why:
        raise RemoteFailure(why)
    worker_watch.look(driven, entry["migration"], str(entry["phase"]))


def final(answer: Dict[str, Any]) -> Dict[str, Any]:
    """The last status of a migration that has ended; raises its error as RemoteFailure."""
    if answer["error"]:
        raise RemoteFailure(answer["error"])
    return answer
