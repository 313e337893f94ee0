# SPDX-License-Identifier: LGPL-2.1-only
"""A tapdisk's NBD server past its handshake, in one thread for all its connections, as the real
one: while nobody takes what it sends it does nothing else."""

import select
import socket
import threading

from storage_motion.errors import ConnectionLost
from storage_motion.wire import nbd, nbd_client, nbd_server, stream

BOUND = 60.0  # seconds


class FakeTapdisk(object):
    """A disk of `size` zeros in memory. `seen`: [(connection, command, offset, length)]."""

    def __init__(self, size, connections=2, depth=8):
        """`depth`: of the clients."""
        self.disk = bytearray(size)
        self.seen = []
        self.spoil = None  # called with (offset, data) of each write: whether that is lost
        self.errors = {}  # (command, offset) -> errno
        self._ends = []
        self.clients = []
        for _ in range(connections):
            ours, theirs = socket.socketpair()
            theirs.settimeout(BOUND)
            self._ends.append(theirs)
            self.clients.append(nbd_client.Client(ours, size, depth, BOUND))
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def go(self):
        """Answer, from now on."""
        self._go.set()

    def close(self):
        """End it."""
        self._go.set()
        for client in self.clients:
            client.close()
        self._thread.join(BOUND)
        assert not self._thread.is_alive()

    def _run(self):
        self._go.wait(BOUND)
        poll = select.poll()
        for end in self._ends:
            poll.register(end, select.POLLIN)
        open_ends = len(self._ends)
        while open_ends:
            for descriptor, _ in poll.poll(BOUND * 1000):
                which = [end.fileno() for end in self._ends].index(descriptor)
                try:
                    self._serve(which, self._ends[which])
                except (ConnectionLost, OSError):
                    poll.unregister(descriptor)
                    open_ends -= 1
        for end in self._ends:
            end.close()

    def _serve(self, which, sock):
        header = stream.receive_steadily(sock, nbd.REQUEST.size)
        magic, flags, command, handle, offset, length = nbd.REQUEST.unpack(header)
        assert (magic, flags) == (nbd.REQUEST_MAGIC, 0) and command in (nbd.CMD_READ, nbd.CMD_WRITE)
        assert not nbd.request_fault(offset, length, len(self.disk))
        self.seen.append((which, command, offset, length))
        data = b""
        if command == nbd.CMD_WRITE:
            data = stream.receive_steadily(sock, length)
            if not (self.spoil and self.spoil(offset, data)):
                self.disk[offset : offset + length] = data
        error = self.errors.get((command, offset), 0)
        answer = nbd_server.simple_reply(handle, error)
        if command == nbd.CMD_READ and not error:
            answer += bytes(self.disk[offset : offset + length])
        sock.sendall(answer)
