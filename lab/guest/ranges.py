# SPDX-License-Identifier: LGPL-2.1-only
"""Ranges of sectors that are being read or written: a guest never has two of them overlap in
time."""

import threading


class BusyRanges:
    """A set of disjoint ranges, each claimed for as long as an I/O is under way."""

    def __init__(self):
        self._condition = threading.Condition()
        self._claimed = []

    def claim(self, first, count, timeout=0.0):
        """Claim these sectors; False if they were not free within `timeout` seconds."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._free(first, first + count), timeout):
                return False
            self._claimed.append((first, first + count))
            return True

    def release(self, first, count):
        """Give back what `claim` gave."""
        with self._condition:
            self._claimed.remove((first, first + count))
            self._condition.notify_all()

    def _free(self, first, end):
        return all(end <= begun or first >= ended for begun, ended in self._claimed)
