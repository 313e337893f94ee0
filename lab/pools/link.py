# SPDX-License-Identifier: LGPL-2.1-only
"""The network between the hosts of the lab, as far as movers use it: a relay that can be cut,
slowed down and healed.

with Link(lab.hosts) as link:
    link.limit(65536)     # bytes a second, both ways and all connections together; 0: nothing gets through
    link.cut()            # every connection is reset
    link.heal()
"""  # noqa: E501

import contextlib
import socket
import struct
import threading
import time

from lab.dom0 import relayed_movers

PIECE = 16384  # bytes passed on at once
HELLO = 256  # bytes: the line that names the target
CONNECT = 10.0
BACKLOG = 32


class Link:
    """A context manager. Movers that start on `hosts` while it stands go over it."""

    def __init__(self, hosts):
        self._hosts = hosts
        self._listener = None
        self._changed = threading.Condition()
        self._rate = None
        self._next = 0.0
        self._sockets = set()
        self._refusing = False
        self.carried = 0
        """Bytes, both ways."""

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        threading.Thread(target=self._accept, daemon=True).start()
        for host in self._hosts:
            relayed_movers.begin(host.root, *self._listener.getsockname()[:2])
        return self

    def __exit__(self, *_):
        for host in self._hosts:
            relayed_movers.end(host.root)
        # accept() does not notice a close
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.heal()
        self.cut()

    def limit(self, rate):
        """At most `rate` bytes a second from now on."""
        with self._changed:
            self._rate, self._next = rate, time.monotonic()
            self._changed.notify_all()

    def cut(self, refuse=False):
        """Reset every connection; with `refuse`, new ones too, until `heal`."""
        with self._changed:
            self._refusing = refuse
            sockets, self._sockets = list(self._sockets), set()
            self._changed.notify_all()
        for sock in sockets:
            _reset(sock)

    def heal(self):
        """A sound link again; what was cut stays cut."""
        with self._changed:
            self._rate, self._refusing = None, False
            self._changed.notify_all()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(connection,), daemon=True).start()

    def _relay(self, mover):
        try:
            address, port = _line(mover).split()
            with self._changed:
                refused = self._refusing
            if refused:
                _reset(mover)
                return
            receiver = socket.create_connection((address, int(port)), CONNECT)
        except (OSError, ValueError):
            _reset(mover)
            return
        receiver.settimeout(None)
        for sock in (mover, receiver):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            self._sockets.update((mover, receiver))
        back = threading.Thread(target=self._pump, args=(receiver, mover), daemon=True)
        back.start()
        self._pump(mover, receiver)
        back.join()
        with self._changed:
            self._sockets.difference_update((mover, receiver))
        mover.close()
        receiver.close()

    def _pump(self, source, sink):
        try:
            while True:
                piece = source.recv(PIECE)
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                self._wait_for_turn(len(piece), source)
                sink.sendall(piece)
        except OSError:
            _reset(source)
            _reset(sink)

    def _wait_for_turn(self, size, source):
        with self._changed:
            self.carried += size
            while self._rate is not None and source in self._sockets:
                now = time.monotonic()
                if self._rate and self._next <= now:
                    self._next = max(self._next, now - 0.1) + size / self._rate
                    return
                self._changed.wait(self._next - now if self._rate else None)


def _line(sock):
    """The line that comes first, and not a byte more."""
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte or len(line) > HELLO:
            raise OSError("no line that names a target")
        line += byte
    return line.decode("ascii")


def _reset(sock):
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # a close alone does not wake who reads from it in another thread
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
