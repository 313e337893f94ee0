# SPDX-License-Identifier: LGPL-2.1-only
"""A copy whose mover was killed is taken up again by another one, which knows what was verified."""

import random
import shutil
import signal

import pytest

from data_harness import MIB, Mover, Receiver, Site, Tapdisk, pattern, random_batch, same_bytes
from storage_motion.source.verified_windows import heading_of, known
from tests.eventually import eventually

SIZE = 64 * MIB
SLOW = 24 * MIB  # bytes per second: the first mover is killed in the middle


@pytest.fixture
def site():
    with Site() as site:
        yield site


class Move(object):
    """Of a disk with data in its first 32 MiB, to a blank one. `written`: what the guest wrote
    since the first snapshot, (offset, length)."""

    def __init__(self, site):
        self.site, self.written = site, []
        self.leaf = site.image("leaf", pattern(1, 32 * MIB) + bytes(SIZE - 32 * MIB))
        self.leaf_socket = site.serve(self.leaf)[1]
        self.destination = site.image("destination", bytes(SIZE))
        self.destination_socket = site.serve(self.destination)[1]
        self.tries = 0

    def begin(self, blank, **more):
        """Another receiver, mover, snapshot."""
        self.tries += 1
        snapshot = self.site.path("snapshot%d" % self.tries)
        shutil.copy(self.leaf, snapshot)
        key = "d%d" % self.tries
        receiver = Receiver(
            self.site,
            {key: (self.destination_socket, SIZE)},
            blank=blank,
            ready=self.site.path(key + ".ready"),
            control=self.site.path(key + ".receiver"),
        )
        self.mover = Mover(self.site, key, SIZE, receiver.address(), **more)
        self.guest = Tapdisk(self.leaf_socket, self.mover.secondary, SIZE)
        return self.site.serve(snapshot)[1]

    def write(self, batch):
        self.guest.write(batch)
        self.written += [(offset, len(data)) for offset, data in batch]

    def kill(self):
        self.mover.process.send_signal(signal.SIGKILL)
        self.mover.process.wait(30)

    def known(self):
        """What the next mover is told."""
        changed = self.mover.listed("changed.json", self.written, SIZE)
        return {"verified": self.mover.verified, "changed": changed}

    def finish(self):
        copy = self.mover.await_copy()
        assert copy["state"] == "done", copy
        self.guest.detach()
        eventually(lambda: self.mover.ask("status")["state"] == "ended", "the mirror ends")
        assert self.mover.ask("finish") == {"ok": True}
        return copy


def break_in_the_middle(move, generator):
    """The first mover dies when a part is verified, while the guest writes."""
    snapshot = move.begin(True, bandwidth=float(SLOW))
    move.mover.copy(snapshot, [[0, 32 * MIB]], SIZE, True, heading={"snapshot": "first"})
    while move.mover.ask("status")["copy"]["verified"] < 8 * MIB:
        move.write(random_batch(generator, 6 * MIB, 4))
    move.kill()
    assert heading_of(move.mover.verified) == {"snapshot": "first"}


def test_only_what_is_not_known_is_looked_at(site):
    move, generator = Move(site), random.Random(7)
    break_in_the_middle(move, generator)
    move.write([(50 * MIB, pattern(2, 4096)), (4 * MIB + 512, pattern(3, 512))])
    before = move.known()
    sectors = known(before["verified"], SIZE // 512, [])
    assert sectors.overlaps(63 * 2048, 64 * 2048), "what held no data is known as zeros"
    assert not sectors.overlaps(31 * 2048, 32 * 2048), "it was killed in the middle"
    # Nobody but us can have written there: that it is not looked at shows by what it hides.
    hidden = 61 * MIB + 7
    with open(move.destination, "r+b") as image:
        image.seek(hidden)
        image.write(b"!")
    snapshot = move.begin(False)
    data = [[0, 32 * MIB], [50 * MIB, 4096]]
    move.mover.copy(snapshot, data, SIZE, False, compare=True, known=before)
    while move.mover.ask("status")["copy"]["state"] == "running":
        move.write(random_batch(generator, SIZE // 2, 8))
    copy = move.finish()
    assert copy["verified"] + copy["skipped"] + copy["same"] == copy["to_copy"] == SIZE
    with open(move.destination, "r+b") as image:
        image.seek(hidden)
        assert image.read(1) == b"!"
        image.seek(hidden)
        image.write(b"\0")
    assert same_bytes(move.leaf, move.destination)


def test_a_write_that_only_the_destination_got_is_found(site):
    """The guest's own disk may fail, or its host die, between the two; what the destination has
    then the guest never was told of."""
    move, generator = Move(site), random.Random(8)
    break_in_the_middle(move, generator)
    place, before = 40 * MIB, None
    snapshot = move.begin(False, bandwidth=float(SLOW))
    before = {"verified": move.mover.verified}
    move.mover.copy(snapshot, [[0, 32 * MIB]], SIZE, False, heading={"snapshot": "second"})
    eventually(lambda: move.mover.ask("status")["copy"]["verified"] > MIB, "something is verified")
    move.guest.mirror.start_write(place, pattern(4, 4096))
    move.guest.mirror.reap()
    move.kill()
    with open(move.destination, "rb") as image:
        image.seek(place)
        assert image.read(4096) == pattern(4, 4096)
    before["changed"] = move.mover.listed("changed.json", move.written, SIZE)
    assert not known(before["verified"], SIZE // 512, []).overlaps(place // 512, place // 512 + 8)
    snapshot = move.begin(False)
    move.mover.copy(snapshot, [[0, 32 * MIB]], SIZE, False, compare=True, known=before)
    move.finish()
    assert same_bytes(move.leaf, move.destination)


def test_what_is_known_is_known_by_the_next_mover_as_well(site):
    move, generator = Move(site), random.Random(9)
    break_in_the_middle(move, generator)
    first = known(move.mover.verified, SIZE // 512, [])
    before, move.written = move.known(), []
    snapshot = move.begin(False, bandwidth=float(SLOW))
    move.mover.copy(
        snapshot, [[0, 32 * MIB]], SIZE, False, compare=True, known=before, heading={"two": 2}
    )
    eventually(lambda: heading_of(move.mover.verified) == {"two": 2}, "the copy begins")
    move.kill()
    second = known(move.mover.verified, SIZE // 512, [])
    changed = known(before["verified"], SIZE // 512, [])
    assert second.total >= min(first.total, changed.total) - 8 * 2048 > 0
    snapshot = move.begin(False)
    move.mover.copy(snapshot, [[0, 32 * MIB]], SIZE, False, compare=True, known=move.known())
    move.finish()
    assert same_bytes(move.leaf, move.destination)


def test_what_is_no_file_of_this_disk_costs_a_comparison(site):
    move, generator = Move(site), random.Random(11)
    break_in_the_middle(move, generator)
    before = dict(move.known(), verified=site.path("nothing.map"))
    snapshot = move.begin(False)
    move.mover.copy(snapshot, [[0, 32 * MIB]], SIZE, False, compare=True, known=before)
    copy = move.finish()
    assert copy["verified"] + copy["same"] == SIZE and copy["same"] > 0
    assert same_bytes(move.leaf, move.destination)
