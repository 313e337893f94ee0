# SPDX-License-Identifier: LGPL-2.1-only
"""What makes a tapdisk keep the memory of a copy's requests."""

import socket

import pytest

from fake_tapdisk import FakeTapdisk
from storage_motion.destination import tapdisk
from storage_motion.destination.copy_role import MAX_LENGTH
from storage_motion.destination.received_disk import ReceivedDisk
from storage_motion.dom0 import blktap
from storage_motion.wire import nbd

SIZE = 16 << 20


@pytest.fixture
def fake():
    """`fake(**of FakeTapdisk)`: one that answers at once."""
    made = []

    def make(size=SIZE, **options):
        made.append(FakeTapdisk(size, **options))
        made[-1].go()
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_one_read_is_larger_than_a_copys_requests_together(fake):
    disk = fake()
    tapdisk.have_memory_kept(disk.clients[0])
    assert disk.seen == [(0, nbd.CMD_READ, 0, tapdisk.LARGE_READ)]
    # one to write, one to read
    assert tapdisk.LARGE_READ > 2 * MAX_LENGTH


def test_a_small_disk_is_not_read_beyond_its_end(fake):
    disk = fake(size=1 << 20)
    tapdisk.have_memory_kept(disk.clients[0])
    assert disk.seen == [(0, nbd.CMD_READ, 0, 1 << 20)]


@pytest.mark.parametrize("depth", [blktap.ALONE, blktap.MOST_QCOW2])
def test_a_tapdisk_of_qcow2_is_left_alone(fake, depth):
    disk = fake(depth=depth)
    tapdisk.have_memory_kept(disk.clients[0])
    assert disk.seen == []


def test_a_copy_begins_with_it(fake, monkeypatch):
    disk = fake()
    received = ReceivedDisk(
        "d",
        {"vdi": "v", "sr": "s", "size": SIZE, "socket": "/no", "depth": 8, "blank": True},
        gates=None,
    )
    monkeypatch.setattr(received, "connect", lambda: disk.clients[1])
    mover, ours = socket.socketpair()
    mover.close()  # there is nothing to copy
    received.forward("copy", ours, disk.clients[0])
    assert disk.seen == [(1, nbd.CMD_READ, 0, tapdisk.LARGE_READ)]
