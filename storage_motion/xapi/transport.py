# SPDX-License-Identifier: LGPL-2.1-only
"""How requests reach a xapi: over its unix socket, or over HTTP(S); always with a timeout.

xapi's certificates are self-signed, and a pool that is not ours has given a host none to compare
with, so HTTPS there keeps listeners out but does not prove who answers. The channel of the data
pins its certificate (docs/design.md, 3), and `sxm` that of each pool that it logs in to.
"""

import contextlib
import errno
import hashlib
import http.client
import socket
import ssl
import threading
import urllib.parse
import xmlrpc.client
from typing import Any, Callable, Dict, Iterator, Optional, Tuple, Union

from storage_motion.dom0 import root
from storage_motion.errors import CertificateMismatch
from storage_motion.wire.tls import unverified_context

LOCAL_SOCKET = "/var/lib/xcp/xapi"
DEFAULT_TIMEOUT = 300.0  # seconds that one answer may take
# a TLS connection ends; also at once, where stunnel serves and xapi does not
CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


def reset(error: OSError) -> ConnectionResetError:
    """The exception with which any other connection would have ended where TLS raises one of
    CUT."""
    return ConnectionResetError(errno.ECONNRESET, "closed by xapi: %s" % error.strerror)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        super(UnixConnection, self).__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def local_connection(timeout: float = DEFAULT_TIMEOUT) -> UnixConnection:
    """An HTTP connection to the xapi of this host, not connected yet."""
    return UnixConnection(root.path(LOCAL_SOCKET), timeout)


class PinnedConnection(http.client.HTTPSConnection):
    """HTTPS to a server that has to show one certificate, whoever signed it."""

    def __init__(self, host: str, port: int, timeout: float, certificate: str) -> None:
        super(PinnedConnection, self).__init__(
            host, port, timeout=timeout, context=unverified_context()
        )
        self._certificate = certificate

    def connect(self) -> None:
        """Raises CertificateMismatch, before anything was sent."""
        super(PinnedConnection, self).connect()
        found = fingerprint(self.sock)
        if found != self._certificate:
            self.close()
            raise CertificateMismatch(self._certificate, found)


def fingerprint(sock: socket.socket) -> str:
    """The SHA-256, in lower-case hexadecimal, of the certificate that a TLS server has shown."""
    assert isinstance(sock, ssl.SSLSocket)
    return hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()


def shown_certificate(url: str, timeout: float) -> str:
    """The fingerprint of the certificate that the server at `url` shows now. Raises OSError."""
    shown = connection(url, timeout)
    try:
        shown.connect()
        return fingerprint(shown.sock)
    finally:
        shown.close()


def connection(
    url: str, timeout: float = DEFAULT_TIMEOUT, certificate: str = ""
) -> http.client.HTTPConnection:
    """An HTTP(S) connection to the server that `url` names, not connected yet. `certificate`: the
    fingerprint of the one that it has to show; without it any will do."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname is None:
        raise ValueError("a URL without a host")  # http.client would take this one
    if parts.scheme == "https" and certificate:
        return PinnedConnection(parts.hostname, parts.port or 443, timeout, certificate)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=timeout, context=unverified_context()
        )
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)


class _BoundTransport(xmlrpc.client.Transport):
    """XML-RPC over connections that `make` gives: one for each thread, so that threads may share a
    session. `timeout`: seconds for an answer."""

    def __init__(self, make: Callable[[], http.client.HTTPConnection], timeout: float) -> None:
        self._of_thread = threading.local()
        super(_BoundTransport, self).__init__()
        self._make = make
        self._timeout = timeout

    @contextlib.contextmanager
    def within(self, seconds: Optional[float], longer: bool = False) -> Iterator[None]:
        """Meanwhile answers to this thread may take no longer than this, a number of seconds; None:
        as always. `longer`: it may be more than that. A login within a call has its bound."""
        former = getattr(self._of_thread, "bound", None)
        if seconds is not None and not longer:
            seconds = min(seconds, self._timeout)
        self._of_thread.bound = seconds if former is None else former
        try:
            yield
        finally:
            self._of_thread.bound = former

    @property
    def _connection(self) -> Tuple[Any, Any]:
        """(host, connection) of this thread: what xmlrpc.client.Transport keeps its connection
        in."""
        return getattr(self._of_thread, "connection", (None, None))

    @_connection.setter
    def _connection(self, value: Tuple[Any, Any]) -> None:
        self._of_thread.connection = value

    def make_connection(
        self, host: Union[str, Tuple[str, Dict[str, str]]]
    ) -> http.client.HTTPConnection:
        if not self._connection or host != self._connection[0]:
            self._connection = host, self._make()
        connection, bound = self._connection[1], getattr(self._of_thread, "bound", None)
        connection.timeout = self._timeout if bound is None else bound
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        return connection

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        """One try. xmlrpc.client makes another over a new connection whatever is asked for; a VDI
        might be made twice: `Session` knows what may be asked again."""
        return self.single_request(host, handler, request_body, verbose)

    def single_request(self, *arguments: Any, **named: Any) -> Any:
        """As in xmlrpc.client, but for `CUT`."""
        try:
            return super(_BoundTransport, self).single_request(*arguments, **named)
        except CUT as error:
            raise reset(error)


def local_transport(timeout: float = DEFAULT_TIMEOUT) -> _BoundTransport:
    """For `XenAPI.Session`: this host's xapi."""
    return _BoundTransport(lambda: local_connection(timeout), timeout)


def socket_transport(path: str, timeout: float = DEFAULT_TIMEOUT) -> _BoundTransport:
    """For `xmlrpc.client.ServerProxy`: a server at a unix socket of dom0."""
    return _BoundTransport(lambda: UnixConnection(path, timeout), timeout)


def remote_transport(
    url: str, timeout: float = DEFAULT_TIMEOUT, certificate: str = ""
) -> _BoundTransport:
    """For `XenAPI.Session`: the xapi at `url`. `certificate`: as `connection` takes it."""
    return _BoundTransport(lambda: connection(url, timeout, certificate), timeout)
