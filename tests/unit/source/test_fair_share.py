# SPDX-License-Identifier: LGPL-2.1-only
"""Copies to one host share the way alike, whatever the network would give each, and none waits for
one that needs no share, hangs or was killed."""

import os
import subprocess
import sys

import pytest

from storage_motion.source import fair_share

MIB = 1 << 20
REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))


class Clock(object):
    """A time of its own."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def begin(tmp_path, clock):
    """begin(name, address): a FairShare, which ends with the test."""
    begun = []

    def begin(name, address="192.0.2.1"):
        share = fair_share.FairShare(
            str(tmp_path / (name + ".sent")), str(tmp_path / "*.sent"), address, clock
        )
        begun.append(share)
        return share

    yield begin
    for share in begun:
        share.close()


class Copy(object):
    """A copy with four windows of 1 MiB under way at most, as the copier's. `weight`: what the
    network gives it, beside the others."""

    def __init__(self, share, weight):
        self.share, self.weight = share, weight
        self.arrived = self.queued = 0.0

    def send(self):
        """As much as it may."""
        while self.queued <= 3 * MIB and not self.share.pause():
            self.share.sent(MIB)
            self.queued += MIB

    def carry(self, length):
        """The network takes so many bytes of it on."""
        before = self.arrived // MIB  # what is whole, is answered
        self.arrived += length
        self.queued -= length
        if self.arrived // MIB > before:
            self.share.answered(self.queued > 0)


def run(clock, copies, seconds, rate):
    """A link of so many bytes a second, which goes to those that have something to send by their
    weights; what it has carried in all."""
    step, carried = 0.001, 0.0
    for number in range(int(seconds / step)):
        if not number % 5:
            for copy in copies:
                copy.send()
        left, weights = rate * step, sum(copy.weight for copy in copies)
        # those first that need less than their part: what they leave is for the others
        for copy in sorted(copies, key=lambda one: one.queued / one.weight):
            part = min(copy.queued, left * copy.weight / weights)
            copy.carry(part)
            left -= part
            weights -= copy.weight
            carried += part
        clock.now += step
    return carried


def find(clock):
    """After this everybody has found everybody."""
    clock.now += fair_share.FIND


def test_all_get_the_same_of_a_link_that_prefers_some(begin, clock):
    weights = (20.0, 10.0, 5.0, 2.0, 1.0, 1.0, 0.5, 0.2)
    copies = [Copy(begin("d%d" % number), weight) for number, weight in enumerate(weights)]
    find(clock)
    carried = run(clock, copies, 8.0, 64 * MIB)
    assert carried > 0.98 * 8 * 64 * MIB  # nothing of it is lost
    arrived = [copy.arrived for copy in copies]
    assert max(arrived) - min(arrived) <= 8 * MIB, arrived  # of 64


def test_one_alone_does_not_wait(begin, clock):
    share = begin("d")
    for _ in range(100):
        clock.now += 0.1
        assert not share.pause()
        share.sent(MIB)
        share.answered(True)


@pytest.fixture
def pair(begin, clock):
    """One that is far ahead of another, which has just said that it waits for the network."""
    ahead, behind = begin("ahead"), begin("behind")
    find(clock)
    ahead.pause()
    behind.answered(True)
    ahead.sent(fair_share.LEAD + MIB)
    return ahead, behind


def test_who_is_ahead_waits_until_the_other_has_come_near(pair):
    ahead, behind = pair
    assert ahead.pause() == fair_share.LOOK
    assert not behind.pause()
    behind.sent(MIB)
    assert not ahead.pause()


def test_who_goes_to_another_host_is_not_waited_for(begin, clock, pair):
    ahead, behind = pair
    other = begin("other", "192.0.2.2")
    find(clock)
    other.sent(100 * MIB)
    assert not other.pause()
    assert ahead.pause()


def test_who_does_not_wait_for_the_network_is_not_waited_for(pair):
    ahead, behind = pair
    behind.answered(False)
    assert not ahead.pause()


def test_what_was_not_used_is_not_saved_up(clock, pair):
    ahead, behind = pair
    behind.answered(False)
    ahead.sent(100 * MIB)
    find(clock)
    behind.pause()
    behind.answered(False)
    behind.answered(True)
    ahead.answered(True)
    assert not ahead.pause()
    behind.sent(fair_share.LEAD + MIB)
    assert behind.pause()


def test_who_begins_later_begins_where_the_others_are(begin, clock, pair):
    ahead, behind = pair
    behind.sent(100 * MIB)
    ahead.sent(100 * MIB)
    late = begin("late")
    late.answered(True)
    find(clock)
    assert not behind.pause()
    late.sent(fair_share.LEAD + MIB)
    behind.answered(True)
    assert late.pause()


def test_no_piece_waits_longer_than_patience(clock, pair):
    ahead, behind = pair
    assert ahead.pause()
    clock.now += fair_share.PATIENCE - 0.1
    behind.answered(True)  # alive, but it does not come near
    assert ahead.pause()
    clock.now += 0.2
    behind.answered(True)
    assert not ahead.pause()
    ahead.sent(MIB)  # and the next piece as long again
    assert ahead.pause()


def test_who_is_silent_is_not_waited_for(clock, pair):
    ahead, _ = pair
    assert ahead.pause()
    clock.now += fair_share.PATIENCE
    assert not ahead.pause()
    ahead.sent(MIB)
    assert not ahead.pause()


def test_who_was_silent_for_long_makes_up_for_little(clock, pair):
    ahead, behind = pair
    ahead.answered(True)
    ahead.sent(1000 * MIB)
    clock.now += 100
    behind.pause()
    behind.answered(True)
    behind.sent(fair_share.ARREARS)
    assert not ahead.pause()


def test_who_has_ended_is_not_waited_for(pair):
    ahead, behind = pair
    assert ahead.pause()
    behind.close()
    assert not ahead.pause()


KILLED = """
import sys
from storage_motion.source import fair_share
share = fair_share.FairShare(sys.argv[1], sys.argv[2], "192.0.2.1")
share.answered(True)
print("ready", flush=True)
sys.stdin.read()
"""


def test_who_was_killed_is_not_waited_for(tmp_path):
    path, pattern = str(tmp_path / "killed.sent"), str(tmp_path / "*.sent")
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, path, pattern],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=REPOSITORY),
    )
    try:
        assert killed.stdout.readline() == b"ready\n"
        said = fair_share.RECORD.unpack((tmp_path / "killed.sent").read_bytes()[:17])
        # its last word stays fresh for as long as the test may take
        share = fair_share.FairShare(
            str(tmp_path / "own.sent"), pattern, "192.0.2.1", lambda: said[1]
        )
        share.sent(fair_share.LEAD + MIB)
        assert share.pause()
    finally:
        killed.kill()
        killed.communicate()
    assert os.path.exists(path)
    assert not share.pause()
    share.close()


def test_its_file_goes_with_it(begin, tmp_path):
    share = begin("d")
    assert os.listdir(str(tmp_path)) == ["d.sent"]
    share.close()
    assert os.listdir(str(tmp_path)) == []


def test_one_whose_file_cannot_be_made_says_so(tmp_path):
    with pytest.raises(OSError):
        fair_share.FairShare(str(tmp_path / "gone" / "d.sent"), str(tmp_path / "*"), "a")
