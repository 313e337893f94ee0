# SPDX-License-Identifier: LGPL-2.1-only
"""How long the guest's mirrored writes have waited, as the status tells it."""

import pytest

from storage_motion.source import mirrored_writes
from storage_motion.source.merge import Merge
from storage_motion.source.mirrored_writes import PEAK, MirroredWrites
from storage_motion.wire import nbd

SECTORS = 64


class Request:
    """A write of one sector, as tapdisk's."""

    command, length, flags, message = nbd.CMD_WRITE, nbd.SECTOR, 0, b""

    def __init__(self, handle):
        self.handle, self.offset = handle, handle * nbd.SECTOR

    def rename(self, handle):
        self.handle = handle


class World:
    """One disk's writes, at a time of its own."""

    def __init__(self, monkeypatch):
        self.now = 50.0
        monkeypatch.setattr(mirrored_writes.time, "monotonic", lambda: self.now)
        self.writes = MirroredWrites(Merge(SECTORS), SECTORS * nbd.SECTOR, 300)

    def write(self, count, seconds):
        """So many writes at once, each of which is answered so much later."""
        going = self.writes.take([Request(at) for at in range(count)])
        handles = [request.handle for request in going]
        self.now += seconds
        self.writes.answer(
            b"".join(nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, one) for one in handles)
        )

    def told(self, name):
        return self.writes.status()[name]


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_all_waits_add_up(world):
    assert (world.told("waited"), world.told("mirrored_writes")) == (0.0, 0)
    world.write(3, 0.5)
    world.write(1, 0.25)
    assert world.told("waited") == pytest.approx(1.75) and world.told("mirrored_writes") == 4


def test_the_longest_of_late_is_told_for_a_while_and_then_no_more(world):
    world.write(2, 0.3)
    world.write(2, 0.01)
    assert world.told("recent_stall") == pytest.approx(0.3)
    world.now += PEAK - 0.02
    assert world.told("recent_stall") == pytest.approx(0.3), "who asks once a second sees it"
    world.write(1, 0.02)
    assert world.told("recent_stall") == pytest.approx(0.3), "also if others came since"
    world.now += PEAK
    world.write(1, 0.01)
    assert world.told("recent_stall") == pytest.approx(0.02)
    world.now += 3 * PEAK
    assert world.told("recent_stall") == 0.0
    assert world.told("longest_stall") == pytest.approx(0.3)


def test_what_waits_still_counts_as_long_as_it_has_waited(world):
    world.writes.take([Request(1)])
    world.now += 2.5
    assert world.told("recent_stall") == pytest.approx(2.5) and world.told("waited") == 0.0
