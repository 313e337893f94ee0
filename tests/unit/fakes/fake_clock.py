# SPDX-License-Identifier: LGPL-2.1-only
"""A clock in place of module `time`, for tests that wait for long."""


class Clock:
    """The time of a test, which passes only while the tested code sleeps."""

    def __init__(self):
        self.now = 0.0

    def time(self):
        return self.now

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
