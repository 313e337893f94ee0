# SPDX-License-Identifier: LGPL-2.1-only
"""What xapi takes without a word of what came of it: PUT /messages, PUT /rrd, PUT /blob.

It answers 200 before it has read the body, and tells most failures to its log only
(xapi_message.ml, handler; xapi_blob.ml, handler; rrdd_http_handler.ml, put_rrd_handler, which
answers 500 behind the 200). Messages it takes until the end of the connection: whoever sends them
has to end it as TLS ends it (the stunnel before xapi resets one that is cut). And whatever was sent
has to be looked for afterwards.
"""

import contextlib
import errno
import http.client
import logging
import re
import socket
import ssl
import threading
import urllib.parse
from typing import (
    TYPE_CHECKING,
    Callable,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

from storage_motion.errors import Unreachable
from storage_motion.xapi import transport
from storage_motion.xapi.session import NOT_XAPI, reason

if TYPE_CHECKING:
    import XenAPI

TIMEOUT = 30.0  # seconds without a word
BOUND = 120.0  # seconds for all of it: a word now and then could go on for years
MAX_ANSWER = 64 * 1024 * 1024
LAST_WORD = 10.0  # seconds for what it says of a body that it has
CHUNK = 64 * 1024
MAX_HEAD = 64 * 1024  # of all that is said while a body is sent
HEAD_END = b"\r\n\r\n"
CLOSED = "the connection was closed"
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


def put(url: str, path: str, body: bytes, closes: bool = False) -> None:
    """Have the xapi at `url` (a base URL) read `body`, within BOUND. `closes`: see put_all. Raises
    Unreachable where it does not want to; that it does not raise says nothing."""
    put_all(url, path, len(body), [body], BOUND, closes)


def put_all(
    url: str, path: str, length: int, pieces: Iterable[bytes], bound: float, closes: bool = True
) -> None:
    """The same for a body of `length` bytes that comes in pieces; `bound`: seconds for all of it.
    `closes`: who reads it ends the connection by itself when he has all, and may say before that
    what came of it. Raises Unreachable with what he says."""
    connection = transport.connection(url, TIMEOUT)
    said = _Said()
    try:
        with _within_bound(connection, bound):
            connection.putrequest("PUT", path)
            connection.putheader("Content-Length", str(length))
            connection.endheaders()
            own = connection.sock
            # not connection.getresponse(): an answer without a length would end the connection,
            # and hide what is said behind it
            status = said.begin(own)
            if status != FOUND:
                raise Unreachable(url, "PUT %s: HTTP status %d" % (_plain(path), status))
            for piece in pieces:
                for begin in range(0, len(piece), CHUNK):
                    said.listen(own)
                    own.sendall(piece[begin : begin + CHUNK])
            if not closes or not said.listen_on(own):
                _end(own)
        trouble = None
    except (OSError,) + NOT_XAPI as error:
        trouble = reason(error)
    finally:
        connection.close()
    if said.status not in (None, FOUND):
        trouble = "HTTP status %d, behind a 200" % said.status
    if trouble:
        raise Unreachable(url, "PUT %s: %s" % (_plain(path), trouble))


class _Said:
    """What a server says on a connection over which it is sent a body: 200 first, and more where it
    does not like what it reads (rrdd_http_handler.ml: 500)."""

    def __init__(self) -> None:
        self._text = b""
        self._head = 0

    @property
    def status(self) -> Optional[int]:
        """The HTTP status of a second answer, behind the first one; None: there is none yet."""
        return _status(self._text[self._head :]) if self._head else None

    def begin(self, own: socket.socket) -> int:
        """The HTTP status of its first answer."""
        while HEAD_END not in self._text:
            self._take(own.recv(CHUNK))
        status = _status(self._text)
        if status is None:
            raise http.client.BadStatusLine("")
        self._head = self._text.index(HEAD_END) + len(HEAD_END)
        return status

    def listen(self, own: socket.socket) -> None:
        """Take what it has said by now. Raises ConnectionResetError where it has ended, or has said
        that it does not go on."""
        own.settimeout(0)
        try:
            while True:
                self._take(own.recv(CHUNK))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        finally:
            own.settimeout(TIMEOUT)
        if self.status not in (None, FOUND):
            raise ConnectionResetError(errno.ECONNRESET, "refused")

    def listen_on(self, own: socket.socket) -> bool:
        """Take what it says until it ends the connection. Whether it does, within LAST_WORD."""
        own.settimeout(LAST_WORD)
        try:
            while True:
                self._take(own.recv(CHUNK))
        except socket.timeout:
            return False
        except OSError as error:
            log.info("a connection has ended: %s", reason(error))
            return True
        finally:
            own.settimeout(TIMEOUT)

    def _take(self, more: bytes) -> None:
        if not more:
            raise ConnectionResetError(errno.ECONNRESET, CLOSED)
        self._text += more
        if len(self._text) > MAX_HEAD:
            raise ValueError("more than an answer")


def _status(text: bytes) -> Optional[int]:
    found = re.match(rb"HTTP/1\.[01] ([0-9]{3})", text)
    return int(found.group(1)) if found else None


def get(connection: http.client.HTTPConnection, path: str, moved: bool = True) -> Optional[bytes]:
    """What a server answers (bytes) to a GET, within BOUND; None where it has nothing of that.
    Where it names another host, that one is asked, if `moved`. Raises Unreachable."""
    with reading(connection, path, BOUND) as answer:
        if answer is None:
            return None
        if isinstance(answer, str):
            return _get_elsewhere(answer) if moved else None
        found, size = [], 0
        for piece in answer.pieces:
            found.append(piece)
            size += len(piece)
            if size > MAX_ANSWER:
                raise Unreachable(
                    connection.host, "GET %s: more than %d bytes" % (_plain(path), MAX_ANSWER)
                )
    return b"".join(found)


class Content(NamedTuple):
    """What is read: its length in bytes, None if the server has not said it; and all of it, in
    pieces, once. Those raise Unreachable."""

    length: Optional[int]
    pieces: Iterator[bytes]


@contextlib.contextmanager
def reading(
    connection: http.client.HTTPConnection, path: str, bound: float
) -> Iterator[Union[Content, str, None]]:
    """What a server answers to a GET, while the context lasts: Content; None where it has nothing
    of that; the URL that it names, where another host has it. `bound`: seconds for all of it.
    Raises Unreachable."""
    told = "GET %s: " % _plain(path)
    try:
        with _within_bound(connection, bound):
            # xcp-rrdd tells no length, and unless it is asked to does not end the connection
            # either, though it answers "Connection: close" (docs/checked-by-hand.md)
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            if answer.status == ELSEWHERE:
                yield answer.getheader("Location") or ""
            elif answer.status in NONE_THERE:
                yield None
            elif answer.status != FOUND:
                raise Unreachable(connection.host, told + "HTTP status %d" % answer.status)
            else:
                yield Content(answer.length, _pieces(answer, connection.host, told))
    except (OSError,) + NOT_XAPI as error:
        raise Unreachable(connection.host, told + reason(error))
    finally:
        connection.close()


def _pieces(answer: http.client.HTTPResponse, host: str, told: str) -> Iterator[bytes]:
    left = answer.length
    while left != 0:
        try:
            piece = answer.read(CHUNK if left is None else min(CHUNK, left))
            if not piece and left:
                raise ConnectionResetError(errno.ECONNRESET, CLOSED)
        except (OSError,) + NOT_XAPI as error:
            raise Unreachable(host, told + reason(error))
        if not piece:
            return
        left = None if left is None else left - len(piece)
        yield piece


def _get_elsewhere(url: str) -> Optional[bytes]:
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.urlunsplit(("", "", parts.path, parts.query, ""))
    return get(transport.connection(url, TIMEOUT), path, moved=False)


@contextlib.contextmanager
def _within_bound(connection: http.client.HTTPConnection, bound: float) -> Iterator[None]:
    """Connect it, and cut it off after `bound` seconds, whatever it is at then. Raises
    TimeoutError."""
    connection.connect()
    own = connection.sock  # which it may give to its answer, and forget
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):  # it has ended
            # not the method of an SSLSocket, which a thread that reads just now could not bear
            socket.socket.shutdown(own, socket.SHUT_RDWR)

    timer = threading.Timer(bound, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, Unreachable) + NOT_XAPI:
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():  # what was read may be less than all
        raise TimeoutError(errno.ETIMEDOUT, "no end within %g s" % bound)


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
