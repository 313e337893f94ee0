# SPDX-License-Identifier: LGPL-2.1-only
"""Calls side by side: how many there are at a time, and what a slow or failing one does to the
others."""

import threading

import pytest

from storage_motion.cli.beside import Bounds, as_they_end
from tests.eventually import eventually

PATIENCE = 30.0


class Calls:
    """Each has to be let go. `running`: the items whose calls are under way; `most`: how many there
    have been at a time, {place: number}, "" for all."""

    def __init__(self):
        self._lock = threading.Lock()
        self._free = threading.Semaphore(0)
        self.running, self.begun, self.most = [], [], {}

    def __call__(self, item):
        with self._lock:
            self.running.append(item)
            self.begun.append(item)
            for place in (item[0], ""):
                now = sum(place in ("", one[0]) for one in self.running)
                self.most[place] = max(now, self.most.get(place, 0))
        assert self._free.acquire(timeout=PATIENCE)
        with self._lock:
            self.running.remove(item)
        return item

    def let_go(self, number):
        for _ in range(number):
            self._free.release()


def of(place, *numbers):
    return [(place, number) for number in numbers]


def place(item):
    return item[0]


def test_no_place_has_more_than_its_share_and_all_together_no_more_than_theirs():
    calls = Calls()
    calls.let_go(100)
    items = of("a", *range(30)) + of("b", *range(30)) + of("c", *range(30))
    found = list(as_they_end(calls, items, place, Bounds(2, 5)))
    assert sorted(one.number for one in found) == list(range(90))
    assert all(items[one.number] == one.answer for one in found)
    assert calls.most[""] <= 5 and all(calls.most[one] <= 2 for one in "abc")


def test_one_whose_place_is_busy_keeps_nobody_else_waiting():
    calls = Calls()
    ends = as_they_end(calls, of("a", 1, 2, 3) + of("b", 4), place, Bounds(1, 9))
    calls.let_go(4)
    next(ends)
    eventually(lambda: len(calls.begun) == 2, "the first of each")
    assert set(calls.begun) == {("a", 1), ("b", 4)}
    assert len(list(ends)) == 3
    assert [one for one in calls.begun if one[0] == "a"] == of("a", 1, 2, 3), "in their order"


def test_what_one_raises_is_its_own():
    def work(item):
        if item == 2:
            raise ValueError("of 2")
        return item

    found = {one.number: one for one in as_they_end(work, [1, 2, 3], id, Bounds(1, 1))}
    assert (found[0].answer, found[2].answer) == (1, 3) and found[0].error is None
    assert isinstance(found[1].error, ValueError) and found[1].answer is None


def test_who_waits_is_told_now_and_then_that_none_has_ended():
    calls = Calls()
    ends = as_they_end(calls, of("a", 1), place, Bounds(1, 1), every=0.01)
    assert next(ends) is None and next(ends) is None
    calls.let_go(1)
    assert [one.answer for one in ends if one] == of("a", 1)


def test_after_ctrl_c_no_more_is_begun_and_nothing_is_waited_for():
    """The call that is under way does not end here as long as the test runs."""
    calls = Calls()
    with pytest.raises(KeyboardInterrupt):
        for _ in as_they_end(calls, of("a", *range(9)), place, Bounds(2, 2), every=0.01):
            eventually(lambda: len(calls.begun) == 2, "two calls")
            raise KeyboardInterrupt
    calls.let_go(9)
    eventually(lambda: not calls.running, "their ends")
    assert len(calls.begun) == 2
