# SPDX-License-Identifier: LGPL-2.1-only
"""What the receiver's end of a `mirror` and of a `copy` role have in common: a thread that waits
only in its poll, for the mover and for the destination's tapdisk.

A request is passed on when it is complete, never before: half a request freezes a tapdisk. As few
are with tapdisk at a time as its image and its host's blktap want (dom0/blktap.py); what comes
beyond waits in the mover, by TCP's flow control.
"""

import select
from typing import Dict, Iterable, List, Optional, Union

from storage_motion.destination import tapdisk
from storage_motion.errors import ConnectionLost, ProtocolError
from storage_motion.wire import nbd, nbd_server, stream

CLOSED = select.POLLERR | select.POLLHUP


class Role(object):
    """One role of one disk. A subclass says what it does with requests and answers."""

    COMMANDS: Iterable[int] = ()
    PORTION = nbd_server.PORTION

    def __init__(
        self,
        mover: stream.Socket,
        size: int,
        connections: Iterable[Union[tapdisk.Writes, tapdisk.Reads]],
    ) -> None:
        """`mover`: the role's connection, past its hello. `size` of the disk in bytes.
        `connections`: with its tapdisk."""
        self._size = size
        self._mover = mover
        self._connections = list(connections)
        self._reader = nbd_server.RequestReader(mover, "the mover", self.PORTION)
        self._to_mover = stream.Outgoing(mover, "the mover")
        self._disconnecting = False
        self._poll = select.poll()
        self._masks: Dict[int, Optional[int]] = {}  # descriptor -> what `_poll` watches it for

    def run(self) -> None:
        """Until the mover disconnects with everything answered. Raises DataPathError for any other
        end; the caller closes."""
        self._mover.setblocking(False)
        mover = self._mover.fileno()
        tapdisks = [(connection, connection.sock.fileno()) for connection in self._connections]
        while True:
            for connection, descriptor in tapdisks:
                sent = connection.flush()
                self._watch(descriptor, select.POLLIN if sent else select.POLLIN | select.POLLOUT)
            answered = self._to_mover.flush()
            if self._disconnecting and answered and not self._busy():
                return
            wanting = not self._disconnecting and self._has_room()
            if wanting and stream.has_pending(self._mover):
                self._read()
                continue
            mask = (select.POLLIN if wanting else 0) | (0 if answered else select.POLLOUT)
            # Also with no mask at all: a mover that is gone shows by POLLHUP even when we would
            # take no request. But when it has said goodbye, it may go.
            self._watch(mover, None if self._disconnecting and not mask else mask)
            for descriptor, event in self._poll.poll():
                if descriptor != mover:
                    self._take_answers(descriptor)
                elif event & select.POLLIN:
                    self._read()
                elif event & CLOSED:
                    raise ConnectionLost("the mover closed the connection")

    def _watch(self, descriptor: int, mask: Optional[int]) -> None:
        """Have `_poll` watch a socket for `mask`; None: not at all."""
        if self._masks.get(descriptor) == mask:
            return
        if mask is not None:
            self._poll.register(descriptor, mask)
        elif descriptor in self._masks:
            self._poll.unregister(descriptor)
        self._masks[descriptor] = mask

    def _read(self) -> None:
        """What the mover has sent by now, as far as a single look finds it."""
        requests = self._reader.read()
        if not requests:
            return
        for number, request in enumerate(requests):
            if request.command == nbd.CMD_DISC:
                self._disconnecting = True
                del requests[number:]
                break
            if request.command not in self.COMMANDS or request.flags:
                raise ProtocolError(
                    "the mover sent command %d with flags %#x" % (request.command, request.flags)
                )
        self._take([request for request in requests if not self._refused(request)])

    def _refused(self, request: nbd_server.Request) -> bool:
        """Answer what may not touch the disk; whether it was such a one."""
        fault = nbd.request_fault(request.offset, request.length, self._size)
        if fault:
            self._answer(request.handle, fault)
        return bool(fault)

    def _answer(self, handle: int, error: int = 0) -> None:
        self._to_mover.push(nbd_server.simple_reply(handle, error))

    def _busy(self) -> bool:
        """Whether anything is not answered."""
        raise NotImplementedError

    def _has_room(self) -> bool:
        """Whether more may be taken from the mover."""
        raise NotImplementedError

    def _take(self, requests: List[nbd_server.Request]) -> None:
        """What the mover has sent, of the commands that are for this role, within the disk."""
        raise NotImplementedError

    def _take_answers(self, descriptor: int) -> None:
        """Tapdisk has answered on the connection with this descriptor, or closed it."""
        raise NotImplementedError
