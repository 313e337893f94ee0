# SPDX-License-Identifier: LGPL-2.1-only
"""One JSON object per line over a blocking socket, plain or TLS, with bounded lines and bounded
waits."""

import json
import socket
import time
from typing import Any, Dict, Optional

from storage_motion import strict_json
from storage_motion.errors import ConnectionLost, ProtocolError
from storage_motion.wire import stream

MAX_LINE = 64 << 10  # bytes; the longest line is a digest of a chunk in 1024 fragments
MAX_REASON = 1000  # characters of a peer's words that get into an error of ours


def encode(message: Dict[str, Any]) -> bytes:
    """`message` (a dict) as its line."""
    return json.dumps(message, sort_keys=True).encode("utf-8") + b"\n"


def decode(line: stream.Buffer) -> Dict[str, Any]:
    """The dict that `line` holds. Raises ProtocolError if it is anything else."""
    try:
        message = strict_json.loads(bytes(line).decode("utf-8"))
    except ValueError:
        raise ProtocolError("a line that is not JSON")
    if not isinstance(message, dict):
        raise ProtocolError("a line that is not a JSON object")
    return message


def reason_of(answer: Dict[str, Any]) -> str:
    """Why an answer (a dict) says no, in the peer's words, as far as it has any."""
    reason = answer.get("error")
    # Anything but text is not told: to describe it, nested as deeply as JSON allows, may itself
    # fail.
    return reason[:MAX_REASON] if isinstance(reason, str) else "no reason was given"


class LineBuffer(object):
    """Complete lines out of what arrives in arbitrary portions."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit  # bytes
        self._data = bytearray()

    def feed(self, data: stream.Buffer) -> None:
        """Append `data`, as received."""
        self._data += data

    def next(self) -> Optional[Dict[str, Any]]:
        """The next complete line as a dict, or None. Raises ProtocolError for too long a line, or
        for what `decode` refuses."""
        end = self._data.find(b"\n", 0, self._limit)
        if end < 0:
            if len(self._data) >= self._limit:
                raise ProtocolError("a line of more than %d bytes" % self._limit)
            return None
        line = self._data[:end]
        del self._data[: end + 1]
        return decode(line)

    @property
    def empty(self) -> bool:
        """Whether nothing is left over."""
        return not self._data


class JsonLines(object):
    """Both directions on one blocking socket. For one thread."""

    def __init__(self, sock: stream.Socket, limit: int = MAX_LINE) -> None:
        self._sock = sock
        self._lines = LineBuffer(limit)

    def send(self, message: Dict[str, Any], timeout: float) -> None:
        """Send a dict. Raises ConnectionLost if the peer takes nothing for `timeout` seconds."""
        stream.send_message(self._sock, encode(message), None, timeout)

    def receive(self, timeout: float) -> Dict[str, Any]:
        """The next dict. Raises ConnectionLost if none is complete within `timeout` seconds,
        ProtocolError."""
        deadline = time.monotonic() + timeout
        while True:
            message = self._lines.next()
            if message is not None:
                return message
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise ConnectionLost("the peer did not answer in time")
            try:
                self._sock.settimeout(remaining)
                data = self._sock.recv(16384)
            except socket.timeout:
                raise ConnectionLost("the peer did not answer in time")
            except OSError as error:
                raise ConnectionLost("receiving failed: %s" % error)
            if not data:
                raise ConnectionLost("the peer closed the connection")
            self._lines.feed(data)

    def require_empty(self) -> None:
        """Raise ProtocolError if the peer sent more than it was asked for: what follows belongs to
        another protocol."""
        if not self._lines.empty:
            raise ProtocolError("more data than the protocol allows here")
