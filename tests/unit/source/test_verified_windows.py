# SPDX-License-Identifier: LGPL-2.1-only
"""The file of what a copy has verified, beside a plain model of it."""

import os
import tempfile

import pytest
from hypothesis import given, settings, strategies as st

from storage_motion.errors import DataPathError
from storage_motion.source import verified_windows
from storage_motion.source.ranges import RangeSet
from storage_motion.source.verified_windows import HEADING, VerifiedWindows, heading_of, known
from storage_motion.source.windows import WINDOW

SECTORS = 37 * WINDOW + 8  # the last window is short, the last byte of the bitmaps as well
LAST = SECTORS // WINDOW


def sectors(first, last):
    """[start, end) that lies in the windows from `first` to `last`, not all of them."""
    return first * WINDOW + 3, min(last * WINDOW + 5, SECTORS)


spans = st.tuples(st.integers(0, LAST), st.integers(0, LAST)).map(sorted)
steps = st.lists(st.tuples(st.sampled_from(["verified", "wrote"]), spans), max_size=30)


@settings(max_examples=200, deadline=None)
@given(steps, st.lists(spans, max_size=5))
def test_what_is_verified_and_not_written_since_is_known(done, changed):
    good, written = set(), set()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "map")
        windows = VerifiedWindows(path, SECTORS)
        for what, (first, last) in done:
            getattr(windows, what)(*sectors(first, last))
            (good if what == "verified" else written).update(range(first, last + 1))
        found = known(path, SECTORS, [sectors(*span) for span in changed])
    for first, last in changed:
        good -= set(range(first, last + 1))
    wanted = RangeSet()
    for window in sorted(good - written):
        wanted.add(window * WINDOW, min((window + 1) * WINDOW, SECTORS))
    assert found == wanted


@given(st.lists(st.integers(0, SECTORS - 1), max_size=12))
def test_of_a_disk_that_began_as_zeros_all_but_the_data_is_known(places):
    data = RangeSet((place, place + 1) for place in places)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "map")
        VerifiedWindows(path, SECTORS).all_but(data, SECTORS)
        found = known(path, SECTORS, [])
    for window in range(LAST + 1):
        start, end = window * WINDOW, min((window + 1) * WINDOW, SECTORS)
        assert found.overlaps(start, end) is not data.overlaps(start, end)
    assert found.total == sum(end - start for start, end in found)


def test_of_a_scattered_disk_the_longest_ranges_are_known(tmp_path):
    path = str(tmp_path / "map")
    windows = VerifiedWindows(path, 1000 * WINDOW)
    for first in range(0, 200, 2):
        windows.verified(first * WINDOW, (first + 1) * WINDOW)
    windows.verified(300 * WINDOW, 310 * WINDOW)
    windows.verified(320 * WINDOW, 322 * WINDOW)
    assert len(known(path, 1000 * WINDOW, [])) == 102
    longest = known(path, 1000 * WINDOW, [], most_ranges=50)
    assert longest == RangeSet([(300 * WINDOW, 310 * WINDOW), (320 * WINDOW, 322 * WINDOW)])


def test_a_heading_is_there_when_the_copy_begins_and_not_before(tmp_path):
    path = str(tmp_path / "map")
    assert heading_of(path) is None
    windows = VerifiedWindows(path, SECTORS)
    windows.verified(0, WINDOW)
    assert heading_of(path) is None
    windows.begin({"snapshot": "one"})
    assert heading_of(path) == {"snapshot": "one"}
    with pytest.raises(DataPathError):
        windows.begin({"snapshot": "x" * HEADING})
    VerifiedWindows(path, SECTORS)
    assert heading_of(path) is None and len(known(path, SECTORS, [])) == 0


@pytest.mark.parametrize("length", [0, HEADING, HEADING + 9, HEADING + 11])
def test_a_file_of_another_disk_is_refused(tmp_path, length):
    path = tmp_path / "map"
    path.write_bytes(bytes(length))
    with pytest.raises(DataPathError):
        known(str(path), SECTORS, [])


def test_where_there_is_no_room_there_is_no_file(tmp_path, monkeypatch):
    """A page that cannot be had when it is written to would end the process by a signal."""

    def refused(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(verified_windows.os, "posix_fallocate", refused)
    with pytest.raises(DataPathError, match="No space left"):
        VerifiedWindows(str(tmp_path / "map"), SECTORS)
    assert not (tmp_path / "map").exists()


def test_four_tebibytes_take_a_mebibyte(tmp_path):
    path = str(tmp_path / "map")
    VerifiedWindows(path, (4 << 40) // 512)
    assert os.stat(path).st_size == HEADING + (1 << 20)
