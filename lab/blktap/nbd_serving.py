# SPDX-License-Identifier: LGPL-2.1-only
"""The process that is the NBD server of a tapdisk with a QCOW2 image (nbd_server.py): its
connections, each with one to QEMU's server behind it, and what they make each other wait for."""

import os
import select
import signal
import socket
import struct
import threading
import time

from . import records

SLOTS = 8
FREE_AGAIN = SLOTS // 4  # slots that have to be free for a connection to be read again
IMAGE_SLOTS = 32
BESIDE = 0.005  # seconds in which a client with room for two requests sends the second
BUSY_AGAIN = 1.0  # seconds after which tapdisk tries again what its image had no slot for

EXPORT = b"tapdisk_client"
GREETING = struct.Struct(">8s8sH")
OPTION = struct.Struct(">8sII")
REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
ANSWER = struct.Struct(">IIQ")
NBDMAGIC, IHAVEOPT, OPTION_REPLY = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO, OPT_GO = 1, 2, 6, 7
REP_ACK, REP_INFO, REP_UNSUPPORTED = 1, 3, 0x80000001
FIXED_NEWSTYLE, NO_ZEROES, HAS_FLAGS = 1, 2, 1
READ, WRITE, DISC, BLOCK_STATUS = 0, 1, 2, 7


def serve(root, pid, crashes, listening, ready):
    """The process of the server of tapdisk `pid`. `listening`, `ready`: file descriptors of its
    parent's."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    server = Server(records.Layout(root), pid, bool(crashes), socket.socket(fileno=listening))
    os.write(ready, b"ready")
    os.close(ready)
    server.run()


class Server(object):
    """The connections of one tapdisk. `crashes`: see nbd_server.CRASHES."""

    def __init__(self, layout, pid, crashes, listening):
        self.layout, self.pid, self.crashes = layout, pid, crashes
        self.condition = threading.Condition()  # over all that is counted here
        self.connections = []
        self._listening = listening
        # ends when the disk is closed, or the tapdisk dies
        self._anchor, self.size = upstream(layout.ring(pid))
        records.unlink_if_there(layout.wake(pid))
        os.mkfifo(layout.wake(pid), 0o600)
        self._wake = os.open(layout.wake(pid), os.O_RDWR | os.O_NONBLOCK)

    def run(self):
        """Until the disk is closed, or the tapdisk is dead."""
        while True:
            ready = select.select([self._listening, self._anchor, self._wake], [], [])[0]
            if self._anchor in ready:
                return
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._woken()
            if self._listening in ready:
                connection = _Connection(self, self._listening.accept()[0])
                threading.Thread(target=connection.run, daemon=True).start()

    def _woken(self):
        with self.condition:
            for connection in self.connections:
                if connection.in_flight <= SLOTS - FREE_AGAIN:
                    connection.masked = False
            self.condition.notify_all()

    def take(self, connection):
        """A slot for one more request, as soon as the connection is read again."""
        with self.condition:
            self.condition.wait_for(lambda: not connection.masked)
            connection.in_flight += 1
            if connection.in_flight > 1:
                self.two_in_flight()
            connection.masked = connection.in_flight >= SLOTS
            busy = sum(other.in_flight for other in self.connections) > IMAGE_SLOTS
        if busy:
            time.sleep(BUSY_AGAIN)

    def two_in_flight(self):
        """On one connection: the older build may die of that."""
        if self.crashes:
            os.kill(self.pid, signal.SIGKILL)

    def give(self, connection):
        with self.condition:
            connection.in_flight -= 1

    def stick(self):
        """The disk cannot be paused any more."""
        open(self.layout.stuck(self.pid), "w").close()


class _Connection(object):
    """One client, and a connection to QEMU's server for it."""

    def __init__(self, server, client):
        self.masked, self.in_flight = False, 0
        self._server, self._client = server, client
        self._upstream = None
        self._lengths = {}  # of the reads in flight, by handle

    def run(self):
        try:
            if self._greet():
                self._upstream, _ = upstream(self._server.layout.ring(self._server.pid))
                with self._server.condition:
                    self._server.connections.append(self)
                threading.Thread(target=self._answers, daemon=True).start()
                self._requests()
        except OSError:
            pass  # one of the two is gone
        finally:
            self._end()

    def _end(self):
        for sock in (self._client, self._upstream):
            if sock is not None:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        with self._server.condition:
            if self in self._server.connections:
                self._server.connections.remove(self)

    def _greet(self):
        """The handshake; whether a request may follow."""
        self._client.sendall(GREETING.pack(NBDMAGIC, IHAVEOPT, FIXED_NEWSTYLE | NO_ZEROES))
        (flags,) = struct.unpack(">I", _exactly(self._client, 4))
        while True:
            _, option, length = OPTION.unpack(_exactly(self._client, OPTION.size))
            _exactly(self._client, length)
            export = struct.pack(">QH", self._server.size, HAS_FLAGS)
            if option == OPT_EXPORT_NAME:
                self._client.sendall(export + (b"" if flags & NO_ZEROES else bytes(124)))
                return True
            if option in (OPT_GO, OPT_INFO):
                self._reply(option, REP_INFO, struct.pack(">H", 0) + export)
                self._reply(option, REP_INFO, struct.pack(">HIII", 3, 1, 4096, 2 << 20))
                self._reply(option, REP_ACK)
            elif option == OPT_ABORT:
                self._reply(option, REP_ACK)
            else:
                self._reply(option, REP_UNSUPPORTED)
            if option in (OPT_GO, OPT_ABORT):
                return option == OPT_GO

    def _reply(self, option, kind, data=b""):
        self._client.sendall(REPLY.pack(OPTION_REPLY, option, kind, len(data)) + data)

    def _requests(self):
        while True:
            header = _exactly(self._client, REQUEST.size)
            _, _, command, handle, _, length = REQUEST.unpack(header)
            if command == BLOCK_STATUS:
                self._server.stick()
                continue
            if command not in (READ, WRITE):
                return
            self._server.take(self)
            payload = _exactly(self._client, length) if command == WRITE else b""
            if self._server.crashes and self._sends_another():
                self._server.two_in_flight()
            self._lengths[handle] = 0 if command == WRITE else length
            self._upstream.sendall(header)
            self._upstream.sendall(payload)

    def _sends_another(self):
        """Whether one more request comes beside the one that came just now. QEMU's server may
        answer that before the other one is seen."""
        return bool(
            select.select([self._client], [], [], BESIDE)[0]
            and self._client.recv(1, socket.MSG_PEEK)
        )

    def _answers(self):
        try:
            while True:
                answer = _exactly(self._upstream, ANSWER.size)
                _, error, handle = ANSWER.unpack(answer)
                data = _exactly(self._upstream, 0 if error else self._lengths[handle])
                del self._lengths[handle]
                self._server.give(self)
                self._client.sendall(answer)
                self._client.sendall(data)
        except OSError:
            self._end()


def upstream(path):
    """A connection to QEMU's server at `path`, in its transmission phase, and the disk's size
    (bytes). OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    _exactly(sock, GREETING.size)
    sock.sendall(struct.pack(">I", FIXED_NEWSTYLE | NO_ZEROES))
    sock.sendall(OPTION.pack(IHAVEOPT, OPT_EXPORT_NAME, len(EXPORT)) + EXPORT)
    size, _ = struct.unpack(">QH", _exactly(sock, 10))
    return sock, size


def _exactly(sock, length):
    """`length` bytes. ConnectionError if it ends before."""
    data = bytearray(length)
    view, got = memoryview(data), 0
    while got < length:
        count = sock.recv_into(view[got:])
        if not count:
            raise ConnectionError("closed")
        got += count
    return data
