# SPDX-License-Identifier: LGPL-2.1-only
"""Bytes over a connected socket, plain or TLS, with every wait bounded.

Two ways of use, never mixed on one socket: blocking, with a deadline (`receive_exactly`,
`send_message`), and non-blocking, in a poll loop (`receive_some`, `Outgoing`). A TLS socket is used
by one thread only: Python's `ssl` did not lock it before 3.13.
"""

import collections
import fcntl
import socket
import ssl
import struct
import termios
import time
from typing import Optional, Union

from storage_motion.errors import ConnectionLost
from storage_motion.wire.buffered_tls import BufferedTls

Socket = Union[socket.socket, BufferedTls]
Buffer = Union[bytes, bytearray, memoryview]

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# up to here header and payload go out as one: one TLS record, one segment
JOINED_PAYLOAD = 16 << 10
COUNT = struct.Struct("=i")


def receive_exactly(sock: Socket, length: int, deadline: float) -> bytearray:
    """`length` bytes from `sock`, as a bytearray, by `deadline` (time.monotonic()).

    Raises ConnectionLost if the peer closes before, fails, or is late.
    """
    data = bytearray(length)
    receive_into(sock, memoryview(data), deadline)
    return data


def receive_into(sock: Socket, view: memoryview, deadline: float) -> None:
    """Fill `view` from `sock` by `deadline`, however slowly the bytes come. Raises ConnectionLost
    as `receive_exactly` does."""
    received = 0
    while received < len(view):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise ConnectionLost("the peer did not answer in time")
        sock.settimeout(remaining)
        received += _receive(sock, view[received:])


def receive_steadily(sock: Socket, length: int) -> bytearray:
    """`length` bytes from `sock`, as a bytearray, each portion within the timeout that `sock` has:
    fewer system calls.

    Raises ConnectionLost as `receive_exactly` does.
    """
    data = bytearray(length)
    receive_steadily_into(sock, memoryview(data))
    return data


def receive_steadily_into(sock: Socket, view: memoryview) -> None:
    """Fill `view`, as `receive_steadily`."""
    received = 0
    while received < len(view):
        received += _receive(sock, view[received:])


def _receive(sock: Socket, view: memoryview) -> int:
    try:
        count = sock.recv_into(view)
    except socket.timeout:
        raise ConnectionLost("the peer did not answer in time")
    except OSError as error:
        raise ConnectionLost("receiving failed: %s" % error)
    if count == 0:
        raise ConnectionLost("the peer closed the connection")
    return count


def send_message(sock: Socket, header: Buffer, payload: Optional[Buffer], timeout: float) -> None:
    """Send `header`, then `payload` (bytes-like or None). Raises ConnectionLost if the peer takes
    none of it for `timeout` s."""
    try:
        if sock.gettimeout() != timeout:
            sock.settimeout(timeout)
        if payload is None:
            sock.sendall(header)
        elif len(payload) <= JOINED_PAYLOAD:
            sock.sendall(b"".join((header, payload)))
        elif isinstance(sock, (ssl.SSLSocket, BufferedTls)):
            sock.sendall(header)
            sock.sendall(payload)
        else:
            sent = sock.sendmsg([header, payload])
            if sent < len(header):
                sock.sendall(header[sent:])
                sent = len(header)
            sock.sendall(memoryview(payload)[sent - len(header) :])
    except socket.timeout:
        raise ConnectionLost("the peer takes no more data")
    except OSError as error:
        raise ConnectionLost("sending failed: %s" % error)


def await_close(sock: Socket, deadline: float) -> None:
    """Until the peer has closed its side. Raises ConnectionLost if it says anything instead, or is
    late."""
    try:
        sock.settimeout(max(0.0, deadline - time.monotonic()))
        if sock.recv(1):
            raise ConnectionLost("the peer said something instead of closing")
    except socket.timeout:
        raise ConnectionLost("the peer did not close in time")
    except OSError:
        pass  # reset, or TLS cut off: closed as well


def receive_some(
    sock: Socket, view: Union[bytearray, memoryview], peer: str = "the peer"
) -> Optional[int]:
    """What a non-blocking `sock` has now, into `view`: the count of bytes, or None where there is
    nothing yet.

    Raises ConnectionLost, naming `peer`, if it has closed or the connection failed.
    """
    try:
        count = sock.recv_into(view)
    except WOULD_BLOCK:
        return None
    except OSError as error:
        raise ConnectionLost("receiving from %s failed: %s" % (peer, error))
    if count == 0:
        raise ConnectionLost("%s closed the connection" % peer)
    return count


def has_pending(sock: Socket) -> bool:
    """Whether `sock` has received data that a poll of its descriptor does not show: the rest of a
    TLS record.

    Asking is much cheaper than a read which finds nothing: that one raises.
    """
    return isinstance(sock, (ssl.SSLSocket, BufferedTls)) and sock.pending() > 0


def unacknowledged(sock: Socket) -> int:
    """The bytes that were sent, and that the peer's kernel has not acknowledged yet."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(COUNT.size))
    count: int
    (count,) = COUNT.unpack(answer)
    return count


class Outgoing(object):
    """What waits to go out on a non-blocking socket, in order."""

    def __init__(self, sock: Socket, peer: str = "the peer") -> None:
        self._sock = sock
        self._peer = peer
        self._buffers: "collections.deque[memoryview]" = collections.deque()
        # its own `flush`: it may hold what is encrypted, and not gone yet
        self._flush = sock.flush if isinstance(sock, BufferedTls) else None

    def push(self, data: Buffer) -> None:
        """Queue `data` (bytes-like; not to be changed any more)."""
        self._buffers.append(memoryview(data))

    def flush(self) -> bool:
        """Send what the socket takes now; True when nothing is left. Raises ConnectionLost."""
        while self._buffers:
            # A TLS write that could not be finished has to be repeated with the same bytes: the
            # head is only ever shortened by what was sent.
            head = self._buffers[0]
            try:
                sent = self._sock.send(head)
            except WOULD_BLOCK:
                return False
            except OSError as error:
                raise ConnectionLost("sending to %s failed: %s" % (self._peer, error))
            if sent == len(head):
                self._buffers.popleft()
            else:
                self._buffers[0] = head[sent:]
        try:
            return self._flush is None or self._flush()
        except OSError as error:
            raise ConnectionLost("sending to %s failed: %s" % (self._peer, error))

    def __bool__(self) -> bool:
        return bool(self._buffers)


def interrupt(sock: Socket) -> None:
    """End both directions of `sock`, so that the thread which owns it wakes up and closes it."""
    try:
        # Not SSLSocket's own shutdown: that takes the TLS state away under the feet of the thread
        # which is using it.
        plain = sock.plain if isinstance(sock, BufferedTls) else sock
        socket.socket.shutdown(plain, socket.SHUT_RDWR)
    except OSError:
        pass  # not connected any more, which is what was wanted
