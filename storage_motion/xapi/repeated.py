# SPDX-License-Identifier: LGPL-2.1-only
"""Work that fails as a xapi is restarted, and may simply be done once more."""

import logging
import time
from typing import TYPE_CHECKING, Callable, Optional, TypeVar

import XenAPI

from storage_motion.errors import MotionError
from storage_motion.xapi import outage
from storage_motion.xapi.metadata import NotAsked
from storage_motion.xapi.records import UNKNOWN
from storage_motion.xapi.session import NOT_XAPI, reason

TRIES = 3  # a xapi that is restarted again and again
PAUSE = 1.0  # seconds between two
# what a master says of a member whose xapi does not answer it
HOST_AWAY = ("CANNOT_CONTACT_HOST", "HOST_OFFLINE")
NO_TASK = ["HANDLE_INVALID", "task"]
AWAY_BOUND = 120.0  # seconds for which that is waited for: a session waits as long
MADE = ("VM", "VTPM", "task")  # classes of what an import makes

log = logging.getLogger("sxm")

Answer = TypeVar("Answer")

if TYPE_CHECKING:
    from typing_extensions import Protocol

    class _Migration(Protocol):
        id: str

        def pulse(self, cancellable: bool = ...) -> None: ...


def done(m: "_Migration", work: Callable[[], Answer], what: str) -> Answer:
    """What `work()` answers, which may find part of it done, or all. Done again where a restart is
    why it failed: xapi does not know any more the VM or the task that it had just made (at most
    TRIES times), or there was nobody to ask (AWAY_BOUND)."""
    tries = 0
    end: Optional[float] = None
    while True:
        try:
            return work()
        except (MotionError, XenAPI.Failure, OSError) + NOT_XAPI as error:
            if is_forgotten(error):
                tries += 1
                if tries == TRIES:
                    raise
            elif is_away(error):
                end = end or time.monotonic() + AWAY_BOUND
                if time.monotonic() > end:
                    raise
            else:
                raise
            log.warning(
                "%s: %s is done again: %s",
                m.id,
                what,
                error if isinstance(error, MotionError) else reason(error),
            )
        m.pulse(cancellable=False)
        time.sleep(PAUSE)


def is_forgotten(error: BaseException) -> bool:
    """Whether a xapi does not know what it has made itself: it has been killed since, with an older
    database on disk."""
    return (
        isinstance(error, XenAPI.Failure)
        and error.details[0] in UNKNOWN
        and error.details[1:2]
        and error.details[1] in MADE
    )


def is_away(error: BaseException) -> bool:
    """Whether a xapi does not answer just now, or has gone before it answered. A member that is
    being started answers already, but once it greets its master that one ends, and forgets, all
    that the member is at: a call's own task, too (xapi_pool.ml, hello; cancel_tasks.ml)."""
    if isinstance(error, XenAPI.Failure):
        return error.details[0] in HOST_AWAY or error.details[:2] == NO_TASK
    return isinstance(error, NotAsked) or outage.is_away(error)
