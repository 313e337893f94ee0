# SPDX-License-Identifier: LGPL-2.1-only
"""How fast something goes and when it will be done, by what was seen of it in the last seconds."""

import collections
from typing import Deque, NamedTuple, Optional

WINDOW = 10.0  # seconds that are looked at
STALLED = 5.0  # seconds without a byte after which it is said so
LONGEST = 99 * 86400.0  # seconds: a longer time to go is none that anybody can tell


class Seen(NamedTuple):
    """So much was done at that time, in seconds of any clock that does not go back."""

    at: float
    done: float


class Speed:
    """Of one thing that grows."""

    def __init__(self) -> None:
        self._seen: Deque[Seen] = collections.deque()
        self._grew: Optional[float] = None  # when it was last seen to

    def see(self, at: float, done: float) -> None:
        """So much is done now. Less than before: it begins anew."""
        if self._seen and done < self._seen[-1].done:
            self._seen.clear()
            self._grew = at
        if self._seen and done > self._seen[-1].done or self._grew is None:
            self._grew = at
        if self._seen and at <= self._seen[-1].at:
            self._seen.pop()  # the clock of who asks twice at once
        self._seen.append(Seen(at, done))
        # The one before the window stays: what came since it is known.
        while len(self._seen) > 2 and self._seen[1].at <= at - WINDOW:
            self._seen.popleft()

    @property
    def rate(self) -> Optional[float]:
        """Per second. None before it was seen twice."""
        if len(self._seen) < 2:
            return None
        first, last = self._seen[0], self._seen[-1]
        return (last.done - first.done) / (last.at - first.at)

    @property
    def stalled(self) -> Optional[float]:
        """For how many seconds nothing has come, if they are many; else None."""
        if self._grew is None or not self._seen:
            return None
        since = self._seen[-1].at - self._grew
        return since if since >= STALLED else None

    def left(self, whole: float) -> Optional[float]:
        """Seconds until `whole` is done, at this rate. None where nobody can tell: it was not seen
        twice, or nothing comes."""
        if not self._seen:
            return None
        missing = whole - self._seen[-1].done
        if missing <= 0:
            return 0.0
        rate = self.rate
        if not rate or self.stalled is not None:
            return None
        found = missing / rate
        return found if found < LONGEST else None
