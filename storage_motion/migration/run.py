# SPDX-License-Identifier: LGPL-2.1-only
"""Running a migration: through the table of phases, and back through it when something fails.

What has broken may be taken up again (resume.py). Behind the point of no return a phase is tried
again, and never undone."""

import logging
import time
import traceback
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from storage_motion.errors import (
    STOPPING,
    ArrivedHalted,
    Cancelled,
    JournalNotWritten,
    NotCleanedUp,
    Undecided,
)
from storage_motion.journal import journal, secret_files, xenopsd_export
from storage_motion.migration import progress, resume
from storage_motion.migration.phases import table as phases

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

FORWARD_TRIES = 3  # of a phase behind the point of no return
FORWARD_WAIT = 2.0

log = logging.getLogger("sxm")


def forward(m: "Migration", first: Optional[str] = None) -> str:
    """Go through the phases, from the one that is named `first` (recovery takes a phase up
    where it was left).

    Returns the final state; the journal and the task tell it, and why. Raises
    JournalNotWritten: it is where it was then, the guest goes on, and a recovery may go on with
    it."""
    return _to_its_end(m, lambda: _forward(m, first))


def take_back(m: "Migration", error: Exception) -> str:
    """Undo what was begun, since `error` has stopped it. Returns the final state, as
    `forward` does."""

    def back() -> Dict[str, Any]:
        phase, m.stopped_by = m.entry["phase"], error
        _back(m)
        m.note(phase=phase)
        return _ended_by(m, error)

    return _to_its_end(m, back)


def _to_its_end(m: "Migration", go: Callable[[], Dict[str, Any]]) -> str:
    """`go()` answers the fields of the end: "state", "error", and "left" where that changes."""
    try:
        try:
            end = go()
        except Undecided as undecided:
            log.error("%s: %s", m.id, undecided)
            end = {
                "state": journal.FAILED,
                "error": undecided.failure(),
                "left": m.entry["left"] + ["undecided"],
            }
        m.note(**end)
    except JournalNotWritten as error:
        log.error("%s: stays where it is: %s", m.id, error)
        progress.tell_stopped(m.id, error.failure())
        m.task.finish("failure", error.failure())
        raise
    state: str = end["state"]
    m.task.finish(
        {journal.SUCCEEDED: "success", journal.CANCELLED: "cancelled"}.get(state, "failure"),
        end["error"] if state == journal.FAILED else (),
    )
    if not m.entry["left"]:
        secret_files.forget_all(m.id)
        xenopsd_export.forget(m.id)
    return state


def _forward(m: "Migration", first: Optional[str]) -> Dict[str, Any]:
    problems: List[str] = []
    for phase in phases.of(m.plan, first):
        log.info("%s: %s", m.id, phase.name)
        if phase.undo is None:
            m.note(committed=True, phase=phase.name, begun=_begun(m, phase))
            found = _insist(m, phase)
            if found:  # noted now: who is killed in what follows has it done once more
                problems += found
                m.note(left=m.entry["left"] + found)
            if problems and phase.essential:
                break
            continue
        try:
            # A phase that is taken up looks itself whether it can still be cancelled: its undo
            # may not be safe now.
            m.pulse(cancellable=phase.name != first)
            m.note(phase=phase.name, begun=_begun(m, phase))
            phase.do(m)
            m.progress.report(force=True)
        except STOPPING:
            raise
        except Exception as error:
            m.stopped_by = error
            if isinstance(error, Cancelled):  # which is no fault
                log.info("%s: %s is cancelled, as was asked for", m.id, phase.name)
            else:
                told = m.without_secrets(traceback.format_exc())
                log.error("%s: %s failed\n%s", m.id, phase.name, told)
            final, again = _take_up(m, phase, error)
            if again:
                m.stopped_by = None
                return _forward(m, again)
            assert final is not None
            m.stopped_by = final
            _back(m)
            m.note(phase=phase.name, broken=None)
            return _ended_by(m, final)
    if problems:
        return {"state": journal.FAILED, "error": NotCleanedUp(*problems).failure()}
    if m.entry.get("arrived_halted"):
        return {"state": journal.FAILED, "error": ArrivedHalted(m.plan.vm).failure()}
    return {"state": journal.SUCCEEDED, "error": None}


def _take_up(
    m: "Migration", phase: phases.Phase, error: Exception
) -> Tuple[Optional[Exception], Optional[str]]:
    """After `error` in `phase`: (None, name of the phase to go on with), or (the error to end
    with, None)."""
    again = resume.begins(m, phase, error)
    if again is None or not _back(m, again.name):
        return error, None
    try:
        resume.make_ready(m, again, error)
    except STOPPING:
        raise
    except Exception as final:
        return final, None
    return None, again.name


def _ended_by(m: "Migration", error: Exception) -> Dict[str, Any]:
    return {
        "state": journal.CANCELLED if isinstance(error, Cancelled) else journal.FAILED,
        "error": m.describe(error),
    }


def _begun(m: "Migration", phase: phases.Phase) -> List[str]:
    begun: List[str] = m.entry["begun"]
    return begun + ([phase.name] if phase.name not in begun else [])


def _insist(m: "Migration", phase: phases.Phase) -> List[str]:
    """Do a phase behind the point of no return. Returns what went wrong even at the last try: a
    list of strings."""
    for left in reversed(range(FORWARD_TRIES)):
        try:
            phase.do(m)
            return []
        except STOPPING:
            raise
        except Exception as error:
            log.error(
                "%s: %s failed\n%s", m.id, phase.name, m.without_secrets(traceback.format_exc())
            )
            if not left:
                return ["%s: %s" % (phase.name, " ".join(m.describe(error)))]
            time.sleep(FORWARD_WAIT)
    raise AssertionError("the last try answers or raises")


def _back(m: "Migration", to: Optional[str] = None) -> bool:
    """Undo what was begun, last first; with `to`, only what came after that phase. Whether all
    of it could be undone.

    What could not is told, and hinders the rest only if that needs it."""
    whole = True
    for phase in reversed(phases.of(m.plan, to)[1 if to else 0 :]):
        if phase.name not in m.entry["begun"] or phase.undo is None:
            continue
        log.info("%s: undoing %s", m.id, phase.name)
        m.note(phase=phases.UNDO + phase.name)
        left = len(m.entry["left"])
        with m.tolerated(phases.UNDO + phase.name):
            phase.undo(m)
        if len(m.entry["left"]) == left:
            m.note(begun=[name for name in m.entry["begun"] if name != phase.name])
        else:
            whole = False
    return whole
