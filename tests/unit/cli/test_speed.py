# SPDX-License-Identifier: LGPL-2.1-only
"""Speed and time to go are told of what was seen, and where nobody can tell it is said so."""

import pytest

from storage_motion.cli import quantities, watched
from storage_motion.cli.speed import STALLED, WINDOW, Speed
from test_screen import disk

MIB = 1 << 20


def seen(*looks):
    one = Speed()
    for at, done in looks:
        one.see(at, done)
    return one


def test_two_looks_are_enough():
    one = seen((100, 0))
    assert one.rate is None and one.left(10) is None and one.stalled is None
    one.see(101, 4)
    assert one.rate == 4 and one.left(10) == 1.5 and one.left(4) == 0


def test_it_is_of_the_last_seconds_and_not_of_all_the_time():
    one = seen(*[(at, at * 100) for at in range(20)])
    for at in range(20, 40):
        one.see(at, 1900 + (at - 19) * 10)
    assert one.rate == pytest.approx(10) and one.left(2100 + 100) == pytest.approx(10)


def test_what_does_not_move_is_stalled_after_a_while_and_nobody_tells_its_end():
    one = seen((0, 0), (1, 50), (2, 50))
    assert one.stalled is None and one.left(100) == pytest.approx(2)
    one.see(1 + STALLED, 50)
    assert one.stalled == STALLED and one.left(100) is None
    one.see(1 + WINDOW * 3, 50)
    assert one.rate == 0 and one.left(100) is None and one.left(50) == 0
    one.see(2 + WINDOW * 3, 60)
    assert one.stalled is None and one.left(100) is not None


def test_it_may_begin_anew():
    one = seen((0, 0), (1, 100), (2, 10), (3, 20))
    assert one.rate == 10 and one.stalled is None


def test_two_looks_at_one_moment_divide_nothing_by_nothing():
    assert seen((5, 0), (5, 10)).rate is None
    assert seen((5, 0), (5, 0), (5, 3), (6, 4)).rate == 1
    assert seen((5, 10), (4, 20)).rate is None, "a clock that goes back"
    assert seen((0, 0), (1, 1)).left(10**15) is None, "and no time that means nothing"


def test_a_disk_has_a_speed_while_it_is_copied_alone():
    """Of its last try: one that broke begins anew."""
    one = watched.Disk()
    states = ["waiting", "copying", "copying", "broken", "mirroring", "copying", "copying"]
    rates = []
    for at, (state, done) in enumerate(zip(states, (0, 50, 80, 80, 80, 90, 110))):
        one.see(float(at), disk(state=state, verified=done))
        rates.append(one.copy.rate)
    assert rates == [None, None, 30, None, None, None, 20]


def test_nothing_to_do_is_done():
    assert seen((0, 0)).left(0) == 0 and seen().left(5) is None


@pytest.mark.parametrize(
    "value, told",
    [
        (None, "-"),
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (0.305, "0.30 s"),
        (0.99949, "1.00 s"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (90000, "1d01h"),
    ],
)
def test_durations(value, told):
    assert quantities.seconds(value) == told


@pytest.mark.parametrize(
    "value, told",
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (MIB, "1.0 MiB"),
        (112.34 * MIB, "112 MiB"),
        (1000 * MIB, "1.0 GiB"),
        (5 * 2**60, "5120 PiB"),
    ],
)
def test_sizes(value, told):
    assert quantities.size(value) == told


def test_parts_and_latencies():
    assert quantities.part(512 * MIB, 2048 * MIB) == "0.5/2.0 GiB"
    assert quantities.part(0, 0) == "0/0 B"
    told = [quantities.latency(value) for value in (None, 0.00083, 0.0099, 0.00996, 0.4, 1.23)]
    assert told == ["-", "0.8 ms", "9.9 ms", "10 ms", "400 ms", "1.2 s"]


def test_moments_are_utc():
    assert quantities.moment(0) == "1970-01-01 00:00:00 UTC" and quantities.moment(None) == "-"
