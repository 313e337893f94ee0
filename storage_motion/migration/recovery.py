# SPDX-License-Identifier: LGPL-2.1-only
"""Recovery: every migration that was interrupted goes to one of its two ends (docs/design.md, 3).

    what the journal says                         what is done
    committed                                     forward, from the phase that it was in
    xenopsd was asked to move the VM              the move is taken up: the gates are led on while xenopsd is at it; if it
                                                  is not, where the VM is decides between forward and back
    anything before                               back

Nothing is decided that could leave two copies of the VM running: what needs the other pool waits
for it, and Undecided (migration.run) leaves everything as it is. Either can be recovered again, as
can what has been left undone.

    python3 -m storage_motion.migration.recovery

is what sxm-recover.service runs at boot. A worker that dies is started again, and recovers its
migration by `until_ended`.
"""  # noqa: E501

import contextlib
import logging
import os
import sys
import time
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import XenAPI

from storage_motion.dom0 import gate_notes, launch, root
from storage_motion.dom0.launch import Process
from storage_motion.errors import (
    BadCredentials,
    Cancelled,
    DestinationLost,
    HostIsSlave,
    JournalError,
    JournalNotWritten,
    MotionError,
    NoSuchMigration,
    Unreachable,
    Waits,
    WorkerDied,
)
from storage_motion.journal import arrival, journal, secret_files, xenopsd_export
from storage_motion.journal.journal import RECEIVING, SOURCE, Journal
from storage_motion.migration import at_destination, lost_destination
from storage_motion.migration.migration import Migration, task_of
from storage_motion.migration.phases import claim, shut_gates, table as phases
from storage_motion.plan.plan import Plan
from storage_motion.sm import smapi
from storage_motion.switch import gate, pool_lock
from storage_motion.wire.service import ORPHAN_BOUND
from storage_motion.xapi import session as sessions
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.xapi.tasks import ProgressTask

CONNECT_TIMEOUT = 30.0  # seconds to wait for another pool's master
START_TIMEOUT = 60.0  # seconds within which a worker says who it is
TRIES = 3  # of the way back: what a killed worker had asked xapi for may end only meanwhile
PAUSE = 2.0
AGAIN = 240  # times, for four hours, that what waits is looked at by itself
LONGEST_PAUSE = 60.0  # seconds between two of them; the first ones are shorter

# What has become of a migration.
MOVED, TAKEN_BACK, UNFINISHED, UNDECIDED, WAITING, RUNNING, ENDED = (
    "moved",
    "taken back",
    "unfinished",
    "undecided",
    "waiting",
    "running",
    "ended",
)

log = logging.getLogger("sxm")


class Earlier(MotionError):
    """The error that a migration has failed with already."""

    def __init__(self, description: Sequence[str]) -> None:
        super(Earlier, self).__init__(*description[1:])
        self.code = description[0]


class Direction(NamedTuple):
    """`first`: the phase to go on with, None for the way back. `why`: in words."""

    first: Optional[str]
    why: str


class Unreached:
    """In place of the session of a pool that does not answer."""

    def __init__(self, error: MotionError) -> None:
        self.error = error

    @property
    def xenapi(self) -> NoReturn:
        """Raises what connecting to the pool raised."""
        raise self.error


def recover(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """All interrupted migrations of this host, or the one of `migration`; `remote-username` and
    `remote-password` where those that were given at first are gone; `lost`: "destination", if that
    pool will never come back. {"migrations": [{"migration", "side", "outcome", "why", ...}]}"""
    wanted = given.get("migration")
    lost_destination.said(given)
    if wanted:
        journal.check_id(wanted)
    _log_to_file()
    found = []
    for side, one in ((SOURCE, _recover_source), (RECEIVING, _recover_receiving)):
        for migration in journal.all_ids(side):
            if wanted in (None, "", migration):
                answer = _safely(one, session, migration, given)
                if answer and (wanted or answer["outcome"] != ENDED):
                    found.append(
                        dict(
                            answer,
                            migration=migration,
                            side="destination" if side == RECEIVING else "source",
                        )
                    )
    if wanted and not found:
        raise NoSuchMigration(wanted)
    if not wanted:
        pool_lock.tidy()
    for answer in found:
        log.info("recovery of %(migration)s (%(side)s): %(outcome)s: %(why)s", answer)
    return {"migrations": found}


def direction_of(entry: Dict[str, Any]) -> Direction:
    """The Direction for an interrupted migration, by its journal's content."""
    phase = entry["phase"]
    if entry["committed"]:
        return Direction(
            _first_to_finish(entry), "it was past the point of no return, in phase %s" % phase
        )
    if entry["plan"]["live"] and "move" in entry["begun"] and entry.get("xenops_task"):
        return Direction("move", "xenopsd had been asked to move the VM")
    return Direction(None, "the VM had not begun to move; it was in phase %s" % phase)


def interrupted(entry: Dict[str, Any]) -> bool:
    """Whether nobody drives a migration, and it is not at one of its ends."""
    if entry["worker"] is None and entry["state"] == journal.RUNNING:
        return bool(time.time() - entry["started"] > START_TIMEOUT)
    return not _driven(entry) and bool(entry["state"] == journal.RUNNING or entry["left"])


def _driven(entry: Dict[str, Any]) -> bool:
    """Whether another process is at it. Not one that has recovered it as far as it could, and looks
    again later: whoever comes first goes on, be it that one."""
    worker = Process.from_json(entry["worker"])
    return (
        worker is not None
        and worker.pid != os.getpid()
        and worker.alive()
        and not entry.get("waits")
    )


def _first_to_finish(entry: Dict[str, Any]) -> str:
    """The first phase behind the point of no return that is not known to be done."""
    names = [phase.name for phase in phases.of(Plan.from_json(entry["plan"])) if phase.undo is None]
    if entry["state"] == journal.RUNNING and entry["phase"] in names:
        phase: str = entry["phase"]
        return phase
    # All were tried, and some failed: each of `left` begins with the name of its phase.
    return next(
        (name for name in names if any(text.startswith(name + ":") for text in entry["left"])),
        names[0],
    )


def _safely(
    one: Callable[["XenAPI.Session", str, Dict[str, str]], Optional[Dict[str, Any]]],
    session: "XenAPI.Session",
    migration: str,
    given: Dict[str, str],
) -> Optional[Dict[str, Any]]:
    """One migration that cannot be recovered hinders no other."""
    try:
        return one(session, migration, given)
    except NoSuchMigration:
        return None  # it has ended meanwhile
    except Waits as error:
        return {"outcome": WAITING, "why": error.details[0]}
    except JournalError as error:
        return {"outcome": WAITING, "why": "its journal cannot be trusted: %s" % error}
    except (MotionError, XenAPI.Failure, OSError) + sessions.NOT_XAPI as error:
        log.exception("recovery of %s", migration)
        return {"outcome": WAITING, "why": str(error)}


# At the source.


def _recover_source(_: "XenAPI.Session", migration: str, given: Dict[str, str]) -> Dict[str, Any]:
    entry, before = _take_over(migration)
    if before:
        return before
    try:
        return _recover_taken(entry, given)
    finally:
        _let_go(entry)


def _recover_taken(entry: Journal, given: Dict[str, str]) -> Dict[str, Any]:
    planned, direction, written_off = (
        Plan.from_json(entry.entry["plan"]),
        direction_of(entry.entry),
        False,
    )
    # One of them may be the dead worker's, and would do what is undone meanwhile.
    smapi.await_commands()
    source = sessions.local(sessions.CALL_TIMEOUT)
    try:
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
            if lost_destination.said(given):
                _require_lost(source, planned, destination, gap)
                destination, direction, written_off = (
                    lost_destination.LostPool(),
                    Direction(None, "the destination is lost, as you say"),
                    True,
                )
            elif gap is not None and not _stays_at_the_source(entry.entry, direction):
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
                sessions.logout(destination)
    finally:
        sessions.logout(source)
    return _outcome(entry.entry, direction, None if written_off else gap)


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
        if not interrupted(entry.entry):
            running = entry.entry["state"] == journal.RUNNING
            if not running and not _driven(entry.entry):
                # which a worker that was killed behind its last note has left
                secret_files.forget_all(migration)
                xenopsd_export.forget(migration)
            return entry, {
                "outcome": RUNNING if running else ENDED,
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


def _stays_at_the_source(entry: Dict[str, Any], direction: Direction) -> bool:
    """Whether it is certain without the other pool that the VM is at the source, and nothing of it
    can run elsewhere."""
    return direction.first is None and not {"move", "hand-over", "adopt"} & set(entry["begun"])


def _task(source: "XenAPI.Session", entry: Journal, planned: Plan) -> "ProgressTask":
    known = entry.entry["task"] and Records(source).ref("task", entry.entry["task"])
    task = task_of(source, entry.entry, planned, "recovery", known or None)
    if not known:
        entry.write(task=task.uuid)
    return task


def _to_its_end(m: Migration, direction: Direction, tries: int) -> None:
    """Go in that direction; the way back again, if something was left on it that may have
    been busy."""
    error = DestinationLost(m.plan.vm) if m.lost else _why_it_ended(m)
    m.note(state=journal.RUNNING, left=[])
    if direction.first:
        m.run(direction.first)
    else:
        m.take_back(error)
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
        m.take_back(error)


def _earlier(description: Sequence[str]) -> MotionError:
    """What was cancelled ends as cancelled, however often it is taken back."""
    if description[0] == Cancelled.code:
        return Cancelled(*description[1:])
    return Earlier(description)


def _why_it_ended(m: Migration) -> MotionError:
    if m.entry["error"]:
        return _earlier(m.entry["error"])
    return Cancelled(m.id) if m.cancel_asked() else WorkerDied(m.id, str(m.entry["phase"]))


def _outcome(entry: Dict[str, Any], direction: Direction, gap: Optional[str]) -> Dict[str, Any]:
    answer = {
        "vm": entry["plan"]["vm"],
        "vm_name": entry["plan"]["vm_name"],
        "left": entry["left"],
        "error": entry["error"],
    }
    if "undecided" in entry["left"]:
        return dict(
            answer, outcome=UNDECIDED, why="%s; recover it again" % " ".join(entry["error"][1:])
        )
    if gap is not None and entry["left"]:
        return dict(
            answer,
            outcome=WAITING,
            why="%s: the VM is at the source, and what was made there stays until then" % gap,
        )
    if entry["left"]:
        return dict(
            answer,
            outcome=UNFINISHED,
            why="%s; left: %s" % (direction.why, "; ".join(entry["left"])),
        )
    if entry["committed"]:
        return dict(
            answer,
            outcome=MOVED,
            why="%s; the VM is at the destination%s"
            % (direction.why, ", halted" if entry.get("arrived_halted") else ""),
        )
    return dict(answer, outcome=TAKEN_BACK, why="%s; the VM is at the source" % direction.why)


# At the destination.


def _recover_receiving(
    session: "XenAPI.Session", migration: str, given: Dict[str, str]
) -> Optional[Dict[str, Any]]:
    """What was made for a migration whose source does not come any more. Nothing, while a gate may
    have been opened."""
    if migration in journal.all_ids(SOURCE):
        return None  # within a pool: the source's journal decides
    entry = Journal.load(migration, RECEIVING)
    if at_destination.refused(entry):
        return None
    if arrival.read(migration):
        raise Waits("a recovery at the source: the VM has run here, as this host has noted")
    for known in [entry.entry.get("busy")] + [one["process"] for one in entry.entry["receivers"]]:
        process = Process.from_json(known)
        if process is not None and process.alive():
            return {
                "outcome": RUNNING,
                "why": "its receiver runs; without a word from the source it ends after %g s"
                % ORPHAN_BOUND,
            }
    smapi.await_commands([disk["vdi"] for disk in entry.entry["disks"].values() if disk["vdi"]])
    for disk in entry.entry["disks"].values():
        there = disk["shut"] and Records(session).ref("VDI", disk["vdi"])
        if there:
            gate.mend(session, there)
    open_there = [
        disk["vdi"]
        for disk in entry.entry["disks"].values()
        if disk["shut"] and (gate_notes.noted(disk["vdi"]) or not _shut(session, disk["vdi"]))
    ]
    if open_there:
        raise Waits(
            "a recovery at the source: the VM may be here, as the gate of %s has been opened"
            % ", ".join(open_there)
        )
    age = min(time.time() - entry.entry["updated"], _uptime())
    if not given.get("migration") and age < ORPHAN_BOUND:
        raise Waits(
            "the source, for %d s more; named by `migration` it is taken away now"
            % (ORPHAN_BOUND - age)
        )
    at_destination.receive_abort(session, {"migration": migration})
    return {
        "outcome": TAKEN_BACK,
        "why": "its receiver is gone and every gate is shut: the VM cannot be here",
    }


def _shut(session: "XenAPI.Session", uuid: str) -> bool:
    vdi = Records(session).ref("VDI", uuid)
    if vdi is None:
        return True
    config = session.xenapi.VDI.get_sm_config(vdi)
    return gate.is_shut(config) and not gate.active(config)


def _uptime() -> float:
    with open("/proc/uptime") as stream:
        return float(stream.read().split()[0])


# By itself: at boot, and when a worker has died.


def _log_to_file() -> None:
    if not log.hasHandlers():
        handler = logging.FileHandler(root.private_file(launch.LOG), encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s recovery %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def until_ended(migration: Optional[str] = None) -> int:
    """Recover until nothing waits any more, or nobody drives `migration` and it is at an end. The
    exit status: 0 then, 1 if something still waits after hours. A xapi that is away is waited for,
    as are the other pool and whoever else drives it."""
    pause, told = 2 * PAUSE, None
    for _ in range(AGAIN):
        try:
            if migration and _has_ended(migration):
                return 0
            waits = _waiting(migration)
            if not waits:
                return 0
        except NoSuchMigration:
            return 0
        except (Unreachable, XenAPI.Failure) as error:
            waits = ["xapi: %s" % error]  # it is still starting
        except OSError as error:
            waits = [str(error)]  # as where nothing can be logged
        if waits != told:
            print("\n".join(waits), flush=True)
        told = waits
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return 1


def _has_ended(migration: str) -> bool:
    try:
        entry = Journal.load(migration).entry
    except JournalError:
        return False  # its recovery says so
    return entry["state"] != journal.RUNNING and not interrupted(entry) and not _driven(entry)


def _waiting(migration: Optional[str]) -> List[str]:
    """Recover, and tell what has not come to an end, in words without the time that it has still to
    wait."""
    again = (WAITING, UNDECIDED, UNFINISHED) + ((RUNNING,) if migration else ())
    session = sessions.local()
    try:
        found = recover(session, {"migration": migration} if migration else {})["migrations"]
    finally:
        sessions.logout(session)
    return [
        "%(migration)s (%(side)s): %(outcome)s" % answer
        for answer in found
        if answer["outcome"] in again
    ]


if __name__ == "__main__":
    sys.exit(until_ended())
