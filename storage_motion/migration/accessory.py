# SPDX-License-Identifier: LGPL-2.1-only
"""What comes along with a VM, and nothing else depends on: its statistics, its messages, its
blobs."""

import contextlib
import logging
import traceback
from typing import TYPE_CHECKING, Callable, Iterator, Optional

from storage_motion.errors import STOPPING, MotionError
from storage_motion.journal import kept_files
from storage_motion.xapi.session import reason

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

log = logging.getLogger("sxm")


@contextlib.contextmanager
def no_more_than_warned_of(m: "Migration", tell: Callable[[str], None]) -> Iterator[None]:
    """Whatever fails in here is told by `tell(why)`, and what follows is done. What another pool
    answers may be anything, and so may what fails on it: it would fail at each further try, and the
    migration with it.

    What stops a worker (STOPPING) passes, and so does what `tell` raises."""
    try:
        yield
    except STOPPING:
        raise
    except Exception as error:
        tell(_noted(m, error))


def kept(m: "Migration", keep: Callable[[], Optional[str]]) -> str:
    """Keep what does not come along to another pool, as it goes at the source with the VM. Where it
    is, in words. `keep()`: the path of a file of this host (kept_files), or None: there is nothing
    of it."""
    try:
        path = keep()
    except STOPPING:
        raise
    except Exception as error:
        return "it goes with the VM at the source, and is not kept: %s" % _noted(m, error)
    if path is None:
        return "there is nothing of it at the source"
    return "it is kept for %d days in %s of host %s" % (
        kept_files.DAYS,
        path,
        m.plan.source_host_name,
    )


def _noted(m: "Migration", error: Exception) -> str:
    """What an exception says to the user."""
    # without its text, in which a request may be, and in that a session
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.warning("%s: %s\n%s", m.id, error.__class__.__name__, frames)
    return str(error) if isinstance(error, MotionError) else reason(error)
