# SPDX-License-Identifier: LGPL-2.1-only
"""For who waits for a migration: a worker that dies is followed by another one, which recovers the
migration (rpm/sxm-worker@.service), so its death is not the end. It is waited for, with bounds."""

import time
from typing import Optional

from storage_motion.errors import WorkerDied

# Seconds for the other to be there: systemd waits for ten, and a busy machine for more.
FOLLOWED = 60.0
# Seconds for it to come to an end; it goes on by itself, for hours, if it has to wait for somebody.
RECOVERED = 900.0
NOBODY = (
    "nobody has taken it up since, for %d s: say fn=recover with its id, on the source host"
    % FOLLOWED
)
GOES_ON = (
    "another worker is recovering it and has not come to an end within %d s; it goes on: "
    "fn=status tells how far it is" % RECOVERED
)


class DeadWorkerWatch:
    """One who waits, and looks at a migration again and again."""

    def __init__(self) -> None:
        self._died: Optional[float] = None  # when the first death was seen
        self._alone: Optional[float] = None  # since when nobody has been at it

    def look(self, alive: bool, migration: str, phase: str) -> None:
        """`alive`: whether somebody drives it now. Raises WorkerDied, with what happens next, when
        that has been waited for long enough."""
        now = time.monotonic()
        if not alive:
            self._died = self._died or now
            self._alone = self._alone or now
            if now - self._alone > FOLLOWED:
                raise WorkerDied(migration, phase, NOBODY)
        else:
            self._alone = None
            if self._died and now - self._died > RECOVERED:
                raise WorkerDied(migration, phase, GOES_ON)
