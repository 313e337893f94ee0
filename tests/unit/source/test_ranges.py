# SPDX-License-Identifier: LGPL-2.1-only
"""RangeSet against a plain set of integers."""

from hypothesis import given, settings, strategies as st

from storage_motion.source.ranges import RangeSet, intersection, total

LIMIT = 60
spans = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT))
changes = st.lists(st.tuples(st.sampled_from(["add", "subtract"]), spans), max_size=30)


@settings(max_examples=1000, deadline=None)
@given(changes, spans)
def test_it_is_a_set_of_integers(changes, probe):
    ranges, model = RangeSet(), set()
    for operation, (start, end) in changes:
        getattr(ranges, operation)(start, end)
        (model.update if operation == "add" else model.difference_update)(range(start, end))
    listed = list(ranges)
    assert {number for start, end in listed for number in range(start, end)} == model
    assert ranges.total == len(model)
    # Canonical: ascending, not empty, neither touching nor overlapping.
    assert all(start < end for start, end in listed)
    assert all(left[1] < right[0] for left, right in zip(listed, listed[1:]))
    start, end = probe
    inside = set(range(start, end)) & model
    assert ranges.overlaps(start, end) == bool(inside)
    assert {number for s, e in ranges.within(start, end) for number in range(s, e)} == inside
    assert {number for s, e in ranges.missing(start, end) for number in range(s, e)} == set(
        range(start, end)
    ) - model
    assert total(intersection([probe], ranges)) == len(inside)


def test_equal_sets_are_equal_however_they_were_made():
    assert RangeSet([(0, 2), (2, 5)]) == RangeSet([(0, 5)])
    assert RangeSet([(0, 2)]) != RangeSet([(0, 3)])


def test_many_ranges():
    ranges = RangeSet((2 * i, 2 * i + 1) for i in range(200000))
    assert (len(ranges), ranges.total) == (200000, 200000)
    ranges.add(100, 300001)
    assert len(ranges) == 200000 - 149951 + 1
    ranges.subtract(0, 400000)
    assert (len(ranges), ranges.total) == (0, 0)


def test_a_copy_is_another_set():
    one = RangeSet([(0, 10), (20, 30)])
    other = one.copy()
    other.subtract(5, 25)
    assert list(one) == [(0, 10), (20, 30)] and one.total == 20
    assert list(other) == [(0, 5), (25, 30)] and other.total == 10
