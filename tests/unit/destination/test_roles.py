# SPDX-License-Identifier: LGPL-2.1-only
"""The receiver's end of a mirror and of a copy, with a tapdisk that takes one request after
another."""

import errno
import socket
import threading

import pytest

from fake_tapdisk import BOUND, FakeTapdisk
from storage_motion.destination.copy_role import MAX_LENGTH, SEVERAL, SMALL, CopyRole
from storage_motion.destination.mirror_role import FIRST_PIECE, MirrorRole
from storage_motion.errors import ConnectionLost, ProtocolError
from storage_motion.wire import nbd, nbd_client, stream
from storage_motion.wire.guest_writes import GuestWrites

SIZE = 16 << 20
READ, WRITE = nbd.CMD_READ, nbd.CMD_WRITE


class Served(object):
    """A role that is served in a thread: `mover`, its other end; `ended()`, what it ended with."""

    def __init__(self, make, tapdisk):
        self.mover, ours = socket.socketpair()
        self.mover.settimeout(BOUND)
        self._ours = ours
        self._outcome = []
        self._role = make(ours, *tapdisk.clients)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self._role.run()
            self._outcome.append(None)
        except Exception as error:
            self._outcome.append(error)
        self._ours.close()

    def send(self, command, handle, offset, length, data=b""):
        header = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, command, handle, offset, length)
        self.mover.sendall(header + data)

    def replies(self, count):
        """{handle: error} of the next so many."""
        found = {}
        for _ in range(count):
            reply = stream.receive_steadily(self.mover, nbd.SIMPLE_REPLY.size)
            magic, error, handle = nbd.SIMPLE_REPLY.unpack(reply)
            assert magic == nbd.SIMPLE_REPLY_MAGIC and handle not in found
            found[handle] = error
        return found

    def silent(self):
        """Whether it has said nothing so far."""
        self.mover.setblocking(False)
        try:
            return stream.receive_some(self.mover, bytearray(1)) is None
        finally:
            self.mover.settimeout(BOUND)

    def ended(self):
        self._thread.join(BOUND)
        return self._outcome[0]


@pytest.fixture
def served():
    """`served(role, **of FakeTapdisk)`: (Served, FakeTapdisk)"""
    closing = []

    def make(role, **options):
        tapdisk = FakeTapdisk(SIZE, 1 if role is MirrorRole else 2, **options)
        one = Served(role, tapdisk)
        closing.extend((tapdisk.close, one.mover.close))
        return one, tapdisk

    yield make
    for close in reversed(closing):
        close()


def data(number, length):
    return bytes([number]) * length


def test_a_copy_is_answered_when_it_was_read_back(served):
    role, tapdisk = served(CopyRole)
    role.send(WRITE, 7, 4096, 8192, data(3, 8192))
    assert role.silent()
    tapdisk.go()
    assert role.replies(1) == {7: 0}
    assert tapdisk.seen == [(0, WRITE, 4096, 8192), (1, READ, 4096, 8192)]
    assert tapdisk.disk[4096:12288] == data(3, 8192)
    role.send(nbd.CMD_DISC, 0, 0, 0)
    assert role.ended() is None


def test_what_reads_otherwise_than_it_was_written_is_told(served):
    role, tapdisk = served(CopyRole)
    tapdisk.spoil = lambda offset, written: offset == 512  # a write that is lost
    tapdisk.go()
    role.send(WRITE, 1, 512, 512, data(1, 512))
    role.send(WRITE, 2, 1024, 512, data(2, 512))
    assert role.replies(2) == {1: nbd.NOT_AS_WRITTEN, 2: 0}


@pytest.mark.parametrize("command", [WRITE, READ])
def test_an_error_of_tapdisk_is_passed_on(served, command):
    role, tapdisk = served(CopyRole)
    tapdisk.errors = {(command, 512): errno.ENOSPC}
    tapdisk.go()
    role.send(WRITE, 1, 512, 512, data(1, 512))
    assert role.replies(1) == {1: errno.ENOSPC}


def test_zeros_are_written_where_they_have_to_be_and_else_looked_for(served):
    role, tapdisk = served(CopyRole)
    tapdisk.disk[:] = data(9, SIZE)
    tapdisk.disk[2 << 20 : 3 << 20] = bytes(1 << 20)
    tapdisk.go()
    role.send(nbd.CMD_WRITE_ZEROES, 1, 0, 1 << 20)
    role.send(nbd.CMD_REQUIRE_ZEROES, 2, 2 << 20, 1 << 20)
    role.send(nbd.CMD_REQUIRE_ZEROES, 3, (3 << 20) - 512, 1024)
    assert role.replies(3) == {1: 0, 2: 0, 3: nbd.NOT_AS_WRITTEN}
    assert tapdisk.disk[: 1 << 20] == bytes(1 << 20)
    assert [offset for _, command, offset, _ in tapdisk.seen if command == WRITE] == [0]


def test_a_tapdisk_that_stops_until_its_answers_are_taken_holds_nobody_up(served):
    """More is under way in both directions than the sockets hold."""
    role, tapdisk = served(CopyRole)
    tapdisk.go()
    sender = threading.Thread(
        target=lambda: [
            role.send(WRITE, number, number << 20, 1 << 20, data(number, 1 << 20))
            for number in range(16)
        ],
        daemon=True,
    )
    sender.start()
    assert role.replies(16) == dict.fromkeys(range(16), 0)
    sender.join(BOUND)
    assert all(tapdisk.disk[number << 20] == number for number in range(16))


def test_one_at_a_time_where_tapdisk_bears_no_more(served):
    role, tapdisk = served(CopyRole, depth=1)
    tapdisk.go()
    for number in range(6):
        role.send(WRITE, number, number * 512, 512, data(number, 512))
    assert role.replies(6) == dict.fromkeys(range(6), 0)
    writes = [offset for _, command, offset, _ in tapdisk.seen if command == WRITE]
    assert writes == [number * 512 for number in range(6)]


@pytest.mark.parametrize(
    "command, length", [(READ, 512), (WRITE, MAX_LENGTH + 512), (nbd.CMD_REQUIRE_ZEROES, 2 << 20)]
)
def test_what_is_no_copy_ends_the_role(served, command, length):
    role, tapdisk = served(CopyRole)
    tapdisk.go()
    role.send(command, 1, 0, length, bytes(length) if command == WRITE else b"")
    assert isinstance(role.ended(), ProtocolError)
    assert tapdisk.seen == []


class Writing(GuestWrites):
    """A guest that writes all the time, and has so many writes in flight."""

    def __init__(self, count=1):
        GuestWrites.__init__(self)
        self.count = count

    def are_coming(self):
        return True

    def in_flight(self):
        return self.count


def beside_a_guest(mover, writing, reading):
    return CopyRole(mover, writing, reading, Writing())


def test_while_the_guest_writes_tapdisk_has_one_small_piece_at_a_time(served):
    role, tapdisk = served(beside_a_guest)
    tapdisk.go()
    role.send(WRITE, 1, 0, 3 * SMALL + 512, data(1, 3 * SMALL) + data(2, 512))
    role.send(WRITE, 2, 1 << 20, 512, data(3, 512))
    assert role.replies(2) == {1: 0, 2: 0}
    parts = [(at, SMALL) for at in range(0, 3 * SMALL, SMALL)]
    parts += [(3 * SMALL, 512), (1 << 20, 512)]
    # each is read back before the next one is written
    assert tapdisk.seen == [
        (connection, command, *part)
        for part in parts
        for connection, command in ((0, WRITE), (1, READ))
    ]
    assert tapdisk.disk[: 3 * SMALL + 512] == data(1, 3 * SMALL) + data(2, 512)


class Counted(CopyRole):
    """Counts how many pieces tapdisk has at a time."""

    most = 0

    def _hand_over(self, piece):
        handle = CopyRole._hand_over(self, piece)
        self.most = max(self.most, len(self._at_tapdisk))
        return handle


@pytest.mark.parametrize(
    "count, length, together",
    [(2, 2 * SMALL, 1), (SEVERAL, SEVERAL * SMALL, 2), (100, MAX_LENGTH, 2)],
)
def test_a_guest_that_waits_for_its_own_writes_lets_the_copy_go_on(served, count, length, together):
    role, tapdisk = served(lambda *sockets: Counted(*sockets, Writing(count)))
    for number in range(3):
        role.send(WRITE, number, number << 20, MAX_LENGTH, data(number, MAX_LENGTH))
    tapdisk.go()
    assert role.replies(3) == {0: 0, 1: 0, 2: 0}
    assert max(length for _, _, _, length in tapdisk.seen) == length
    assert role._role.most == together


@pytest.mark.parametrize("command", [WRITE, READ])
def test_an_error_of_one_piece_is_the_requests_and_told_once(served, command):
    role, tapdisk = served(beside_a_guest)
    tapdisk.errors = {(command, SMALL): errno.ENOSPC, (command, 2 * SMALL): errno.EIO}
    tapdisk.go()
    role.send(WRITE, 1, 0, 4 * SMALL, data(1, 4 * SMALL))
    role.send(WRITE, 2, 1 << 20, 512, data(2, 512))
    assert role.replies(2) == {1: errno.ENOSPC, 2: 0}
    assert role.silent()


def test_a_piece_that_is_lost_is_told(served):
    role, tapdisk = served(beside_a_guest)
    tapdisk.spoil = lambda offset, written: offset == 2 * SMALL
    tapdisk.go()
    role.send(WRITE, 1, 0, 4 * SMALL, data(1, 4 * SMALL))
    assert role.replies(1) == {1: nbd.NOT_AS_WRITTEN}


def test_zeros_go_in_pieces_too(served):
    role, tapdisk = served(beside_a_guest)
    tapdisk.disk[: 4 << 20] = data(9, 4 << 20)
    tapdisk.disk[1 << 20 : 2 << 20] = bytes(1 << 20)
    tapdisk.go()
    role.send(nbd.CMD_REQUIRE_ZEROES, 1, 1 << 20, 1 << 20)
    role.send(nbd.CMD_REQUIRE_ZEROES, 2, (2 << 20) - 2 * SMALL, 3 * SMALL)
    role.send(nbd.CMD_WRITE_ZEROES, 3, 0, 1 << 20)
    assert role.replies(3) == {1: 0, 2: nbd.NOT_AS_WRITTEN, 3: 0}
    assert tapdisk.disk[: 1 << 20] == bytes(1 << 20)
    assert max(length for _, _, _, length in tapdisk.seen) == SMALL


def test_the_mirror_tells_the_copy(served):
    guest = GuestWrites()
    role, tapdisk = served(lambda mover, client, *_: MirrorRole(mover, client, guest))
    tapdisk.go()
    assert not guest.are_coming()
    for handle in (1, 2, 3):
        role.send(WRITE, handle, 0, 512, data(1, 512))
    assert role.replies(3) == {1: 0, 2: 0, 3: 0}
    assert guest._latest > 0 and 1 <= guest._most <= 3


def test_beyond_the_disk_nothing_goes_to_tapdisk(served):
    role, tapdisk = served(CopyRole)
    tapdisk.go()
    role.send(WRITE, 1, SIZE - 512, 1024, bytes(1024))
    role.send(WRITE, 2, 100, 512, bytes(512))
    assert role.replies(2) == {1: errno.ENOSPC, 2: errno.EINVAL}
    assert tapdisk.seen == []


def test_a_mover_that_goes_with_something_unanswered_breaks_the_role(served):
    role, tapdisk = served(CopyRole)
    role.send(WRITE, 1, 0, 512, bytes(512))
    role.mover.close()
    tapdisk.go()
    assert isinstance(role.ended(), ConnectionLost)


def test_mirrored_writes_go_as_they_came_and_their_answers_too(served):
    role, tapdisk = served(MirrorRole)
    tapdisk.errors = {(WRITE, 1024): errno.EIO}
    for number in range(4):
        role.send(WRITE, 100 + number, number * 512, 512, data(number, 512))
    assert role.silent()
    tapdisk.go()
    assert role.replies(4) == {100: 0, 101: 0, 102: errno.EIO, 103: 0}
    assert [offset for _, _, offset, _ in tapdisk.seen] == [0, 512, 1024, 1536]
    role.send(nbd.CMD_DISC, 0, 0, 0)
    assert role.ended() is None


def test_a_long_mirrored_write_goes_in_pieces_and_is_answered_once(served):
    role, tapdisk = served(MirrorRole, depth=2)
    written = b"".join(data(number, 1 << 20) for number in range(1, 5))
    tapdisk.errors = {(WRITE, 2 << 20): errno.EIO}
    tapdisk.go()
    role.send(WRITE, 5, 0, len(written), written)
    role.send(WRITE, 6, 8 << 20, 512, data(6, 512))
    assert role.replies(2) == {5: errno.EIO, 6: 0}
    assert tapdisk.disk[: 4 << 20] == written
    assert {length for _, _, offset, length in tapdisk.seen if offset < 8 << 20} == {
        nbd_client.PIECE
    }


@pytest.mark.parametrize(
    "command, handle", [(READ, 1), (nbd.CMD_WRITE_ZEROES, 1), (WRITE, FIRST_PIECE)]
)
def test_what_is_no_mirrored_write_ends_the_role(served, command, handle):
    role, tapdisk = served(MirrorRole)
    tapdisk.go()
    role.send(command, handle, 0, 512, bytes(512) if command == WRITE else b"")
    assert isinstance(role.ended(), ProtocolError)
    assert tapdisk.seen == []


def test_a_tapdisk_that_goes_breaks_the_role(served):
    role, tapdisk = served(MirrorRole)
    tapdisk.go()
    tapdisk._ends[0].shutdown(socket.SHUT_RDWR)
    assert isinstance(role.ended(), ConnectionLost)
