# SPDX-License-Identifier: LGPL-2.1-only
"""What the plugin does for the administrator with a migration that has begun: status, cancel,
resume, limit, recover. Each takes (session, {name: string})."""

from typing import TYPE_CHECKING, Any, Dict, Optional

from storage_motion import waiting
from storage_motion.api import arguments, dead_worker, lookup, outcome, report, status, vm_now
from storage_motion.api.arguments import Problems
from storage_motion.api.other_hosts import RemoteFailure
from storage_motion.errors import (
    BadArguments,
    MotionError,
    NothingToResume,
    NotRunning,
    TooLate,
    WorkerDied,
)
from storage_motion.journal import journal, late_word
from storage_motion.journal.journal import Journal
from storage_motion.migration import bandwidth, migration, recovery, resume

if TYPE_CHECKING:
    import XenAPI

# seconds for all to be taken back, also by the worker that follows one that has died
CANCEL_TIMEOUT = 180.0


def status_of(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """The status of a migration of this pool, wherever its worker runs; of one that has failed or
    was cancelled with `vm_now`: where its VM is."""

    def answer(entry: Journal) -> Dict[str, Any]:
        return dict(status.of(entry.entry), vm_now=vm_now.of(entry.entry, session))

    return lookup.where_known(session, given, "status", answer)


def report_of(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """All that a report of a migration of this pool needs."""
    return lookup.where_known(
        session, given, "report", lambda entry: report.of(entry.entry, session)
    )


def cancel(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Stop a migration and take it back, if that is still possible. Answers when it has ended;
    raises TooLate."""
    return lookup.where_known(session, given, "cancel", _cancel)


def resume_now(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Have a migration that is broken, and waits for its next try or has used up all of them, try
    at once. Raises NothingToResume."""
    return lookup.where_known(session, given, "resume", _resume)


def limit(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Change the bandwidth of a migration that runs. Raises BadArguments, NotRunning."""
    problems = Problems()
    bytes_per_second = arguments.bandwidth(given.get("bandwidth", ""), problems)
    problems.raise_any()

    def change(entry: Journal) -> Dict[str, Any]:
        found = entry.entry["migration"]
        if entry.entry["state"] != journal.RUNNING:
            raise NotRunning(found, entry.entry["state"])
        bandwidth.change(found, bytes_per_second)
        ended = late_word.take_back(found, bandwidth.FILE)
        if ended:
            raise NotRunning(found, ended)
        return {"migration": found, "bandwidth": bytes_per_second}

    return lookup.where_known(session, given, "limit", change, bandwidth=given["bandwidth"])


def recover(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Bring interrupted migrations of this host to an end: all, or the one that is meant by
    `migration` or `vm`."""
    for name in ("migration", "vm"):
        if given.get(name) == "":
            raise BadArguments(
                "%s: is empty; leave it out to recover all migrations of this host" % name
            )
    if "vm" in given:
        found = lookup.meant(session, dict(given, local="true"))
        given = dict(given, migration=found)
    return recovery.recover(session, given)


def _resume(entry: Journal) -> Dict[str, Any]:
    found = entry.entry["migration"]
    if entry.entry["state"] != journal.RUNNING or not entry.entry.get("broken"):
        raise NothingToResume(found, entry.entry["state"])
    _check_worker(entry)
    resume.ask(found)
    ended = late_word.take_back(found, resume.RESUME)
    if ended:
        raise NothingToResume(found, ended)
    return {"migration": found, "state": entry.entry["state"], "broken": entry.entry["broken"]}


def _cancel(entry: Journal) -> Dict[str, Any]:
    found = entry.entry["migration"]
    if entry.entry["state"] == journal.RUNNING:
        if entry.entry["committed"]:
            raise TooLate(found, str(entry.entry["phase"]))
        migration.ask_to_cancel(found)
        late_word.take_back(found, migration.CANCEL)  # which is told below
    worker_watch = dead_worker.DeadWorkerWatch()

    def ended() -> Optional[Journal]:
        latest = Journal.load(found)
        if latest.entry["state"] != journal.RUNNING:
            return latest
        if latest.entry["committed"]:
            raise TooLate(found, str(latest.entry["phase"]))
        outcome.see_to_it(worker_watch, status.worker_alive(latest.entry), latest.entry)
        return None

    last = waiting.until(ended, CANCEL_TIMEOUT, "cancel of %s" % found, outcome.POLL)
    if last.entry["state"] == journal.SUCCEEDED:
        raise TooLate(found, "end")
    return {"migration": found, "state": last.entry["state"]}


def _check_worker(entry: Journal) -> None:
    """Raise WorkerDied if nobody drives the migration any more. Whoever died may have ended it the
    moment before."""
    if status.worker_alive(entry.entry):
        return
    latest = Journal.load(entry.entry["migration"])
    if latest.entry["state"] == journal.RUNNING:
        raise _left_alone(latest.entry)


def _left_alone(entry: Dict[str, Any]) -> MotionError:
    """The error of a migration that nobody drives, and that has not ended."""
    why = status.stopped(entry)
    return RemoteFailure(why) if why else WorkerDied(entry["migration"], str(entry["phase"]))
