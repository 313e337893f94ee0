# SPDX-License-Identifier: LGPL-2.1-only
"""How fast a copy may go, where the administrator has given a bandwidth.

The guest's mirrored writes go as they come, and count: the copy has what they leave, and a little
in any case, so that it comes to its end.
"""

import time
from typing import Callable

LEAST = 0.05  # of the bandwidth, which is the copy's whatever the guest writes
BURST = 0.1  # seconds' worth that may be made up for, after something has kept the copy waiting


class Pace(object):
    """For the one thread that copies, but for `bandwidth`, which any may set."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.bandwidth = 0.0  # bytes per second, of mirror and copy together; 0: as fast as it goes
        self._clock = clock
        self._paid = 0.0  # when what went so far has been paid for
        self._mirrored = 0  # bytes, when it was looked last
        self._last = (self._paid, 0)  # when the copy sent something last, and how many bytes

    def pause(self, mirrored: int) -> float:
        """Seconds until the copy may go on, if nothing is mirrored meanwhile. `mirrored`: bytes in
        all that the mirror has sent so far."""
        fresh, self._mirrored = mirrored - self._mirrored, mirrored
        if not self.bandwidth:
            return 0.0
        now = self._clock()
        self._pay(fresh)
        sent, length = self._last
        self._paid = min(self._paid, sent + length / (LEAST * self.bandwidth))
        return max(0.0, self._paid - now)

    def sent(self, length: int) -> None:
        """The copy has sent `length` bytes."""
        self._last = (self._clock(), length)
        if self.bandwidth:
            self._pay(length)

    def _pay(self, length: int) -> None:
        self._paid = max(self._paid, self._clock() - BURST) + length / self.bandwidth
