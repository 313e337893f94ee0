# SPDX-License-Identifier: LGPL-2.1-only
"""Whether a guest is writing just now: a disk's mirror tells its copy, which gives way then. At
both ends."""

import os
import time

RECENT = 0.1  # seconds for which a write makes the next one likely
# added to the nice value of a thread that gives way: it has a tenth of the processor time of
# another one, where they want the same processor (sched(7))
GIVING_WAY = 10
LOWEST = 19  # priority: the highest nice value


class GuestWrites(object):
    """Those of one disk."""

    def __init__(self) -> None:
        self._latest = self._most_at = -RECENT
        self._most = 0

    def came(self, in_flight: int = 1) -> None:
        """One, or several, came just now. `in_flight`: how many are not answered with them."""
        self._latest = now = time.monotonic()
        if in_flight >= self._most or now - self._most_at >= RECENT:
            self._most, self._most_at = in_flight, now

    def are_coming(self) -> bool:
        """Whether one came a moment ago."""
        return time.monotonic() - self._latest < RECENT

    def in_flight(self) -> int:
        """How many of them the guest has had waiting at a time, a moment ago; 0: none came."""
        return self._most if self.are_coming() else 0


class CopyPriority(object):
    """The priority of a thread that copies beside a guest's writes: lower than that of the mirror
    while the guest writes, and the same else.

    All that a mirrored write needs of processors is needed by the copy as well, all the time; and
    who has just been woken does not always come before who runs."""

    def __init__(self, guest: GuestWrites) -> None:
        self._guest = guest
        self._usual = os.getpriority(os.PRIO_PROCESS, 0)
        self._low = False

    def adjust(self) -> None:
        """To be called by that thread, for each piece of its work."""
        low = self._guest.are_coming()
        if low == self._low:
            return
        self._low = low
        try:
            # Of this thread alone: in Linux each has its own (setpriority(2), C library/kernel
            # differences).
            nice = min(LOWEST, self._usual + GIVING_WAY) if low else self._usual
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except PermissionError:
            pass  # to raise it again is root's alone, as which we always run in dom0
