# SPDX-License-Identifier: LGPL-2.1-only
"""Ranges become extents."""

from hypothesis import given, strategies as st

from storage_motion.dom0.extents import to_extents

SIZE = 1 << 30


def test_odd_ranges_become_sectors_and_end_with_the_disk():
    assert to_extents([(100, 600), (700, 900), (1500, 1600), (4000, 9000)], 8192) == [
        (0, 2048),
        (3584, 4608),
    ]


def test_what_begins_beyond_the_end_is_nothing():
    assert to_extents([(0, 512), (8192, 9000)], 8192) == [(0, 512)]


@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 64)), max_size=60), st.integers(1, 8)
)
def test_too_many_extents_reach_over_gaps_and_lose_nothing(ranges, most):
    ranges = sorted((start * 512, (start + length) * 512) for start, length in ranges)
    exact = to_extents(ranges, SIZE)
    found = to_extents(ranges, SIZE, most)
    assert len(found) <= most
    assert found == exact or len(exact) > most
    assert all(
        any(offset <= start and end <= offset + length for offset, length in found)
        for start, end in ranges
    )
    ends = [offset + length for offset, length in found]
    assert all(end < following for end, (following, _) in zip(ends, found[1:]))
