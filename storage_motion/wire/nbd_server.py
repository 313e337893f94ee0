# SPDX-License-Identifier: LGPL-2.1-only
"""NBD as a server: the handshake for a tapdisk (or qemu) that brings its mirrored writes, and whole
requests of any role."""

import socket
import struct
from typing import Iterable, Iterator, List, Optional

from storage_motion.errors import ConnectionLost, ProtocolError
from storage_motion.wire import nbd, stream

MAX_OPTIONS = 32  # a client that asks for more is playing
MAX_OPTION_DATA = 4096  # the longest name of the protocol, "String values"
PREFERRED_BLOCK = 4096
PORTION = 256 << 10  # bytes of requests that are read at a time
HANDLE = struct.Struct(">Q")
HANDLE_AT = 8  # where it is in nbd.REQUEST
HANDSHAKE_TIMEOUT = 5.0  # seconds; tapdisk itself gives up after one


def handshake(sock: socket.socket, size: int, deadline: float) -> None:
    """Serve the negotiation of one disk of `size` bytes on a fresh connection, by `deadline`
    (time.monotonic()).

    Any name is taken, as tapdisk's own server does: there is one disk. tapdisk asks for
    `tapdisk_client` and a NUL by OPT_EXPORT_NAME; qemu first tries OPT_STRUCTURED_REPLY, then
    OPT_GO. Raises ProtocolError for anything else, ConnectionLost.
    """
    flags = nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES
    _send(sock, nbd.GREETING.pack(nbd.MAGIC, nbd.OPTION_MAGIC, flags))
    (client_flags,) = nbd.CLIENT_FLAGS.unpack(
        stream.receive_exactly(sock, nbd.CLIENT_FLAGS.size, deadline)
    )
    if client_flags & ~flags:
        raise ProtocolError("unknown client flags %#x" % client_flags)
    for _ in range(MAX_OPTIONS):
        magic, option, length = nbd.OPTION.unpack(
            stream.receive_exactly(sock, nbd.OPTION.size, deadline)
        )
        if magic != nbd.OPTION_MAGIC:
            raise ProtocolError("an option that is none")
        if length > MAX_OPTION_DATA:
            raise ProtocolError("an option with %d bytes of data" % length)
        data = stream.receive_exactly(sock, length, deadline)
        if option == nbd.OPT_EXPORT_NAME:
            padding = 0 if client_flags & nbd.FLAG_NO_ZEROES else nbd.EXPORT_PADDING
            _send(sock, nbd.EXPORT.pack(size, nbd.FLAG_HAS_FLAGS) + bytes(padding))
            return
        if option in (nbd.OPT_GO, nbd.OPT_INFO):
            acknowledged = _answer_info(sock, option, data, size)
            if acknowledged and option == nbd.OPT_GO:
                return
        elif option == nbd.OPT_ABORT:
            _reply(sock, option, nbd.REP_ACK)
            raise ConnectionLost("the client gave up the negotiation")
        else:
            _reply(sock, option, nbd.REP_ERR_UNSUP)
    raise ProtocolError("more than %d options" % MAX_OPTIONS)


def _answer_info(sock: socket.socket, option: int, data: bytearray, size: int) -> bool:
    """Answer OPT_INFO or OPT_GO; whether the request was good."""
    fixed = nbd.GO_NAME.size + nbd.GO_COUNT.size
    name_length = nbd.GO_NAME.unpack_from(data)[0] if len(data) >= fixed else len(data)
    if fixed + name_length > len(data):
        _reply(sock, option, nbd.REP_ERR_INVALID)
        return False
    _reply(
        sock,
        option,
        nbd.REP_INFO,
        nbd.INFO_EXPORT_DATA.pack(nbd.INFO_EXPORT, size, nbd.FLAG_HAS_FLAGS),
    )
    block_sizes = nbd.INFO_BLOCK_SIZE_DATA.pack(
        nbd.INFO_BLOCK_SIZE, nbd.SECTOR, PREFERRED_BLOCK, nbd.MAX_REQUEST
    )
    _reply(sock, option, nbd.REP_INFO, block_sizes)
    _reply(sock, option, nbd.REP_ACK)
    return True


def _reply(sock: socket.socket, option: int, kind: int, data: bytes = b"") -> None:
    _send(sock, nbd.OPTION_REPLY.pack(nbd.OPTION_REPLY_MAGIC, option, kind, len(data)) + data)


def _send(sock: socket.socket, data: bytes) -> None:
    stream.send_message(sock, data, None, HANDSHAKE_TIMEOUT)


class Request(object):
    """One whole request, in a buffer that it may share with others."""

    __slots__ = ("command", "flags", "handle", "offset", "length", "buffer", "start", "stop")

    def __init__(
        self,
        command: int,
        flags: int,
        handle: int,
        offset: int,
        length: int,
        buffer: bytearray,
        start: int,
        stop: int,
    ) -> None:
        self.command = command
        self.flags = flags
        self.handle = handle
        self.offset = offset  # bytes
        self.length = length  # bytes
        self.buffer = buffer
        # header and payload as they came are buffer[start:stop]
        self.start = start
        self.stop = stop

    @property
    def message(self) -> memoryview:
        """Header and payload, as a view, so that they can be passed on uncopied."""
        return memoryview(self.buffer)[self.start : self.stop]

    @property
    def payload(self) -> memoryview:
        """The data of a write, as a view."""
        return memoryview(self.buffer)[self.start + nbd.REQUEST.size : self.stop]

    def rename(self, handle: int) -> None:
        """Change the handle, in the message as well: by it the next server is to know the
        request."""
        self.handle = handle
        HANDLE.pack_into(self.buffer, self.start + HANDLE_AT, handle)


def runs(requests: Iterable[Request]) -> Iterator[memoryview]:
    """The messages of `requests`, as few views as they make: what lies behind one another in one
    buffer is sent at once."""
    buffer: Optional[bytearray] = None
    start = stop = 0
    for request in requests:
        if request.buffer is buffer and request.start == stop:
            stop = request.stop
            continue
        if buffer is not None:
            yield memoryview(buffer)[start:stop]
        buffer, start, stop = request.buffer, request.start, request.stop
    if buffer is not None:
        yield memoryview(buffer)[start:stop]


class RequestReader(object):
    """Whole requests from a non-blocking socket in NBD's transmission phase. Half a request is
    never handed out."""

    def __init__(self, sock: stream.Socket, peer: str = "the peer", portion: int = PORTION) -> None:
        """`portion`: bytes that are read at a time."""
        self._sock = sock
        self._peer = peer
        self._portion = portion
        self._buffer = bytearray(portion)
        self._spare: Optional[bytearray] = None
        self._filled = 0  # bytes of the buffer
        self._wanted = 0  # bytes that the first request takes, as soon as they are known

    @property
    def partial(self) -> bool:
        """Whether a request has begun to arrive and is not complete."""
        return self._filled > 0

    def read(self) -> Optional[List[Request]]:
        """Read once: the requests that are complete by that; None where there was nothing to read.
        Their buffer is theirs. Raises ProtocolError, ConnectionLost."""
        # a long one alone, so that nothing behind it has to be moved to another buffer
        stop = self._wanted if 2 * self._wanted > self._portion else len(self._buffer)
        count = stream.receive_some(
            self._sock, memoryview(self._buffer)[self._filled : stop], self._peer
        )
        if count is None:
            return None
        self._filled += count
        return self._parse() if self._filled >= max(self._wanted, nbd.REQUEST.size) else []

    def give_back(self, buffer: bytearray) -> None:
        """Nobody needs `buffer` (Request.buffer) any more: so no new one has to be made."""
        if len(buffer) == self._portion:
            self._spare = buffer

    def _parse(self) -> List[Request]:
        buffer, filled, at = self._buffer, self._filled, 0
        requests: List[Request] = []
        self._wanted = 0
        while filled - at >= nbd.REQUEST.size:
            magic, flags, command, handle, offset, length = nbd.REQUEST.unpack_from(buffer, at)
            if magic != nbd.REQUEST_MAGIC:
                raise ProtocolError("a request that is none")
            stop = at + nbd.REQUEST.size
            if command == nbd.CMD_WRITE:
                if length > nbd.MAX_REQUEST:
                    raise ProtocolError("a write of %d bytes" % length)
                stop += length
            if stop > filled:
                self._wanted = stop - at
                break
            requests.append(Request(command, flags, handle, offset, length, buffer, at, stop))
            at = stop
        if requests or self._wanted > len(buffer):
            self._begin_buffer(memoryview(buffer)[at:filled])
        return requests

    def _begin_buffer(self, rest: memoryview) -> None:
        """Go on in another buffer, with `rest`, the beginning of a request."""
        if self._wanted > self._portion:
            self._buffer = bytearray(self._wanted)
        else:
            self._buffer, self._spare = self._spare or bytearray(self._portion), None
        self._filled = len(rest)
        self._buffer[: self._filled] = rest


def simple_reply(handle: int, error: int = 0) -> bytes:
    """The answer to the request `handle`: `error` is an errno, 0 for success."""
    return nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, error, handle)
