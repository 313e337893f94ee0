# SPDX-License-Identifier: LGPL-2.1-only
"""What one disk of the guest is asked to do: where the next write or read goes, and how many a
second."""

import random
import threading
import time

LARGEST = 128
"""The largest write, in sectors: 64 KiB."""
HOT_SHARE = 0.3
HOT_SECTORS = 16
SLACK = 1.0
"""After a stall the guest catches up at most so many seconds of writes."""


class Workload:
    """Chooses offsets and sizes, the same ones for the same seed. Not locked: its disk does
    that."""

    def __init__(self, seed, sectors, hot):
        """`hot`: how many spots are rewritten all the time; `sectors`: the size of the disk."""
        self._random = random.Random(seed)
        self._sectors = sectors
        self._hot = [self._random.randrange(max(1, sectors - HOT_SECTORS)) for _ in range(hot)]

    def write(self):
        """(first sector, count) of the next write: 512 B to 64 KiB, small ones more often, aligned
        to 512 B."""
        if self._hot and self._random.random() < HOT_SHARE:
            return self._random.choice(self._hot), self._random.randint(1, HOT_SECTORS)
        count = self._random.randint(1, 1 << self._random.randrange(LARGEST.bit_length()))
        return self._random.randrange(self._sectors - count + 1), count

    def read(self):
        """(first sector, count) of the next read."""
        return self.write()

    def chance(self, share):
        """True in `share` of the cases."""
        return self._random.random() < share


class Pace:
    """At most so many turns a second, over all threads."""

    def __init__(self, per_second):
        self._interval = 1.0 / per_second
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def delay(self):
        """Take the next turn: how many seconds from now it is."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next + self._interval, now - SLACK)
            return max(0.0, self._next - now)
