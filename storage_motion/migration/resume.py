# SPDX-License-Identifier: LGPL-2.1-only
"""Taking up again what has broken: a mirror that the guest or the link has ended, a mover or a
receiver that has died.

The guest runs on alone meanwhile, on its own disks, so nothing is urgent and nothing is lost:
phases that came after the mirror are undone, then it is tried again, at growing intervals and so
many times. After that the migration holds out for a while for somebody to put right what is wrong
and say `resume`; then it fails, and is taken back.
"""

import logging
import os
import time
from typing import TYPE_CHECKING, Optional

from storage_motion.errors import (
    CopyFailed,
    JournalNotWritten,
    MirrorBroken,
    MoveCutShort,
    MoverFailed,
    VmNotRunning,
)
from storage_motion.journal import journal
from storage_motion.journal.noting import noting
from storage_motion.migration.phases import table as phases

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

RESUME = "resume"  # a file in /run/sxm/<id>/: somebody wants it to be tried now
LIMIT = 5  # tries, unless the administrator says otherwise; 0: none, and no holding out either
# seconds before the first try, doubled for each further one up to the second
FIRST, LONGEST = 2.0, 60.0
# tries in a row for which a VM may be seen not to run, as while it reboots; 14 s at least
REBOOT = 3
STEADY = 600.0  # seconds without a break after which the tries are counted anew
# seconds for somebody to say `resume`; less than movers and receivers wait for a word (600 s)
HOLD = 300.0
POLL = 0.1
BROKEN = (MirrorBroken, CopyFailed, MoverFailed, MoveCutShort)

log = logging.getLogger("sxm")


def ask(migration: str) -> None:
    """Leave word for the worker. Raises NotNoted."""
    with noting("%s/%s/%s" % (journal.RUN, migration, RESUME)):
        journal.replace(_path(migration), "", sync=False)


def begins(m: "Migration", phase: phases.Phase, error: Exception) -> Optional[phases.Phase]:
    """The phase to begin again with after `error` in `phase`; None if that is nothing that can be
    taken up."""
    if not isinstance(error, BROKEN) or not m.entry.get("retry_limit", LIMIT):
        return None
    before = phases.of(m.plan)
    before = before[: [one.name for one in before].index(phase.name) + 1]
    return next((one for one in reversed(before) if one.clear_broken is not None), None)


def make_ready(m: "Migration", phase: phases.Phase, error: Exception) -> None:
    """Wait, and then have what is broken cleared away, as often as it takes. `phase`: the one to
    begin again with; `error`: what has broken it.

    Returns when it is ready to be done again. Raises Cancelled, or the last error when all tries
    are used up."""
    assert phase.clear_broken is not None
    if time.time() - m.entry.get("broken_at", 0) > STEADY:
        m.note(tries=0)
    m.note(broken_at=time.time(), phase=phase.name)
    gone = 0
    while True:
        _await_try(m, error)
        try:
            phase.clear_broken(m)
        except VmNotRunning as latest:
            # It has been shut down, or halted by a move that failed: until it is given back nobody
            # can start it.
            gone, error = gone + 1, latest
            if gone == REBOOT:
                raise
            continue
        except JournalNotWritten:
            raise
        except Exception as latest:
            log.warning("%s: it cannot be taken up: %s", m.id, m.describe(latest))
            error = latest
            continue
        m.note(broken=None)
        log.info("%s: taken up again, try %d", m.id, m.entry["tries"])
        return


def _await_try(m: "Migration", error: Exception) -> None:
    """Until the next try is due, or asked for, which is noted. Raises `error` if there is none any
    more."""
    limit, attempt = m.entry.get("retry_limit", LIMIT), m.entry.get("tries", 0) + 1
    exhausted = attempt > limit
    if exhausted and isinstance(error, VmNotRunning):
        raise error
    wait = HOLD if exhausted else min(LONGEST, FIRST * 2 ** (attempt - 1))
    m.note(
        broken={
            "attempt": min(attempt, limit),
            "limit": limit,
            "error": m.describe(error),
            "until": time.time() + wait,
            "waiting": "resume or cancel; then it is taken back" if exhausted else "the next try",
        }
    )
    log.info("%s: broken; %d of %d tries made; waiting for %g s", m.id, attempt - 1, limit, wait)
    asked = _asked_within(m, wait)
    if exhausted and not asked:
        raise error
    m.note(tries=1 if asked and exhausted else attempt)


def _asked_within(m: "Migration", seconds: float) -> bool:
    """Wait. Whether somebody said `resume` meanwhile. Raises Cancelled."""
    path, end = _path(m.id), time.monotonic() + seconds
    while time.monotonic() < end:
        m.pulse()
        if os.path.exists(path):
            os.unlink(path)
            return True
        time.sleep(POLL)
    return False


def _path(migration: str) -> str:
    return os.path.join(journal.run_directory(migration), RESUME)
