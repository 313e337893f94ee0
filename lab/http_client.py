# SPDX-License-Identifier: LGPL-2.1-only
"""HTTP to another process of the lab: over a unix socket or TCP, with a bound on everything."""

import http.client
import socket

_MOST_ANSWER = 128 << 20  # bytes


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the unix socket `path`; `timeout` seconds for each of connect, send and receive."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(connection, method, path, body, headers):
    """One exchange, then close. Answers (status, [(header, value)], body). Raises OSError
    (ConnectionError for bad HTTP)."""
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read(_MOST_ANSWER)
        if response.length:  # it does not say so itself where a size is asked for
            raise http.client.IncompleteRead(answer, response.length)
        return response.status, response.getheaders(), answer
    except http.client.HTTPException as error:
        raise ConnectionError("%s: %s" % (type(error).__name__, error)) from error
    finally:
        connection.close()


def exchange(connection, method, path, body, headers):
    """The same, for an answer that must be 200: its body. Raises OSError otherwise."""
    status, _, answer = request(connection, method, path, body, headers)
    if status != 200:
        raise ConnectionError("HTTP %d" % status)
    return answer
