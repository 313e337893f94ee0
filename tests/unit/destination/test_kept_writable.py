# SPDX-License-Identifier: LGPL-2.1-only
"""How soon the receiver sees that SM waits for a lock which it holds against readers."""

import collections

from storage_motion.destination import receiver

Disk = collections.namedtuple("Disk", "vdi sr gate")
DISKS = [Disk("v", "s", "open"), Disk("w", "s", "shut")]


class Gates(object):
    """They hold a lock from the first look on, until `waits`, and fail at the look `fails`."""

    def __init__(self, fails=None):
        self.looks, self.holds, self.waits, self.fails = [], False, False, fails

    def keep_writable(self, places):
        self.looks.append(places)
        self.holds = not self.waits
        if len(self.looks) == self.fails:
            raise OSError("no /proc")

    def keeps_out(self):
        return self.holds

    def is_waited_for(self):
        return self.waits

    def end_guard(self):
        self.holds = False


class Life(object):
    """Of a process that lives for so many waits; `at`: what happens in one of them, by its
    number. `waited`: how long each was to be."""

    def __init__(self, monkeypatch, waits, at=()):
        self._waits, self._at, self.waited = waits, dict(at), []
        monkeypatch.setattr(receiver.time, "monotonic", lambda: 1000.0 + sum(self.waited))

    def lasts(self, seconds):
        self.waited.append(seconds)
        self._at.get(len(self.waited), lambda: None)()
        return len(self.waited) <= self._waits


def test_who_waits_is_seen_long_before_the_next_look(monkeypatch):
    gates = Gates()
    life = Life(monkeypatch, 6, {5: lambda: setattr(gates, "waits", True)})
    receiver.keep_writable(DISKS, gates, life)
    assert gates.looks == [{"v": "s"}] * 3, "the first; for who waits; and one when nothing is held"
    assert life.waited == [receiver.GUARD] + [receiver.WAITING] * 4 + [receiver.GUARD] * 2


def test_without_one_who_waits_it_looks_as_often_as_ever(monkeypatch):
    gates, looks = Gates(), 5
    life = Life(monkeypatch, int(looks * receiver.GUARD / receiver.WAITING))
    receiver.keep_writable(DISKS, gates, life)
    assert looks - 1 <= len(gates.looks) <= looks and not gates.holds


def test_a_look_that_fails_keeps_nobody_waiting(monkeypatch):
    gates = Gates(fails=2)
    monkeypatch.setattr(gates, "is_waited_for", lambda: True)
    life = Life(monkeypatch, 2)
    receiver.keep_writable(DISKS, gates, life)
    assert len(gates.looks) == 2 and life.waited[-1] == receiver.GUARD
