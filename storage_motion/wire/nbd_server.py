# SPDX-License-Identifier: LGPL-2.1-only
"""NBD as a server: the handshake for a tapdisk (or qemu) that brings its mirrored writes, and whole
requests of any role."""

import socket
from typing import Optional

from storage_motion.errors import ConnectionLost, ProtocolError
from storage_motion.wire import nbd, stream

MAX_OPTIONS = 32  # a client that asks for more is playing
MAX_OPTION_DATA = 4096  # the longest name of the protocol, "String values"
PREFERRED_BLOCK = 4096
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
    """One whole request. `message`: header and payload as they came, one bytearray, so that it can
    be passed on uncopied."""

    __slots__ = ("command", "flags", "handle", "offset", "length", "message")

    def __init__(
        self, command: int, flags: int, handle: int, offset: int, length: int, message: bytearray
    ) -> None:
        self.command = command
        self.flags = flags
        self.handle = handle
        self.offset = offset  # bytes
        self.length = length  # bytes
        self.message = message

    @property
    def payload(self) -> memoryview:
        """The data of a write, as a view."""
        return memoryview(self.message)[nbd.REQUEST.size :]

    def message_for(self, handle: int) -> bytearray:
        """The request as it goes on to the next server, which knows it by `handle`: the same bytes,
        the handle changed in place."""
        nbd.REQUEST.pack_into(
            self.message,
            0,
            nbd.REQUEST_MAGIC,
            self.flags,
            self.command,
            handle,
            self.offset,
            self.length,
        )
        return self.message


class RequestReader(object):
    """Whole requests from a non-blocking socket in NBD's transmission phase. Half a request is
    never handed out."""

    def __init__(self, sock: socket.socket, peer: str = "the peer") -> None:
        self._sock = sock
        self._peer = peer
        self._header = bytearray(nbd.REQUEST.size)
        # what is being filled: the header alone, then header and payload
        self._message = self._header
        self._filled = 0  # bytes of it
        self._request: Optional[Request] = None

    @property
    def partial(self) -> bool:
        """Whether a request has begun to arrive and is not complete."""
        return self._filled > 0

    def next(self) -> Optional[Request]:
        """The next Request, or None where it has not arrived completely. Raises ProtocolError,
        ConnectionLost."""
        while True:
            view = memoryview(self._message)
            while self._filled < len(view):
                count = stream.receive_some(self._sock, view[self._filled :], self._peer)
                if count is None:
                    return None
                self._filled += count
            if self._request is None:
                self._request = self._parse()
                if self._request.command == nbd.CMD_WRITE and self._request.length:
                    continue
            request, self._request = self._request, None
            self._message, self._filled = self._header, 0
            return request

    def _parse(self) -> Request:
        magic, flags, command, handle, offset, length = nbd.REQUEST.unpack(self._header)
        if magic != nbd.REQUEST_MAGIC:
            raise ProtocolError("a request that is none")
        if command == nbd.CMD_WRITE and length > nbd.MAX_REQUEST:
            raise ProtocolError("a write of %d bytes" % length)
        self._message = bytearray(len(self._header) + (length if command == nbd.CMD_WRITE else 0))
        self._message[: len(self._header)] = self._header
        return Request(command, flags, handle, offset, length, self._message)


def simple_reply(handle: int, error: int = 0) -> bytes:
    """The answer to the request `handle`: `error` is an errno, 0 for success."""
    return nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, error, handle)
