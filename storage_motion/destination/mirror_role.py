# SPDX-License-Identifier: LGPL-2.1-only
"""The receiver's end of the `mirror` role: the guest's writes, to the destination's tapdisk.

They go on as they came, in runs: with the mover's handles, which tapdisk's answers carry back.
"""

import collections
import itertools
from typing import Dict, List, Optional

from storage_motion.destination import tapdisk
from storage_motion.destination.role import Role
from storage_motion.errors import ProtocolError
from storage_motion.wire import nbd, nbd_client, nbd_server, stream
from storage_motion.wire.guest_writes import GuestWrites

# bytes; tapdisk's own unit, above which a request goes in pieces of nbd_client.PIECE
SPLIT_ABOVE = 2 << 20
# the first handle of those pieces; the mover counts its requests from 1
FIRST_PIECE = 1 << 63


class _Split(object):
    """What is still owed to the mover for a request that went in pieces."""

    __slots__ = ("handle", "pieces", "error")

    def __init__(self, handle: int, pieces: int) -> None:
        self.handle = handle
        self.pieces = pieces  # not answered by tapdisk yet
        self.error = 0  # errno of the first that failed


class MirrorRole(Role):
    """The guest's writes of one disk."""

    COMMANDS = (nbd.CMD_WRITE,)

    def __init__(
        self, mover: stream.Socket, client: nbd_client.Client, guest: Optional[GuestWrites] = None
    ) -> None:
        """`client`: nbd_client.Client of the destination's tapdisk. `guest`: is told of writes."""
        self._guest = guest or GuestWrites()
        self._tapdisk = tapdisk.Writes(client)
        Role.__init__(self, mover, client.size, [self._tapdisk])
        # not sent to tapdisk yet, for it has enough
        self._waiting: "collections.deque[nbd_server.Request]" = collections.deque()
        self._split: Dict[int, _Split] = {}  # handle of a piece -> its request
        self._pieces = itertools.count(FIRST_PIECE)

    def _busy(self) -> bool:
        return bool(self._waiting or self._tapdisk.in_flight)

    def _has_room(self) -> bool:
        return not self._waiting

    def _take(self, requests: List[nbd_server.Request]) -> None:
        self._guest.came(len(requests) + len(self._waiting) + self._tapdisk.in_flight)
        for request in requests:
            if request.handle >= FIRST_PIECE:
                raise ProtocolError("the mover sent handle %#x" % request.handle)
            if request.length > SPLIT_ABOVE:
                self._waiting.extend(self._cut(request))
            else:
                self._waiting.append(request)
        self._forward()
        if requests and not self._waiting and self._tapdisk.flush():
            self._reader.give_back(requests[0].buffer)

    def _cut(self, request: nbd_server.Request) -> List[nbd_server.Request]:
        parts = list(nbd_client.pieces(request.offset, request.length))
        whole = _Split(request.handle, len(parts))
        made = []
        for offset, length in parts:
            handle, at = next(self._pieces), offset - request.offset
            header = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, handle, offset, length)
            message = bytearray(b"".join((header, request.payload[at : at + length])))
            self._split[handle] = whole
            made.append(
                nbd_server.Request(
                    nbd.CMD_WRITE, 0, handle, offset, length, message, 0, len(message)
                )
            )
        return made

    def _forward(self) -> None:
        count = min(self._tapdisk.room, len(self._waiting))
        if count:
            going = [self._waiting.popleft() for _ in range(count)]
            self._tapdisk.start(nbd_server.runs(going), [request.handle for request in going])

    def _take_answers(self, descriptor: int) -> None:
        replies = []
        for handle, error in self._tapdisk.answers():
            whole = self._split.pop(handle, None)
            if whole is not None:
                whole.pieces -= 1
                whole.error = whole.error or error
                if whole.pieces:
                    continue
                handle, error = whole.handle, whole.error
            replies.append(nbd_server.simple_reply(handle, error))
        if replies:
            self._to_mover.push(b"".join(replies))
        self._forward()
