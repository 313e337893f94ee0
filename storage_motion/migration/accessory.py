# SPDX-License-Identifier: LGPL-2.1-only
"""What comes along with a VM, and nothing else depends on: its statistics, its messages."""

import contextlib
import logging
import traceback
from typing import TYPE_CHECKING, Callable, Iterator

from storage_motion.errors import STOPPING, MotionError
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
        # without its text, in which a request may be, and in that a session
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.warning("%s: %s\n%s", m.id, error.__class__.__name__, frames)
        tell(str(error) if isinstance(error, MotionError) else reason(error))
