# SPDX-License-Identifier: LGPL-2.1-only
"""The receiver's end of the `copy` role: the snapshot's data, to the destination's tapdisk, and
back from it.

A write is answered when it has been read back and found to be what came from the mover: so an
answer says that it is there. What came is kept until then. Zeros on a disk that reads as zeros are
not written, but read: CMD_REQUIRE_ZEROES.

Tapdisk works on one request after the other, and a guest's mirrored write waits for what is before
it. So it has one write and one read of a copy at a time. While the guest writes they are small, and
one of the two at a time: the fewer writes a guest has in flight, the smaller, as it feels the wait
the more. One that always has several waits for its own first of all, and would let a copy hardly go
on (docs/performance.md, What a guest feels beside a copy).
"""

import collections
import itertools
from typing import Dict, List, Optional

from storage_motion.destination import tapdisk
from storage_motion.destination.role import Role
from storage_motion.errors import ProtocolError
from storage_motion.wire import nbd, nbd_client, nbd_server, stream
from storage_motion.wire.guest_writes import CopyPriority, GuestWrites

MAX_LENGTH = 1 << 20  # bytes of one request: a window of the copier
# requests that are taken from the mover and not answered: as many as it sends, so that it waits
# for the network alone. They keep their data.
MAX_REQUESTS = 8
SMALL = 64 << 10  # bytes of a piece for each write that the guest has in flight
# a guest that has so many waits for its own: tapdisk may have a write and a read of the copy
SEVERAL = 4
ZEROS = bytes(MAX_LENGTH)


class _Copy(object):
    """A request, in pieces."""

    __slots__ = ("request", "handle", "cut", "open", "error", "found")

    def __init__(self, request: nbd_server.Request) -> None:
        self.request = request
        self.handle = request.handle  # the mover's
        self.cut = 0  # bytes of it that are, or were, with tapdisk
        self.open = 0  # pieces that are
        self.error = 0  # errno of the first that failed
        self.found: Optional[bytearray] = None  # what is read back, from the first read on


class _Piece(object):
    """A part of a request."""

    __slots__ = ("copy", "at", "length")

    def __init__(self, copy: _Copy, length: int) -> None:
        """The next `length` bytes of it."""
        self.copy = copy
        self.at = copy.cut  # bytes from the request's begin
        self.length = length
        copy.cut += length
        copy.open += 1

    @property
    def stop(self) -> int:
        """Where it ends, from the request's begin."""
        return self.at + self.length

    @property
    def offset(self) -> int:
        """Where it begins on the disk."""
        return self.copy.request.offset + self.at

    @property
    def data(self) -> memoryview:
        """What it is to be on the disk."""
        request = self.copy.request
        if request.command == nbd.CMD_WRITE:
            return request.payload[self.at : self.stop]
        return memoryview(ZEROS)[: self.length]

    @property
    def found(self) -> memoryview:
        """Where it is read back to."""
        assert self.copy.found is not None
        return memoryview(self.copy.found)[self.at : self.stop]

    def is_the_same(self) -> bool:
        """Whether that is so. By `startswith`, which compares memory; views go byte by byte."""
        assert self.copy.found is not None
        return self.copy.found.startswith(self.data, self.at)


class CopyRole(Role):
    """The copy of one disk."""

    COMMANDS = (nbd.CMD_WRITE, nbd.CMD_WRITE_ZEROES, nbd.CMD_REQUIRE_ZEROES)
    PORTION = MAX_LENGTH + nbd.REQUEST.size

    def __init__(
        self,
        mover: stream.Socket,
        writing: nbd_client.Client,
        reading: nbd_client.Client,
        guest: Optional[GuestWrites] = None,
    ) -> None:
        """`writing`, `reading`: two nbd_client.Client of the destination's tapdisk. `guest`: what
        the disk's mirror tells."""
        self._writes = tapdisk.Writes(writing)
        self._reads = tapdisk.Reads(reading)
        Role.__init__(self, mover, writing.size, [self._writes, self._reads])
        self._guest = guest or GuestWrites()
        self._priority = CopyPriority(self._guest)
        self._copies: Dict[int, _Copy] = {}  # the mover's handle -> not answered yet
        # to be cut, the first of them maybe in part
        self._to_write: "collections.deque[_Copy]" = collections.deque()
        self._to_look_at: "collections.deque[_Copy]" = collections.deque()
        self._written: "collections.deque[_Piece]" = collections.deque()  # and not read back yet
        self._handles = itertools.count()
        self._at_tapdisk: Dict[int, _Piece] = {}  # by handles of ours
        self._spare: List[bytearray] = []  # for what is read back

    def _busy(self) -> bool:
        return bool(self._copies)

    def _has_room(self) -> bool:
        return len(self._copies) < MAX_REQUESTS

    def _take(self, requests: List[nbd_server.Request]) -> None:
        for request in requests:
            if request.length > MAX_LENGTH or request.handle in self._copies:
                raise ProtocolError("the mover sent a copy of %d bytes" % request.length)
            copy = self._copies[request.handle] = _Copy(request)
            zeros = request.command == nbd.CMD_REQUIRE_ZEROES
            (self._to_look_at if zeros else self._to_write).append(copy)
        self._go_on()

    def _go_on(self) -> None:
        """Give tapdisk as much as it may have: what has to be read back first, so that no more is
        kept than needed."""
        self._priority.adjust()
        while not self._at_tapdisk or not 0 < self._guest.in_flight() < SEVERAL:
            if self._written and not self._reads.in_flight:
                self._read_back(self._written.popleft())
            elif self._to_write and not self._writes.in_flight:
                self._write_out(self._next_piece(self._to_write))
            elif self._to_look_at and not self._reads.in_flight:
                self._read_back(self._next_piece(self._to_look_at))
            else:
                return

    def _next_piece(self, copies: "collections.deque[_Copy]") -> _Piece:
        copy = copies[0]
        left = copy.request.length - copy.cut
        piece = _Piece(copy, min(left, SMALL * self._guest.in_flight() or left))
        if piece.length == left:
            copies.popleft()
        return piece

    def _write_out(self, piece: _Piece) -> None:
        handle = self._hand_over(piece)
        request = piece.copy.request
        if piece.length == request.length and request.command == nbd.CMD_WRITE:
            request.rename(handle)
            messages = [request.message]
        else:
            header = nbd.REQUEST.pack(
                nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, handle, piece.offset, piece.length
            )
            messages = [memoryview(header), piece.data]
        self._writes.start(messages, [handle])

    def _read_back(self, piece: _Piece) -> None:
        if piece.copy.found is None:
            piece.copy.found = self._spare.pop() if self._spare else bytearray(MAX_LENGTH)
        self._reads.start(self._hand_over(piece), piece.offset, piece.found)

    def _hand_over(self, piece: _Piece) -> int:
        handle = next(self._handles)
        self._at_tapdisk[handle] = piece
        return handle

    def _take_answers(self, descriptor: int) -> None:
        if descriptor == self._writes.sock.fileno():
            for handle, error in self._writes.answers():
                piece = self._at_tapdisk.pop(handle)
                if error:
                    self._end(piece, error)
                else:
                    self._written.append(piece)
        else:
            answer = self._reads.answer()
            if answer is not None:
                handle, error = answer
                piece = self._at_tapdisk.pop(handle)
                self._end(piece, error or (0 if piece.is_the_same() else nbd.NOT_AS_WRITTEN))
        self._go_on()

    def _end(self, piece: _Piece, error: int) -> None:
        """A piece has been compared, or has failed; the request is answered with the last one."""
        copy = piece.copy
        copy.open -= 1
        copy.error = copy.error or error
        if copy.open or copy.cut < copy.request.length:
            return
        del self._copies[copy.handle]
        self._answer(copy.handle, copy.error)
        if copy.found is not None:
            self._spare.append(copy.found)
        buffer = copy.request.buffer
        if not any(other.request.buffer is buffer for other in self._copies.values()):
            self._reader.give_back(buffer)
