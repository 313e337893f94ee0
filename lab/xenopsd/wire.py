# SPDX-License-Identifier: LGPL-2.1-only
"""XML-RPC as rpclib speaks it, over HTTP, on a unix socket or by URL.

A call has one parameter, a struct of named members. An answer is {"Status": "Success", "Value": v}
or {"Status": "Failure", "ErrorDescription": e} (ocaml-rpc, src/lib/xmlrpc.ml); a method that is not
there is HTTP's 500, with a page.
"""

import http.client
import http.server
import socketserver
import ssl
import urllib.parse
import xmlrpc.client

from lab import unix_server
from lab.http_client import UnixConnection, request

_NO_METHOD = (
    "<html><body><h1>HTTP 500 internal server error</h1>An unexpected error occurred; please wait "
    "a while and try again. If the problem persists, "
    "please contact your support representative.<h1> Additional information "
    "</h1>Yojson__Common.Json_error(&quot;Line 1, bytes 0-30:\\nInvalid "
    "token &apos;Idl.UnknownMethod(\\&quot;%s\\&quot;)&apos;&quot;)</body></html>"
)
"""docs/facts/recorded/xenops-unknown-method.response"""


class UnknownMethod(Exception):
    """There is no such method."""


class RpcFailure(Exception):
    """The other side answered Failure; `description` is its ErrorDescription."""

    def __init__(self, description):
        super().__init__(description)
        self.description = description


def call_unix(path, target, method, members, timeout):
    """Call `method` at HTTP path `target` behind the unix socket `path`. Raises RpcFailure,
    xmlrpc.client.Fault, OSError, and http.client.HTTPException where the status is not 200."""
    return _call(UnixConnection(path, timeout), target, method, members)


def call_url(url, method, members, timeout):
    """Call `method` at an http or https URL; certificates are not checked (the lab's are
    self-signed)."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":
        unchecked = ssl.create_default_context()
        unchecked.check_hostname = False
        unchecked.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=unchecked
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    return _call(
        connection,
        "%s?%s" % (parts.path, parts.query) if parts.query else parts.path,
        method,
        members,
    )


def _call(connection, target, method, members):
    body = _document(
        (members,), "<methodCall><methodName>%s</methodName>" % method, "</methodCall>"
    )
    status, _, raw = request(connection, "POST", target, body, {"Content-Type": "text/xml"})
    if status != 200:
        raise http.client.HTTPException("%s: HTTP %d %s" % (method, status, raw[:200]))
    (value,), _ = xmlrpc.client.loads(raw, use_builtin_types=True)
    if isinstance(value, dict) and value.get("Status") == "Failure":
        raise RpcFailure(value.get("ErrorDescription"))
    if isinstance(value, dict) and value.get("Status") == "Success":
        return value["Value"]
    return value


def success(value):
    """An answer, as bytes."""
    return _response({"Status": "Success", "Value": value})


def failure(description):
    """A refusal, as bytes."""
    return _response({"Status": "Failure", "ErrorDescription": description})


def _response(value):
    return _document((value,), "<methodResponse>", "</methodResponse>")


class _Marshaller(xmlrpc.client.Marshaller):
    """Python's refuses an integer of more than 32 bits, as of what a guest has written. The real
    one's are of 64, and come without a type, so as strings to Python (ocaml-rpc, xmlrpc.ml;
    docs/facts/recorded/xenops-VM.stat-running.response): the product must read none."""

    def _integer(self, value, write):
        write("<value><i8>%d</i8></value>" % value)

    dispatch = dict(xmlrpc.client.Marshaller.dispatch)
    dispatch[int] = _integer


def _document(parameters, before, after):
    body = _Marshaller(allow_none=True).dumps(parameters)
    return ("<?xml version='1.0'?>\n%s\n%s%s\n" % (before, body, after)).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        params, method = xmlrpc.client.loads(body, use_builtin_types=True)
        try:
            status, kind, answer = (
                200,
                "text/xml",
                self.server.answer(method, params[0] if params else {}),
            )
        except UnknownMethod:
            status, kind, answer = 500, "text/html", (_NO_METHOD % method).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def address_string(self):
        return "unix"

    def log_request(self, code="-", size="-"):
        """Not logged: Task.stat is asked many times a second."""


class UnixServer(socketserver.ThreadingMixIn, unix_server.UnixServer):
    """Answers each POST with `answer(method, members)`, which may raise UnknownMethod, in a thread
    of its own."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path, answer):
        super().__init__(path, _Handler)
        self.answer = answer
