# SPDX-License-Identifier: LGPL-2.1-only
"""NBD as a client: of a tapdisk, or of a receiver's role, whose hello has replaced the handshake.

Written for tapdisk (docs/facts/tapdisk-and-sm.md section 3): no flags on any command, READ and
WRITE only (a QCOW2 tapdisk never answers BLOCK_STATUS, and cannot be paused any more), 512-byte
alignment, few requests in flight (dom0/blktap.py), negative errnos, every reply read as soon as it
can be, and only one handshake at a time.
"""

import contextlib
import errno
import hashlib
import os
import socket
import time
from typing import Any, Dict, Iterator, Optional, Tuple, Union

from storage_motion.dom0 import blktap
from storage_motion.errors import ConnectionLost, ProtocolError, RequestFailed
from storage_motion.wire import nbd, stream

DEPTH = blktap.MOST  # requests in flight on a connection, where image and blktap allow it
PIECE = 1 << 20  # the length of request that serves tapdisk best; its own unit is 2 MiB
TIMEOUT = 30.0  # seconds for which a peer may take or say nothing at all
EXPORT_NAME = "tapdisk_client"

TURN_POLL = 0.005  # seconds between two tries to have one's turn


def connect(
    path: str, export: str = EXPORT_NAME, depth: int = DEPTH, timeout: float = TIMEOUT
) -> "Client":
    """A Client of the NBD server that listens on the unix socket `path`.

    Raises ConnectionLost if it cannot be reached or is silent for `timeout` seconds, ProtocolError
    if it does not speak NBD.
    """
    with _turn(path, time.monotonic() + timeout):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(path)
            size = handshake(sock, export, time.monotonic() + timeout)
            return Client(sock, size, depth, timeout)
        except OSError as error:
            sock.close()
            raise ConnectionLost("%s: %s" % (path, error))
        except (ConnectionLost, ProtocolError):
            sock.close()
            raise


@contextlib.contextmanager
def _turn(path: str, deadline: float) -> Iterator[None]:
    """While no other process or thread of this host is in a handshake with the server at `path`:
    two at once freeze a tapdisk for good. Raises ConnectionLost at the `deadline`.

    Who has the turn has a name in Linux' abstract namespace, which nobody has to clear away: it
    goes with the process.
    """
    name = (
        "\0storage-motion-handshake-" + hashlib.sha256(os.path.abspath(path).encode()).hexdigest()
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as turn:
        while True:
            try:
                turn.bind(name)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise ConnectionLost("%s: %s" % (path, error))
            if time.monotonic() > deadline:
                raise ConnectionLost("%s: others have been in a handshake all the time" % path)
            time.sleep(TURN_POLL)
        yield


def handshake(sock: socket.socket, export: str, deadline: float) -> int:
    """Negotiate `export` on a fresh connection; its size in bytes. Fixed newstyle: OPT_GO, and
    OPT_EXPORT_NAME where that is unknown."""
    magic, option_magic, flags = nbd.GREETING.unpack(
        stream.receive_exactly(sock, nbd.GREETING.size, deadline)
    )
    if magic != nbd.MAGIC or option_magic != nbd.OPTION_MAGIC:
        raise ProtocolError("the server does not greet as NBD's newstyle")
    if not flags & nbd.FLAG_FIXED_NEWSTYLE:
        raise ProtocolError("the server does not know NBD's fixed newstyle")
    ours = nbd.FLAG_FIXED_NEWSTYLE | flags & nbd.FLAG_NO_ZEROES
    stream.send_message(sock, nbd.CLIENT_FLAGS.pack(ours), None, TIMEOUT)
    name = export.encode("utf-8")
    size = _go(sock, name, deadline)
    if size is None:
        size = _export_name(sock, name, bool(ours & nbd.FLAG_NO_ZEROES), deadline)
    return size


def _go(sock: socket.socket, name: bytes, deadline: float) -> Optional[int]:
    """The export's size by OPT_GO, or None where the server does not know this option."""
    data: stream.Buffer = nbd.GO_NAME.pack(len(name)) + name + nbd.GO_COUNT.pack(0)
    stream.send_message(
        sock, nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_GO, len(data)), data, TIMEOUT
    )
    size: Optional[int] = None
    while True:
        magic, option, kind, length = nbd.OPTION_REPLY.unpack(
            stream.receive_exactly(sock, nbd.OPTION_REPLY.size, deadline)
        )
        if magic != nbd.OPTION_REPLY_MAGIC or option != nbd.OPT_GO or length > 65536:
            raise ProtocolError("a reply to OPT_GO that is none")
        data = stream.receive_exactly(sock, length, deadline)
        if kind == nbd.REP_ACK:
            if size is None:
                raise ProtocolError("OPT_GO was acknowledged without a size")
            return size
        if kind == nbd.REP_ERR_UNSUP:
            return None
        if kind & nbd.REP_ERROR:
            raise ProtocolError(
                "OPT_GO was refused: %#x %s" % (kind, bytes(data).decode("utf-8", "replace"))
            )
        if kind == nbd.REP_INFO and len(data) == nbd.INFO_EXPORT_DATA.size:
            information, found, _ = nbd.INFO_EXPORT_DATA.unpack(data)
            if information == nbd.INFO_EXPORT:
                size = found


def _export_name(sock: socket.socket, name: bytes, no_zeroes: bool, deadline: float) -> int:
    """The export's size by OPT_EXPORT_NAME, which a server that has no such export answers by
    closing the connection."""
    stream.send_message(
        sock, nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_EXPORT_NAME, len(name)), name, TIMEOUT
    )
    size: int
    size, _ = nbd.EXPORT.unpack(stream.receive_exactly(sock, nbd.EXPORT.size, deadline))
    if not no_zeroes:
        stream.receive_exactly(sock, nbd.EXPORT_PADDING, deadline)
    return size


class Client(object):
    """Pipelined requests on one connection in NBD's transmission phase. For one thread.

    Each `start_...` sends a request, remembered by any `tag`; `reap` waits for one answer, in
    whatever order they come. The caller keeps at most `depth` in flight (`full`): one more is
    refused here, before it can do harm.
    """

    def __init__(
        self, sock: stream.Socket, size: int, depth: int = DEPTH, timeout: float = TIMEOUT
    ) -> None:
        self.sock = sock
        self.size = size  # bytes
        self.depth = depth
        self._timeout = timeout
        sock.settimeout(timeout)
        # handle -> (tag, command, offset, length)
        self._in_flight: Dict[int, Tuple[Any, int, int, int]] = {}
        self._next_handle = 1

    @property
    def in_flight(self) -> int:
        """The count of requests not yet answered."""
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        """Whether `reap` has to come before the next request."""
        return len(self._in_flight) >= self.depth

    def start_read(self, offset: int, length: int, tag: Any = None) -> None:
        """Ask for `length` bytes at `offset`, both multiples of 512."""
        self._start(nbd.CMD_READ, offset, length, None, tag)

    def start_write(self, offset: int, data: stream.Buffer, tag: Any = None) -> None:
        """Send `data` (bytes-like, a multiple of 512 long) for `offset`."""
        self._start(nbd.CMD_WRITE, offset, len(data), data, tag)

    def start_message(
        self, message: memoryview, command: int, offset: int, length: int, tag: Any = None
    ) -> None:
        """Send `message`, which has the data behind room for the header, nbd.REQUEST.size bytes,
        or no data for a `command` that has none: so both go out at once."""
        handle = self._note(command, offset, length, tag)
        nbd.REQUEST.pack_into(message, 0, nbd.REQUEST_MAGIC, 0, command, handle, offset, length)
        stream.send_message(self.sock, message, None, self._timeout)

    def _start(
        self, command: int, offset: int, length: int, payload: Optional[stream.Buffer], tag: Any
    ) -> None:
        handle = self._note(command, offset, length, tag)
        header = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, command, handle, offset, length)
        stream.send_message(self.sock, header, payload, self._timeout)

    def _note(self, command: int, offset: int, length: int, tag: Any) -> int:
        """Put a request in flight: its handle."""
        fault = nbd.request_fault(offset, length, self.size)
        if fault:
            raise RequestFailed(
                fault,
                "%s of %d bytes at %d is refused: %s"
                % (nbd.COMMAND_NAMES[command], length, offset, nbd.describe_errno(fault)),
            )
        if self.full:
            raise ValueError("%d requests are in flight already" % self.depth)
        handle = self._next_handle
        self._next_handle += 1
        self._in_flight[handle] = (tag, command, offset, length)
        return handle

    def reap(
        self, into: Optional[memoryview] = None
    ) -> Tuple[Any, Union[None, bytearray, memoryview]]:
        """Wait for one answer: (tag, data), where data is, for a read, a bytearray, or the part of
        the view `into` that it fills, and else None.

        Raises RequestFailed if the disk answered with an error (the connection stays good),
        ConnectionLost, ProtocolError.
        """
        reply = stream.receive_steadily(self.sock, nbd.SIMPLE_REPLY.size)
        magic, error, handle = nbd.SIMPLE_REPLY.unpack(reply)
        if magic != nbd.SIMPLE_REPLY_MAGIC or handle not in self._in_flight:
            raise ProtocolError("an answer to a request that was not made")
        tag, command, offset, length = self._in_flight.pop(handle)
        if error:
            number = nbd.reply_errno(error)
            raise RequestFailed(
                number,
                "%s of %d bytes at %d failed: %s"
                % (nbd.COMMAND_NAMES[command], length, offset, nbd.describe_errno(number)),
                tag,
            )
        if command != nbd.CMD_READ:
            return tag, None
        if into is None:
            return tag, stream.receive_steadily(self.sock, length)
        stream.receive_steadily_into(self.sock, into[:length])
        return tag, into[:length]

    def read(self, offset: int, length: int) -> bytearray:
        """`length` bytes at `offset`, with nothing else in flight."""
        self._require_idle()
        self.start_read(offset, length)
        _, data = self.reap()
        assert isinstance(data, bytearray)
        return data

    def write(self, offset: int, data: stream.Buffer) -> None:
        """Write `data` at `offset`, with nothing else in flight; returns when the disk has
        answered."""
        self._require_idle()
        self.start_write(offset, data)
        self.reap()

    def _require_idle(self) -> None:
        if self._in_flight:
            raise ValueError("requests are in flight")

    def disconnect(self) -> None:
        """Say goodbye, wait until the server has taken note and closed first, as a receiver does,
        and close. Raises ConnectionLost, closed as well.

        Never to a tapdisk, which is left by `close`, with nothing in flight: it would greet anew on
        the same socket, and that handshake and another client's would take each other's socket;
        seen as a tapdisk that is lost for good in an endless loop (tapdisk-nbdserver.c,
        tapdisk_nbdserver_handshake_cb: one handshake_fd; docs/checked-by-hand.md).
        """
        try:
            header = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_DISC, 0, 0, 0)
            stream.send_message(self.sock, header, None, self._timeout)
            stream.await_close(self.sock, time.monotonic() + self._timeout)
        finally:
            self.sock.close()

    def interrupt(self) -> None:
        """Cut the connection, whatever is in flight, so that the thread which uses it wakes up and
        fails. For any thread."""
        stream.interrupt(self.sock)

    def close(self) -> None:
        """Close without a goodbye."""
        self.sock.close()


def pieces(offset: int, length: int, limit: int = PIECE) -> Iterator[Tuple[int, int]]:
    """Cut `length` bytes at `offset` into (offset, length) of at most `limit` bytes."""
    end = offset + length
    while offset < end:
        count = min(limit, end - offset)
        yield offset, count
        offset += count
