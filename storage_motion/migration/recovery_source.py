# SPDX-License-Identifier: LGPL-2.1-only
"""Recovery at the source: an interrupted migration is taken over, and led on or back as its journal
says.

Nothing is decided that could leave two copies of the VM running: what needs the other pool waits
for it, and Undecided (run.py) leaves everything as it is."""

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Dict, NoReturn, Optional, Sequence, Tuple, Union

from storage_motion.dom0.launch import Process
from storage_motion.errors import (
    BadCredentials,
    Cancelled,
    DestinationLost,
    HostIsSlave,
    JournalNotWritten,
    MotionError,
    Unreachable,
    Waits,
    WorkerDied,
)
from storage_motion.journal import journal, secret_files, xenopsd_export
from storage_motion.journal.journal import Journal
from storage_motion.migration import driving_sessions, lost_destination, recovery_decision, run
from storage_motion.migration.migration import Migration, task_of
from storage_motion.migration.phases import claim, shut_gates
from storage_motion.plan.plan import Plan
from storage_motion.sm import smapi
from storage_motion.xapi import session as sessions
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    import XenAPI

    from storage_motion.xapi.tasks import ProgressTask

CONNECT_TIMEOUT = 30.0  # seconds to wait for another pool's master
TRIES = 3  # of the way back: what a killed worker had asked xapi for may end only meanwhile
PAUSE = 2.0  # seconds between them


class Earlier(MotionError):
    """The error that a migration has failed with already."""

    def __init__(self, description: Sequence[str]) -> None:
        super(Earlier, self).__init__(*description[1:])
        self.code = description[0]


class Unreached:
    """In place of the session of a pool that does not answer."""

    def __init__(self, error: MotionError) -> None:
        self.error = error

    @property
    def xenapi(self) -> NoReturn:
        """Raises what connecting to the pool raised."""
        raise self.error


def recover(_: "XenAPI.Session", migration: str, given: Dict[str, str]) -> Dict[str, Any]:
    """Bring that migration to one of its ends, or answer why that has to wait; `given`: the
    arguments of `fn=recover`."""
    entry, before = _take_over(migration)
    if before:
        return before
    try:
        return _recover_taken(entry, given)
    finally:
        _let_go(entry)


def _recover_taken(entry: Journal, given: Dict[str, str]) -> Dict[str, Any]:
    migration: str = entry.entry["migration"]
    planned, direction, written_off = (
        Plan.from_json(entry.entry["plan"]),
        recovery_decision.direction_of(entry.entry),
        False,
    )
    # One of them may be the dead worker's, and would do what is undone meanwhile.
    smapi.await_commands()
    source = sessions.local(sessions.CALL_TIMEOUT)
    try:
        driving_sessions.begin(migration, driving_sessions.SOURCE, source)
        _put_back(
            Migration(
                entry,
                planned,
                source,
                Unreached(Waits("the destination")),
                _task(source, entry, planned),
            )
        )
        destination, hidden, gap = _destination(entry, planned, source, given)
        try:
            if destination is not source and gap is None:
                driving_sessions.begin(migration, driving_sessions.DESTINATION, destination)
            if lost_destination.said(given):
                _require_lost(source, planned, destination, gap)
                destination, direction, written_off = (
                    lost_destination.LostPool(),
                    recovery_decision.Direction(None, "the destination is lost, as you say"),
                    True,
                )
            elif gap is not None and not recovery_decision.stays_at_the_source(
                entry.entry, direction
            ):
                raise Waits("%s; whether the VM is there decides, so nothing is done before" % gap)
            m = Migration(
                entry,
                planned,
                source,
                destination,
                _task(source, entry, planned),
                hidden,
                written_off,
            )
            if written_off:
                lost_destination.come_back(m)
            _to_its_end(m, direction, TRIES if gap is None or written_off else 1)
        finally:
            if destination is not source and gap is None:
                driving_sessions.end(migration, driving_sessions.DESTINATION, destination)
    finally:
        driving_sessions.end(migration, driving_sessions.SOURCE, source)
    return recovery_decision.outcome(entry.entry, direction, None if written_off else gap)


def _put_back(m: Migration) -> None:
    """First of all, whatever else has to wait: nobody is to start the VM here, though xapi may have
    lost the marks that say so."""
    claim.put_back(m)
    if not m.entry["committed"]:
        shut_gates.lock_again(m)


def _require_lost(
    source: "XenAPI.Session",
    planned: Plan,
    destination: Union["XenAPI.Session", Unreached],
    gap: Optional[str],
) -> None:
    """Raise Waits if a destination that is said to be lost answers, or the source has not all of
    the VM any more."""
    if gap is None:
        raise Waits("a recovery without `lost`: the destination answers")
    if not isinstance(destination.error, Unreachable):
        raise Waits("%s; it has to be tried before it can be taken for lost" % gap)
    gone = lost_destination.missing(source, planned)
    if gone:
        raise Waits(
            "the destination, although it is said to be lost: what has been verified there is "
            "removed here already: %s" % ", ".join(gone)
        )


def _take_over(migration: str) -> Tuple[Journal, Optional[Dict[str, Any]]]:
    """(journal, None) of an interrupted migration, which is this process's now; else (journal, what
    to answer of it)."""
    with journal.one_at_a_time():
        entry = Journal.load(migration)
        if not recovery_decision.interrupted(entry.entry):
            running = entry.entry["state"] == journal.RUNNING
            if not running and not recovery_decision.driven(entry.entry):
                # which a worker that was killed behind its last note has left
                secret_files.forget_all(migration)
                xenopsd_export.forget(migration)
            return entry, {
                "outcome": recovery_decision.RUNNING if running else recovery_decision.ENDED,
                "why": "a process drives it, in phase %s" % entry.entry["phase"]
                if running
                else entry.entry["state"],
            }
        process = Process.of(os.getpid())
        assert process is not None
        entry.write(worker=process.to_json(), waits=False)
        return entry, None


def _let_go(entry: Journal) -> None:
    """Let others recover what is at no end, while this process waits to do so again."""
    if entry.entry["state"] == journal.RUNNING or entry.entry["left"]:
        with contextlib.suppress(JournalNotWritten):
            entry.write(waits=True)


def _destination(
    entry: Journal, planned: Plan, source: "XenAPI.Session", given: Dict[str, str]
) -> Tuple[Union["XenAPI.Session", Unreached], Tuple[str, ...], Optional[str]]:
    """(session of the destination pool, secrets, None), or (Unreached, (), why it cannot be
    had)."""
    if not planned.cross_pool:
        return source, (), None
    migration = entry.entry["migration"]
    try:
        if given.get("remote-username") and given.get("remote-password"):
            # Not kept: whatever comes of this, it is nowhere afterwards.
            remote = {"username": given["remote-username"], "password": given["remote-password"]}
        else:
            remote = secret_files.get(migration, "remote")
        session = sessions.remote(
            planned.master, remote["username"], remote["password"], CONNECT_TIMEOUT
        )
        sessions.logout(session)
        return (
            sessions.remote(
                planned.master, remote["username"], remote["password"], sessions.CALL_TIMEOUT
            ),
            (remote["password"],),
            None,
        )
    except FileNotFoundError:
        error: MotionError = Waits(
            "its password is not known any more: give remote-username and remote-password"
        )
    except (Unreachable, BadCredentials, HostIsSlave) as refused:
        error = refused
    return (
        Unreached(error),
        (),
        "the pool at %s cannot be used: %s" % (planned.master, " ".join(error.failure())),
    )


def _task(source: "XenAPI.Session", entry: Journal, planned: Plan) -> "ProgressTask":
    known = entry.entry["task"] and Records(source).ref("task", entry.entry["task"])
    task = task_of(source, entry.entry, planned, "recovery", known or None)
    if not known:
        entry.write(task=task.uuid)
    return task


def _to_its_end(m: Migration, direction: recovery_decision.Direction, tries: int) -> None:
    """Go in that direction; the way back again, if something was left on it that may have
    been busy."""
    error = DestinationLost(m.plan.vm) if m.lost else _why_it_ended(m)
    if direction.first:
        # the phase as well: what had failed is in `left` no more
        m.note(state=journal.RUNNING, left=[], phase=direction.first)
        run.forward(m, direction.first)
    else:
        m.note(state=journal.RUNNING, left=[])
        run.take_back(m, error)
    while (
        m.entry["left"]
        and not m.entry["committed"]
        and "undecided" not in m.entry["left"]
        and tries > 1
    ):
        tries -= 1
        time.sleep(PAUSE)
        error = _earlier(m.entry["error"])
        m.note(state=journal.RUNNING, left=[])
        run.take_back(m, error)


def _earlier(description: Sequence[str]) -> MotionError:
    """What was cancelled ends as cancelled, however often it is taken back."""
    if description[0] == Cancelled.code:
        return Cancelled(*description[1:])
    return Earlier(description)


def _why_it_ended(m: Migration) -> MotionError:
    if m.entry["error"]:
        return _earlier(m.entry["error"])
    return Cancelled(m.id) if m.cancel_asked() else WorkerDied(m.id, str(m.entry["phase"]))
