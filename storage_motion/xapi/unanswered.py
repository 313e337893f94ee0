# SPDX-License-Identifier: LGPL-2.1-only
"""What xapi takes without a word of what came of it: PUT /messages, PUT /rrd.

It answers 200 before it has read the body, takes all that comes until the end of the connection,
and tells failures to its log only (xapi_message.ml, handler; rrdd_http_handler.ml,
put_rrd_handler). So whoever sends has to end the connection as TLS ends it (the stunnel before
xapi resets one that is cut), and to look at what is there afterwards.
"""

import contextlib
import errno
import http.client
import logging
import socket
import ssl
import threading
import urllib.parse
from typing import TYPE_CHECKING, Callable, Iterator, List, Optional, Sequence, Tuple, TypeVar

from storage_motion.errors import Unreachable
from storage_motion.xapi import transport
from storage_motion.xapi.session import NOT_XAPI, reason

if TYPE_CHECKING:
    import XenAPI

TIMEOUT = 30.0  # seconds without a word
BOUND = 120.0  # seconds for all of it: a word now and then could go on for years
MAX_ANSWER = 64 * 1024 * 1024
FOUND, ELSEWHERE = 200, 302  # HTTP statuses
# of an RRD that there is not: rrdd's own word, and what a host says that has not read all yet
NONE_THERE = (404, 503)

Answer = TypeVar("Answer")

log = logging.getLogger("sxm")


def twice(sessions: Sequence["XenAPI.Session"], work: Callable[[], Answer]) -> Answer:
    """What `work()` answers, which does no harm when it is done again: so it is where it raises
    Unreachable. Before that each of `sessions` waits for its xapi, which may just be restarted, and
    logs in anew."""
    try:
        return work()
    except Unreachable as error:
        log.warning("%s; once more", error)
    for session in sessions:
        session.xenapi.pool.get_all()
    return work()


def query(session: "XenAPI.Session", path: str, fields: List[Tuple[str, str]]) -> str:
    """`path` with these fields, and the session, in its query: a secret."""
    return path + "?" + urllib.parse.urlencode([("session_id", session.handle)] + fields)


def put(url: str, path: str, body: bytes) -> None:
    """Have the xapi at `url` (a base URL) read `body`. Raises Unreachable where it does not want
    to; that it does not raise says nothing."""
    connection = transport.connection(url, TIMEOUT)
    try:
        with _within_bound(connection):
            connection.putrequest("PUT", path)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            own = connection.sock
            # not connection.getresponse(): an answer without a length would end the connection
            answer = http.client.HTTPResponse(own, method="PUT")
            answer.begin()
            if answer.status != FOUND:
                raise Unreachable(url, "PUT %s: HTTP status %d" % (_plain(path), answer.status))
            own.sendall(body)
            _end(own)
    except (OSError,) + NOT_XAPI as error:
        raise Unreachable(url, "PUT %s: %s" % (_plain(path), reason(error)))
    finally:
        connection.close()


def get(connection: http.client.HTTPConnection, path: str, moved: bool = True) -> Optional[bytes]:
    """What a server answers (bytes) to a GET; None where it has nothing of that. Where it names
    another host, that one is asked, if `moved`. Raises Unreachable."""
    try:
        with _within_bound(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER + 1) if answer.status == FOUND else b""
        if answer.status == ELSEWHERE:
            return _get_elsewhere(answer.getheader("Location") or "") if moved else None
        if answer.status in NONE_THERE:
            return None
        if answer.status != FOUND:
            raise Unreachable(
                connection.host, "GET %s: HTTP status %d" % (_plain(path), answer.status)
            )
    except (OSError,) + NOT_XAPI as error:
        raise Unreachable(connection.host, "GET %s: %s" % (_plain(path), reason(error)))
    finally:
        connection.close()
    if len(body) > MAX_ANSWER:
        raise Unreachable(
            connection.host, "GET %s: more than %d bytes" % (_plain(path), MAX_ANSWER)
        )
    return body


def _get_elsewhere(url: str) -> Optional[bytes]:
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.urlunsplit(("", "", parts.path, parts.query, ""))
    return get(transport.connection(url, TIMEOUT), path, moved=False)


@contextlib.contextmanager
def _within_bound(connection: http.client.HTTPConnection) -> Iterator[None]:
    """Connect it, and cut it off after BOUND, whatever it is at then. Raises TimeoutError."""
    connection.connect()
    own = connection.sock  # which it may give to its answer, and forget
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):  # it has ended
            # not the method of an SSLSocket, which a thread that reads just now could not bear
            socket.socket.shutdown(own, socket.SHUT_RDWR)

    timer = threading.Timer(BOUND, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError,) + NOT_XAPI:
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():  # what was read may be less than all
        raise TimeoutError(errno.ETIMEDOUT, "no end within %g s" % BOUND)


def _plain(path: str) -> str:
    return path.partition("?")[0]


def _end(own: socket.socket) -> None:
    """Tell the server that this was all, and wait until it has closed the connection, which it does
    when it has read it."""
    try:
        if isinstance(own, ssl.SSLSocket):
            own.unwrap()
        else:
            own.shutdown(socket.SHUT_WR)
            own.recv(1)
    except (OSError, ValueError) as error:
        log.info("a xapi has not said that it has read all: %s", reason(error))
