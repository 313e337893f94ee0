# SPDX-License-Identifier: LGPL-2.1-only
"""The receiver's end of the `copy` role: the snapshot's data, to the destination's tapdisk, and
back from it.

A write is answered when it has been read back and found to be what came from the mover: so an
answer says that it is there. What came is kept until then. Zeros on a disk that reads as zeros are
not written, but read: CMD_REQUIRE_ZEROES.
"""

import collections
from typing import Dict, List

from storage_motion.destination import tapdisk
from storage_motion.destination.role import Role
from storage_motion.errors import ProtocolError
from storage_motion.wire import nbd, nbd_client, nbd_server, stream

MAX_LENGTH = 1 << 20  # bytes of one request: a window of the copier
# requests that are taken from the mover and not answered: as many as it sends, so that it waits
# for the network alone. They keep their data.
MAX_REQUESTS = 8
# with tapdisk at a time on a connection: it works on what came first, and a guest's write waits
AT_TAPDISK = 1
ZEROS = bytes(MAX_LENGTH)


class CopyRole(Role):
    """The copy of one disk."""

    COMMANDS = (nbd.CMD_WRITE, nbd.CMD_WRITE_ZEROES, nbd.CMD_REQUIRE_ZEROES)
    PORTION = MAX_LENGTH + nbd.REQUEST.size

    def __init__(
        self, mover: stream.Socket, writing: nbd_client.Client, reading: nbd_client.Client
    ) -> None:
        """`writing`, `reading`: two nbd_client.Client of the destination's tapdisk."""
        self._writes = tapdisk.Writes(writing)
        self._reads = tapdisk.Reads(reading)
        Role.__init__(self, mover, writing.size, [self._writes, self._reads])
        self._requests: Dict[int, nbd_server.Request] = {}  # handle -> not answered yet
        self._to_write: "collections.deque[nbd_server.Request]" = collections.deque()
        self._to_read: "collections.deque[nbd_server.Request]" = collections.deque()
        self._found: Dict[int, bytearray] = {}  # handle -> what is being read back
        self._spare: List[bytearray] = []  # for what is read back

    def _busy(self) -> bool:
        return bool(self._requests)

    def _has_room(self) -> bool:
        return len(self._requests) < MAX_REQUESTS

    def _take(self, requests: List[nbd_server.Request]) -> None:
        for request in requests:
            if request.length > MAX_LENGTH or request.handle in self._requests:
                raise ProtocolError("the mover sent a copy of %d bytes" % request.length)
            self._requests[request.handle] = request
            wanted = self._to_read if request.command == nbd.CMD_REQUIRE_ZEROES else self._to_write
            wanted.append(request)
        self._go_on()

    def _go_on(self) -> None:
        """Give tapdisk as much as it may have."""
        while self._to_write and self._writes.in_flight < AT_TAPDISK:
            request = self._to_write.popleft()
            if request.command == nbd.CMD_WRITE:
                messages = [request.message]
            else:
                header = nbd.REQUEST.pack(
                    nbd.REQUEST_MAGIC,
                    0,
                    nbd.CMD_WRITE,
                    request.handle,
                    request.offset,
                    request.length,
                )
                messages = [memoryview(header), memoryview(ZEROS)[: request.length]]
            self._writes.start(messages, [request.handle])
        while self._to_read and self._reads.in_flight < AT_TAPDISK:
            request = self._to_read.popleft()
            found = self._spare.pop() if self._spare else bytearray(MAX_LENGTH)
            self._found[request.handle] = found
            self._reads.start(request.handle, request.offset, memoryview(found)[: request.length])

    def _take_answers(self, descriptor: int) -> None:
        if descriptor == self._writes.sock.fileno():
            for handle, error in self._writes.answers():
                if error:
                    self._finish(handle, error)
                else:
                    self._to_read.append(self._requests[handle])
        else:
            answer = self._reads.answer()
            if answer is not None:
                self._compare(*answer)
        self._go_on()

    def _compare(self, handle: int, error: int) -> None:
        request, found = self._requests[handle], self._found.pop(handle)
        if request.command == nbd.CMD_WRITE:
            same = found.startswith(request.payload)
        else:
            same = ZEROS.startswith(memoryview(found)[: request.length])
        self._spare.append(found)
        self._finish(handle, error or (0 if same else nbd.NOT_AS_WRITTEN))

    def _finish(self, handle: int, error: int) -> None:
        request = self._requests.pop(handle)
        self._answer(handle, error)
        if not any(other.buffer is request.buffer for other in self._requests.values()):
            self._reader.give_back(request.buffer)
