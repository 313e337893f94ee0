# SPDX-License-Identifier: LGPL-2.1-only
"""The end of a TLS connection that receives most of what goes over it.

`ssl.SSLSocket` reads one record of at most 16 KiB a call, its header and its body apart. Here the
socket is read in large portions, and decrypted from memory: receiving costs a third less processor
time (docs/facts/data-path.md, what gained, 4).
"""

import socket
import ssl
from typing import Any, Optional, Union

PORTION = 256 << 10  # bytes: what is read, or encrypted, at a time


class BufferedTls(object):
    """The server's side. Has of a socket what `stream` and `json_lines` use of one.

    Blocking or not as `setblocking` and `settimeout` say; for one thread, but `plain` may be shut
    down by any.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """`sock`: connected, and this object's from now on. `do_handshake` comes first."""
        self.plain = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # typeshed does not know that `read` into a buffer tells a count
        self._tls: Any = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._portion = memoryview(bytearray(PORTION))
        self._unsent = bytearray()  # encrypted

    def do_handshake(self) -> None:
        """As SSLSocket's: raises SSLWantReadError or SSLWantWriteError where it has to wait."""
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            if not self.flush():
                raise ssl.SSLWantWriteError()
            if done:
                return
            try:
                self._feed()
            except BlockingIOError:
                raise ssl.SSLWantReadError()

    def recv_into(self, view: Union[bytearray, memoryview]) -> int:
        """What has been received, into `view`: the count of bytes, 0 when the peer has closed.
        Raises BlockingIOError or socket.timeout where there is nothing, OSError."""
        view = memoryview(view)
        count = 0
        if not self.pending():  # to find that out by reading costs an exception
            self.flush()
            self._feed()
        while not count:
            try:
                count = self._tls.read(len(view), view)
            except ssl.SSLWantReadError:
                self.flush()
                self._feed()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0
            if not count:
                return 0
        while count < len(view) and self.pending():
            try:
                more = self._tls.read(len(view) - count, view[count:])
            except ssl.SSLError:  # half a record, or the end: the next call will meet it again
                break
            if not more:
                break
            count += more
        return count

    def recv(self, length: int) -> bytes:
        """As `recv_into`, at most `length` bytes."""
        data = bytearray(length)
        return bytes(data[: self.recv_into(data)])

    def pending(self) -> int:
        """Bytes that have been received, and that no poll will tell of: not 0 where there may be
        some."""
        decrypted: int = self._tls.pending()
        return decrypted + self._incoming.pending

    def send(self, data: Union[bytes, bytearray, memoryview]) -> int:
        """Take some of `data` to be sent; the count of bytes. What is taken is on its way when
        `flush` says so. Raises BlockingIOError where what was taken before has not gone."""
        if not self.flush():
            raise BlockingIOError()
        view = memoryview(data)[:PORTION]
        taken = 0
        while taken < len(view):
            taken += self._tls.write(view[taken:])
        self.flush()
        return taken

    def sendall(self, data: Union[bytes, bytearray, memoryview]) -> None:
        """Send all of it; for a blocking connection."""
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def flush(self) -> bool:
        """Whether nothing waits to be sent any more, after another try."""
        if self._outgoing.pending:
            encrypted = self._outgoing.read()
            sent = 0
            try:
                if not self._unsent:
                    sent = self.plain.send(encrypted)
            except BlockingIOError:
                pass
            finally:
                self._unsent += encrypted[sent:]
        while self._unsent:
            try:
                sent = self.plain.send(self._unsent)
            except BlockingIOError:
                return False
            del self._unsent[:sent]
        return True

    def fileno(self) -> int:
        """Of the socket, for poll()."""
        return self.plain.fileno()

    def setblocking(self, blocking: bool) -> None:
        """As a socket's."""
        self.plain.setblocking(blocking)

    def settimeout(self, timeout: Optional[float]) -> None:
        """As a socket's."""
        self.plain.settimeout(timeout)

    def gettimeout(self) -> Optional[float]:
        """As a socket's."""
        return self.plain.gettimeout()

    def close(self) -> None:
        """Close the connection, without TLS's own goodbye."""
        self.plain.close()

    def _feed(self) -> None:
        count = self.plain.recv_into(self._portion)
        if count:
            self._incoming.write(self._portion[:count])
        else:
            self._incoming.write_eof()
