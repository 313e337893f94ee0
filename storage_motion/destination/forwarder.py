# SPDX-License-Identifier: LGPL-2.1-only
"""The receiver's end of a `mirror` or `copy` role: requests from the mover go, whole, to the
destination's tapdisk.

A request is passed on when it is complete, never before: half a request freezes a tapdisk. As few
are with tapdisk at a time as its image and its host's blktap want (dom0/blktap.py); what comes
beyond waits in the mover, by TCP's flow control. One thread, which never waits for the mover.
"""

import collections
import errno
import select
import ssl
from typing import Dict, Optional, Tuple

from storage_motion.errors import ConnectionLost, ProtocolError, RequestFailed
from storage_motion.wire import nbd, nbd_client, nbd_server, stream

# bytes; tapdisk's own unit, above which a request goes in pieces of nbd_client.PIECE
SPLIT_ABOVE = 2 << 20
ZEROS = bytes(nbd_client.PIECE)
COMMANDS: Dict[str, Tuple[int, ...]] = {
    "mirror": (nbd.CMD_WRITE,),
    "copy": (nbd.CMD_WRITE, nbd.CMD_WRITE_ZEROES),
}


class _Answer(object):
    """What is still owed to the mover for one request."""

    __slots__ = ("handle", "pieces", "error")

    def __init__(self, handle: int, count: int) -> None:
        self.handle = handle
        self.pieces = count  # not answered by tapdisk yet
        self.error = 0  # errno of the first that failed


class Forwarder(object):
    """One role of one disk."""

    def __init__(self, role: str, tls: ssl.SSLSocket, client: nbd_client.Client) -> None:
        """`tls`: the role's connection, past its hello. `client`: nbd_client.Client of the
        destination's tapdisk."""
        self._commands = COMMANDS[role]
        self._tls = tls
        self._client = client
        self._reader = nbd_server.RequestReader(tls, "the mover")
        self._outgoing = stream.Outgoing(tls, "the mover")
        # (offset, data, _Answer): of one request, not sent to tapdisk yet
        self._pieces: "collections.deque[Tuple[int, memoryview, _Answer]]" = collections.deque()
        self._disconnecting = False
        self._readable = True  # whether the mover may have sent something that was not read yet
        self._poll = select.poll()
        self._poll.register(client.sock, select.POLLIN)
        self._mask: Optional[int] = None  # what `_poll` watches `_tls` for; None: not at all

    def run(self) -> None:
        """Until the mover disconnects with everything answered. Raises DataPathError for any other
        end; the caller closes."""
        self._tls.setblocking(False)
        while True:
            self._forward()
            if self._disconnecting and not self._client.in_flight and self._outgoing.flush():
                return
            self._wait()

    def _forward(self) -> None:
        while not self._client.full:
            if self._pieces:
                self._client.start_write(*self._pieces.popleft())
                continue
            if self._disconnecting or not self._readable:
                return
            request = self._reader.next()
            # What is in the kernel still, the poll will tell.
            self._readable = request is not None and stream.has_pending(self._tls)
            if request is not None:
                self._take(request)

    def _take(self, request: nbd_server.Request) -> None:
        if request.command == nbd.CMD_DISC:
            self._disconnecting = True
            return
        if request.command not in self._commands or request.flags:
            raise ProtocolError(
                "the mover sent command %d with flags %#x" % (request.command, request.flags)
            )
        fault = nbd.request_fault(request.offset, request.length, self._client.size)
        if fault:
            self._outgoing.push(nbd_server.simple_reply(request.handle, fault))
            return
        limit = nbd_client.PIECE
        if request.command == nbd.CMD_WRITE and request.length <= SPLIT_ABOVE:
            limit = SPLIT_ABOVE
        parts = list(nbd_client.pieces(request.offset, request.length, limit))
        answer = _Answer(request.handle, len(parts))
        for offset, length in parts:
            if request.command == nbd.CMD_WRITE_ZEROES:
                data = memoryview(ZEROS)[:length]
            else:
                data = request.payload[offset - request.offset :][:length]
            self._pieces.append((offset, data, answer))

    def _wait(self) -> None:
        """For the mover's next request, as far as there is room for it, and for tapdisk's next
        answer."""
        self._watch()
        for descriptor, event in self._poll.poll():
            if descriptor == self._client.sock.fileno():
                self._reap()
            elif event & select.POLLIN:
                self._readable = True
            elif event & (select.POLLERR | select.POLLHUP):
                raise ConnectionLost("the mover closed the connection")

    def _watch(self) -> None:
        """Have `_poll` watch the mover's connection for what we want from it now."""
        mask = 0 if self._outgoing.flush() else select.POLLOUT
        if not self._disconnecting and not self._client.full:
            mask |= select.POLLIN
        # Also with no mask at all: a mover that is gone shows by POLLHUP even when we would take no
        # request. But when it has said goodbye, it may go.
        wanted = None if self._disconnecting and not mask else mask
        if wanted == self._mask:
            return
        if wanted is None:
            self._poll.unregister(self._tls)
        else:
            self._poll.register(self._tls, wanted)
        self._mask = wanted

    def _reap(self) -> None:
        if not self._client.in_flight:
            raise ConnectionLost("the destination's tapdisk closed the connection")
        try:
            answer: _Answer
            answer, _ = self._client.reap()
        except RequestFailed as error:
            answer = error.tag
            answer.error = answer.error or error.errno or errno.EIO
        answer.pieces -= 1
        if not answer.pieces:
            self._outgoing.push(nbd_server.simple_reply(answer.handle, answer.error))
