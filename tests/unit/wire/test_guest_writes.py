# SPDX-License-Identifier: LGPL-2.1-only
"""When a guest writes, and how a copy gives way to it."""

import os
import threading

import pytest

from storage_motion.wire import guest_writes
from storage_motion.wire.guest_writes import GIVING_WAY, LOWEST, CopyPriority, GuestWrites

BOUND = 30.0  # seconds


@pytest.fixture
def now(monkeypatch):
    """[the time]"""
    now = [50.0]
    monkeypatch.setattr(guest_writes.time, "monotonic", lambda: now[0])
    return now


def test_a_guest_writes_for_a_moment_after_each_of_its_writes(now):
    guest = GuestWrites()
    assert not guest.are_coming()
    guest.came()
    now[0] += 0.9 * guest_writes.RECENT
    assert guest.are_coming()
    now[0] += 0.2 * guest_writes.RECENT
    assert not guest.are_coming()


def test_as_many_as_it_had_in_flight_at_a_time_count_for_a_moment(now):
    guest = GuestWrites()
    assert guest.in_flight() == 0
    guest.came(8)
    guest.came(3)
    assert guest.in_flight() == 8
    now[0] += 0.9 * guest_writes.RECENT
    guest.came(2)
    assert guest.in_flight() == 8
    now[0] += 0.2 * guest_writes.RECENT
    guest.came(1)
    assert guest.in_flight() == 1
    now[0] += guest_writes.RECENT
    assert guest.in_flight() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="to raise a priority again is root's")
def test_a_copy_gives_way_while_the_guest_writes_and_no_longer(now):
    """The thread that copies alone: the mirror's is as quick as before."""
    guest, found = GuestWrites(), []
    usual = os.getpriority(os.PRIO_PROCESS, 0)

    def copy():
        priority = CopyPriority(guest)
        for come, passed in ((False, 0), (True, 0), (False, 0.5), (False, 0.6), (True, 0)):
            if come:
                guest.came()
            now[0] += passed * guest_writes.RECENT
            priority.adjust()
            found.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=copy)
    thread.start()
    thread.join(BOUND)
    low = min(usual + GIVING_WAY, LOWEST)
    assert found == [usual, low, low, usual, low]
    assert os.getpriority(os.PRIO_PROCESS, 0) == usual


def test_who_may_not_raise_a_priority_goes_on_with_a_low_one(now, monkeypatch):
    refused, guest = [], GuestWrites()

    def setpriority(which, who, nice):
        if nice < GIVING_WAY:
            refused.append(nice)
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(guest_writes.os, "setpriority", setpriority)
    monkeypatch.setattr(guest_writes.os, "getpriority", lambda which, who: 0)
    priority = CopyPriority(guest)
    guest.came()
    priority.adjust()
    now[0] += 2 * guest_writes.RECENT
    priority.adjust()
    priority.adjust()
    assert refused == [0]
