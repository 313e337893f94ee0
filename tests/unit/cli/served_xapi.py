# SPDX-License-Identifier: LGPL-2.1-only
"""A xapi of one host over TLS, for programs that are run as such: it logs anybody in with the right
password, and has the plugin."""

import contextlib
import http.server
import json
import ssl
import subprocess
import threading
import xmlrpc.client

PASSWORD = "right"
MASTER = "OpaqueRef:master"


def certificate(path, name):
    """A key with its certificate, in one file."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-days", "2", "-subj", "/CN=" + name, "-keyout", path, "-out", path + ".c"],
        check=True,
        capture_output=True,
    )
    with open(path, "a") as file, open(path + ".c") as made:
        file.write(made.read())
    return path


class ServedXapi:
    """`answers`: {function of the plugin: a document, or a function that gives it}; `values`:
    {method: what it answers}; `asked`: the methods that were called. `failure`: [code, detail, ...]
    of each call but the login, or None."""

    def __init__(self, key):
        self.answers, self.asked, self.failure = {}, [], None
        self.values = {"pool.get_all": ["OpaqueRef:pool"], "pool.get_master": MASTER}
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(key)
        self._server = None
        self.port = 0

    @property
    def address(self):
        return "127.0.0.1:%d" % self.port

    @contextlib.contextmanager
    def serving(self):
        """Meanwhile it answers; at the same port each time."""
        xapi = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                parameters, method = xmlrpc.client.loads(body)
                answer = xmlrpc.client.dumps(
                    (xapi._called(method, parameters),), methodresponse=True
                ).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):
                pass  # a client that was killed, or does not like the certificate

            def get_request(self):
                sock, address = super().get_request()
                return xapi._context.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                ), address

        with Server(("127.0.0.1", self.port), Handler) as server:
            server.daemon_threads = True
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def _called(self, method, parameters):
        self.asked.append(method)
        if method == "session.login_with_password":
            if parameters[1] != PASSWORD:
                return _failed("SESSION_AUTHENTICATION_FAILED")
            return _succeeded("OpaqueRef:session")
        if self.failure:
            return _failed(*self.failure)
        if method == "host.call_plugin":
            answer = self.answers[parameters[3]]
            return _succeeded(json.dumps(answer(parameters[4]) if callable(answer) else answer))
        return _succeeded(self.values.get(method, ""))


def _succeeded(value):
    return {"Status": "Success", "Value": value}


def _failed(*details):
    return {"Status": "Failure", "ErrorDescription": list(details)}
