# SPDX-License-Identifier: LGPL-2.1-only
"""Between the hosts of one pool: the master asks a host for its work, a slave hands what it is
asked to the master.

Both go by HTTP and prove themselves with the pool's secret (the cookie `pool_secret`, as between
real xapis).
"""

import hmac
import http.client
import json

from lab.http_client import request
from lab.xapi.failures import Failure

ORIGIN = "X-Lab-Host"  # the host over whose unix socket a forwarded request came
_TIMEOUT = 25 * 3600.0  # seconds; a little more than the longest host work
_CONNECT_TIMEOUT = 10.0  # seconds


class Lost(ConnectionError):
    """The peer ended while it was at what it had been sent."""


class Peer:
    """Another xapi of this pool."""

    def __init__(self, address, http_port, pool_secret):
        self.address = address
        self.http_port = http_port
        self._secret = pool_secret

    def ask(self, function, timeout=_TIMEOUT, **arguments):
        """Have the peer run one of its internal functions. Raises the Failure that it answered,
        OSError where it is away."""
        body = json.dumps({"function": function, "arguments": arguments}).encode()
        status, _, answer = self.relay(
            "POST", "/internal", body, {"Content-Type": "application/json"}, timeout
        )
        if status != 200:
            raise ConnectionError("%s answered HTTP %d" % (self.address, status))
        answer = json.loads(answer)
        if "failure" in answer:
            raise Failure.of(answer["failure"])
        return answer["value"]

    def relay(self, method, path, body, headers, timeout=_TIMEOUT):
        """Send a request on as it is. Answers (status, headers, body). Raises Lost and
        ConnectionResetError once it was sent, another OSError where the peer is away."""
        connection = http.client.HTTPConnection(
            self.address, self.http_port, timeout=_CONNECT_TIMEOUT
        )
        connection.connect()
        connection.sock.settimeout(timeout)
        try:
            return request(
                connection,
                method,
                path,
                body,
                dict(headers, Cookie="pool_secret=%s" % self._secret),
            )
        except ConnectionResetError:
            raise
        except ConnectionError as error:
            raise Lost(str(error)) from error


def is_authentic(cookies, pool_secret):
    """Does the request prove to come from this pool?"""
    return hmac.compare_digest(cookies.get("pool_secret", "").encode(), pool_secret.encode())


def answer_internal(functions, body):
    """Run what `Peer.ask` asks for, among `functions`. Answers the JSON to send back."""
    asked = json.loads(body)
    try:
        function = functions.get(asked["function"])
        if function is None:
            raise Failure("MESSAGE_METHOD_UNKNOWN", asked["function"])
        return json.dumps({"value": function(**asked["arguments"])}).encode()
    except Failure as failure:
        return json.dumps({"failure": failure.description}).encode()
