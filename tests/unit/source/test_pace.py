# SPDX-License-Identifier: LGPL-2.1-only
"""A bandwidth holds for what is mirrored and what is copied together, whatever the guest does."""

import pytest

from storage_motion.source import pace

MIB = 1 << 20


class Link(object):
    """A copy of 1 MiB at a time, and a guest that writes, in a time of their own."""

    def __init__(self, bandwidth):
        self.now = 1000.0
        self.copied = self.mirrored = 0.0
        self.pace = pace.Pace(lambda: self.now)
        self.pace.bandwidth = bandwidth

    def run(self, seconds, written=0.0):
        """Copy for so long, while the guest writes so many bytes per second."""
        end = self.now + seconds
        while self.now < end:
            wait = self.pace.pause(int(self.mirrored))
            step = min(wait, 0.5) or 0.001  # a window takes a millisecond to send
            if not wait:
                self.pace.sent(MIB)
                self.copied += MIB
            self.now += step
            self.mirrored += written * step


@pytest.mark.parametrize("written", [0.0, 1.0, 5.0, 9.0])
def test_copy_and_mirror_together_keep_to_it(written):
    link = Link(10 * MIB)
    link.run(30, written * MIB)
    assert link.copied + link.mirrored == pytest.approx(300 * MIB, rel=0.02)


def test_a_guest_that_writes_more_than_there_is_leaves_the_copy_a_little():
    link = Link(10 * MIB)
    link.run(60, 30 * MIB)
    assert link.copied == pytest.approx(pace.LEAST * 600 * MIB, rel=0.1)
    link.copied = 0.0
    link.run(30)  # and is forgotten when it has stopped
    assert link.copied == pytest.approx(300 * MIB, rel=0.1)


def test_what_was_not_used_is_not_saved_up():
    link = Link(10 * MIB)
    link.run(1)
    link.now += 60
    link.copied = 0.0
    link.run(10)
    assert link.copied <= 103 * MIB


def test_it_is_changed_while_it_goes():
    link = Link(10 * MIB)
    link.run(10)
    link.pace.bandwidth = 40.0 * MIB
    link.copied = 0.0
    link.run(10)
    assert link.copied == pytest.approx(400 * MIB, rel=0.02)
    link.pace.bandwidth = 0.0
    link.copied = 0.0
    link.run(1)
    assert link.copied >= 900 * MIB
