# SPDX-License-Identifier: LGPL-2.1-only
"""The worker: the process that drives one migration, on the source host.

    python3 -m storage_motion.migration.worker ID

Its journal, with the plan, is there already; the password of the other pool is among the secrets.
If the worker before it has died (sxm-worker@.service starts another one then), it recovers the
migration; if somebody else is at that, it sees to it that he comes to an end.
"""

import functools
import logging
import os
import sys
from typing import TYPE_CHECKING, Optional, Tuple

from storage_motion import log_lines
from storage_motion.dom0.launch import Process
from storage_motion.errors import JournalNotWritten, NoSuchMigration
from storage_motion.journal import journal, secret_files
from storage_motion.journal.journal import Journal
from storage_motion.migration import driving_sessions, migration, progress, recovery, run
from storage_motion.plan import plan
from storage_motion.xapi import session

if TYPE_CHECKING:
    import XenAPI

log = logging.getLogger("sxm")


def main(migration_id: str) -> int:
    """Drive the migration to one of its ends. Returns the exit status: 0 if it is there, or there
    is none."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(log_lines.Formatter("worker", migration_id))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        entry = _take(migration_id)
        status = _drive(entry) if entry else recovery.until_ended(migration_id)
        # whatever is left: nobody comes after this one by himself
        secret_files.forget(migration_id)
        return status
    except JournalNotWritten as error:
        log.error("%s: %s", migration_id, error)
        progress.tell_stopped(migration_id, error.failure())
        return 1


def _take(migration_id: str) -> Optional[Journal]:
    """The journal, which is this process's from now on. None if it was another's before: two must
    never drive one migration."""
    with journal.one_at_a_time():
        try:
            entry = Journal.load(migration_id)
        except NoSuchMigration as error:
            log.error("too late: %s", error)
            return None
        if entry.entry["state"] != journal.RUNNING or entry.entry["worker"] is not None:
            log.error(
                "%s: it is %s, and process %s had it",
                migration_id,
                entry.entry["state"],
                entry.entry["worker"],
            )
            return None
        process = Process.of(os.getpid())
        assert process is not None
        entry.write(worker=process.to_json())
        return entry


def _drive(entry: Journal) -> int:
    try:
        _migrate(entry)
        return 0
    except JournalNotWritten:
        raise
    except Exception as error:
        # Nothing was begun, or nobody can be reached to take it back: the journal tells what there
        # is.
        log.exception("%s: the worker gives up", entry.entry["migration"])
        entry.write(
            state=journal.FAILED,
            error=migration.failure_of(error),
            left=entry.entry["left"] + ["the worker gave up"],
        )
        return 1


def _migrate(entry: Journal) -> str:
    migration_id: str = entry.entry["migration"]
    source = session.patiently(lambda: session.local(session.CALL_TIMEOUT))
    try:
        driving_sessions.begin(migration_id, driving_sessions.SOURCE, source)
        planned = plan.Plan.from_json(entry.entry["plan"])
        task = migration.task_of(source, entry.entry, planned)
        try:
            entry.write(task=task.uuid)
            destination, hidden = _destination(entry, planned, source)
            try:
                if destination is not source:
                    side = driving_sessions.DESTINATION
                    driving_sessions.begin(migration_id, side, destination)
                m = migration.Migration(entry, planned, source, destination, task, hidden)
                return run.forward(m)
            finally:
                if destination is not source:
                    session.logout(destination)
        except Exception as error:
            task.finish("failure", migration.failure_of(error))
            raise
    finally:
        session.logout(source)


def _destination(
    entry: Journal, planned: plan.Plan, source: "XenAPI.Session"
) -> Tuple["XenAPI.Session", Tuple[str, ...]]:
    """(session with the destination pool, the secrets that no error may show)."""
    if not planned.cross_pool:
        return source, ()
    remote = secret_files.get(entry.entry["migration"], "remote")
    login = functools.partial(
        session.remote, planned.master, remote["username"], remote["password"], session.CALL_TIMEOUT
    )
    return session.patiently(login), (remote["password"],)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
