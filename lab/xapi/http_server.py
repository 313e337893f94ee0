# SPDX-License-Identifier: LGPL-2.1-only
"""HTTP, HTTPS and HTTP over a unix socket: one thread per connection, every wait bounded."""

import contextlib
import http.server
import logging
import os
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
from collections import namedtuple
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from lab import patience
from lab.unix_server import UnixServer

# seconds that a client may keep a connection without a word, or stop in the middle of one
IDLE = 120.0
_LARGEST_BODY = 128 << 20  # bytes
_MOST_CONNECTIONS = 512  # per server
_STOP_POLL = 0.2 * patience.TIMES  # seconds between looks whether it is to stop

log = logging.getLogger("xapi.http")

Request = namedtuple("Request", "method target path query cookies headers body local")
Response = namedtuple("Response", "status content_type body headers")


def response(body, content_type="text/xml", status=200, headers=()):
    return Response(status, content_type, body, headers)


def refusal(status, text):
    return response(text.encode(), "text/plain", status)


RESET = response(b"", status=0)
"""In place of an answer: the connection is reset."""
Unended = namedtuple("Unended", "body content_type")
"""In place of an answer: 200 without a length, and with "Connection: close"; but the connection is
ended only for who has asked for that, as rrdd does (docs/checked-by-hand.md)."""
Reading = namedtuple("Reading", "until take length refused")
Reading.__new__.__defaults__ = (None, None)
"""In place of an answer to one of UNREAD: 200, and the body is read only then, up to `until`
(bytes, or None), for `length` bytes, or to the end of the connection. `take(body)`: what raises
there is only logged; or answered as well, with the Response `refused`."""
# what xapi answers before it has read the body, which lasts as long as the connection
# (xapi_message.ml; rrdd_http_handler.ml; xapi_blob.ml)
UNREAD = (("PUT", "/messages"), ("PUT", "/rrd"), ("PUT", "/blob"))


def cookies_of(header):
    """The cookies of a header, as xapi reads them (http.ml, parse_cookies): split at ";", or at "&"
    where there is none, and not trimmed, so that the name of the second one in "a=b; c=d" is "
    c"."""
    pairs = [part.partition("=") for part in header.split(";" if ";" in header else "&")]
    return {unquote_plus(name): unquote_plus(value) for name, found, value in pairs if found}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE
    server_version = "xapi/26.1"

    def setup(self):
        self.request.settimeout(IDLE)
        if isinstance(self.request, ssl.SSLSocket):
            # here, not where connections are accepted: a slow client holds up itself only
            self.request.do_handshake()
        if self.request.family != socket.AF_UNIX:
            # as stunnel is told to (xapi_stunnel_server.ml): else each answer is 40 ms late, by
            # Nagle's algorithm and the client's delayed acknowledgement
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def handle_request(self):
        parts = urlsplit(self.path)
        unread = (self.command, parts.path) in UNREAD
        body = b"" if unread else self._body()
        if body is None:
            return
        cookies = cookies_of(self.headers.get("Cookie", ""))
        request = Request(
            self.command,
            self.path,
            parts.path,
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            cookies,
            self.headers,
            body,
            self.server.is_local,
        )
        try:
            answer = self.server.answer(request)
        except Exception:  # a bug must not leave the client waiting
            log.exception("%s %s", self.command, parts.path)
            answer = refusal(500, "internal error")
        self.close_connection = self.close_connection or unread
        if isinstance(answer, Reading):
            self._read_on(answer, parts.path)
        elif isinstance(answer, Unended):
            self._send_unended(answer)
        else:
            self._send(answer)

    do_GET = do_PUT = do_POST = handle_request

    def _body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            self._give_up(refusal(501, "chunked bodies are not supported"))
            return None
        try:
            length = int(self.headers.get("Content-Length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= _LARGEST_BODY:
            self._give_up(refusal(413, "bad Content-Length"))
            return None
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return None
        return body

    def _read_on(self, reading, path):
        self.send_response(200)
        self.send_header("Connection", "keep-alive")
        self.end_headers()
        body = b""
        try:
            while len(body) != reading.length and (
                reading.until is None or reading.until not in body
            ):
                more = self.rfile.read1(min(65536, (reading.length or _LARGEST_BODY) - len(body)))
                if not more:
                    break
                body += more
                if len(body) > _LARGEST_BODY:
                    raise ValueError("more than %d bytes" % _LARGEST_BODY)
            reading.take(body)
        except Exception:
            log.exception("%s: what came is not taken", path)
            if reading.refused is not None:
                with contextlib.suppress(OSError):
                    self._send(reading.refused)
        if isinstance(self.request, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self.request.unwrap()  # as stunnel ends a connection that xapi has closed

    def _give_up(self, answer):
        self.close_connection = True
        self._send(answer)

    def _send(self, answer):
        if answer is RESET:
            return self._reset()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def _send_unended(self, answer):
        asked = self.close_connection
        self.send_response(200)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Connection", "close")  # upon which the base class would close it
        self.close_connection = asked
        self.end_headers()
        self.wfile.write(answer.body)

    def _reset(self):
        self.close_connection = True
        # which knows no reset: there it is an end without an answer
        if self.request.family != socket.AF_UNIX:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for file in (self.rfile, self.wfile, self.request):
            file.close()

    def address_string(self):
        return "local"

    def log_message(self, format, *args):
        """Silent: request lines carry session references."""


class _Threaded(socketserver.ThreadingMixIn):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True

    def prepare(self, answer, is_local):
        self.answer = answer
        self.is_local = is_local
        self._slots = threading.BoundedSemaphore(_MOST_CONNECTIONS)

    def process_request(self, request, client_address):
        if not self._slots.acquire(timeout=IDLE):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request, client_address):
        log.info("a connection ended early", exc_info=log.isEnabledFor(logging.DEBUG))


class _TcpServer(_Threaded, socketserver.TCPServer):
    pass


class _TlsServer(_TcpServer):
    context = None

    def get_request(self):
        connection, address = super().get_request()
        return self.context.wrap_socket(
            connection,
            server_side=True,
            do_handshake_on_connect=False,
            # one that is cut, without TLS's own end, stunnel resets to xapi
            suppress_ragged_eofs=False,
        ), address


class _UnixServer(_Threaded, UnixServer):
    pass


class Servers:
    """The three of a host. `answer(Request) -> Response` is called in the thread of the
    connection."""

    def __init__(self):
        self._running = []

    def listen_http(self, address, port, answer):
        self._start(_TcpServer((address, port), _Handler), answer, False)

    def listen_https(self, address, port, certificate, answer):
        server = _TlsServer((address, port), _Handler)
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(certificate)
        # see get_request; Python sets it
        server.context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        self._start(server, answer, False)

    def listen_unix(self, path, answer):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        previous = os.umask(0o077)  # only dom0's root talks here
        try:
            server = _UnixServer(path, _Handler)
        finally:
            os.umask(previous)
        self._start(server, answer, True)

    def _start(self, server, answer, is_local):
        server.prepare(answer, is_local)
        thread = threading.Thread(
            target=server.serve_forever,
            kwargs={"poll_interval": _STOP_POLL},
            name="accept",
            daemon=True,
        )
        self._running.append((server, thread))
        thread.start()

    def stop(self):
        for server, thread in self._running:
            server.shutdown()
            server.server_close()
            thread.join(5)


def make_certificate(path, address):
    """A self-signed certificate with its key in one file (0600), where there is none yet. Raises
    CalledProcessError."""
    if os.path.exists(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    key, certificate = path + ".key", path + ".cert"
    previous = os.umask(0o077)
    try:
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "3650",
                "-subj",
                "/CN=%s" % address,
                "-addext",
                "subjectAltName=IP:%s" % address,
                "-keyout",
                key,
                "-out",
                certificate,
            ],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        with open(path + ".new", "wb") as together:
            for part in (key, certificate):
                with open(part, "rb") as file:
                    together.write(file.read())
        os.replace(path + ".new", path)
    finally:
        os.umask(previous)
        for part in (key, certificate):
            if os.path.exists(part):
                os.unlink(part)
