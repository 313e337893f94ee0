# SPDX-License-Identifier: LGPL-2.1-only
"""The NBD server of a tapdisk that has a QCOW2 image open, as XCP-ng's blktap 3.55.5 has it: it
stands before QEMU's.

Measured on the real one (docs/facts/xcp-ng-8.3.md, 3 and 4), whose requests are completed by a
second thread: a connection with SLOTS requests in flight is not read any more, and nothing but a
poke (`tap-ctl list`) makes it go on (the real one is woken by another connection's request as well,
and stalls at seven now and then); more than IMAGE_SLOTS requests at a time over all connections
wait for a second; BLOCK_STATUS is never answered, and the disk cannot be paused any more; and in
the builds that have no mutex around the slots the tapdisk dies of two requests at a time on a
connection (the real one now and then).

The word in ROOT/etc/lab-tapdisk-qcow2 says which: `stalls`, `crashes`; without it QEMU's own server
is the tapdisk's. A guest does not come by NBD on a real host, but by the ring: it has QEMU's
server, at lab/<pid>.ring, to itself.
"""

import glob
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

from . import detach, records

STALLS, CRASHES = "stalls", "crashes"
PLACE = "/etc/lab-tapdisk-qcow2"
SLOTS = 8
FREE_AGAIN = SLOTS // 4  # slots that have to be free for a connection to be read again
IMAGE_SLOTS = 32
BUSY_AGAIN = 1.0  # seconds after which tapdisk tries again what its image had no slot for
BACKLOG = 16

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


def habit(root):
    """Which of the two it is on the host at `root`, or None. ValueError for a word that is none."""
    try:
        with open(root + PLACE) as chosen:
            word = chosen.read().strip()
    except FileNotFoundError:
        return None
    if word not in (STALLS, CRASHES):
        raise ValueError("%r is neither %s nor %s" % (word, STALLS, CRASHES))
    return word


def choose(root, word):
    """Have the tapdisks that are opened from now on behave so; None: as QEMU's."""
    if word is not None:
        with open(root + PLACE, "w") as place:
            place.write(word)
    elif os.path.exists(root + PLACE):
        os.unlink(root + PLACE)


def start(layout, pid, minor):
    """Serve the vbd of tapdisk `pid` at its NBD socket, in a process of its own, which ends with
    QEMU's server at the ring. It is no tap-ctl by its command line: who looks for those that are
    about to open an image would wait for it."""
    path = layout.nbd(pid, minor)
    records.unlink_if_there(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen(BACKLOG)
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        listening.close()
        os.close(writer)
        with os.fdopen(reader, "rb") as ready:
            if ready.read() != b"ready":
                raise records.not_imitated("a QCOW2 tapdisk whose NBD server does not start")
        with open(layout.server(pid), "w") as note:
            note.write(str(child))
        return
    try:
        os.setsid()
        kept = (listening.fileno(), writer)
        detach.keep_only(kept, layout.log(pid))
        for fd in kept:
            os.set_inheritable(fd, True)
        numbers = [str(number) for number in (pid,) + kept]
        os.execv(
            sys.executable,
            [sys.executable, "-SE", "-c", _SERVE, __name__, layout.root] + numbers + sys.path,
        )
    finally:
        os._exit(1)


_SERVE = """
import importlib, sys
name, root, pid, listening, ready = sys.argv[1:6]
sys.path[:] = sys.argv[6:]
importlib.import_module(name).serve(root, int(pid), int(listening), int(ready))
"""


def serve(root, pid, listening, ready):
    """The process of the server. `listening`, `ready`: file descriptors of its parent's."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    layout = records.Layout(root)
    server = _Server(layout, pid, habit(root), socket.socket(fileno=listening))
    os.write(ready, b"ready")
    os.close(ready)
    server.run()


def end(layout, pid, bound):
    """Wait until the server of tapdisk `pid`, which has closed its disk or is dead, has ended, if
    it had one; kill it after `bound` (s)."""
    try:
        with open(layout.server(pid)) as note:
            server = int(note.read())
    except FileNotFoundError:
        return
    until = time.monotonic() + bound
    while records.start_time(server) is not None:
        if time.monotonic() > until:
            os.kill(server, signal.SIGKILL)
        time.sleep(0.002)
    records.unlink_if_there(layout.server(pid))
    records.unlink_if_there(layout.wake(pid))


def all_of(root):
    """The pids of those on the host at `root`."""
    found = []
    for path in glob.glob(records.Layout(root).server_of_any()):
        with open(path) as note:
            found.append(int(note.read()))
    return found


class _Server(object):
    """The connections of one tapdisk."""

    def __init__(self, layout, pid, word, listening):
        self.layout, self.pid, self.crashes = layout, pid, word == CRASHES
        self.condition = threading.Condition()  # over all that is counted here
        self.connections = []
        self._listening = listening
        # ends when the disk is closed, or the tapdisk dies
        self._anchor, self.size = upstream(layout.ring(pid))
        records.unlink_if_there(layout.wake(pid))
        os.mkfifo(layout.wake(pid), 0o600)
        self._wake = os.open(layout.wake(pid), os.O_RDWR | os.O_NONBLOCK)

    def run(self):
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
            if self.crashes and connection.in_flight > 1:
                os.kill(self.pid, signal.SIGKILL)
            connection.masked = connection.in_flight >= SLOTS
            busy = sum(other.in_flight for other in self.connections) > IMAGE_SLOTS
        if busy:
            time.sleep(BUSY_AGAIN)

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
            self._lengths[handle] = 0 if command == WRITE else length
            self._upstream.sendall(header)
            self._upstream.sendall(payload)

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
