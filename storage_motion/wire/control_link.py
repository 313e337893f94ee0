# SPDX-License-Identifier: LGPL-2.1-only
"""The mover's end of the `control` role: requests to the receiver from any thread, answered in
order, and a heartbeat."""

import collections
import logging
import select
import ssl
import threading
import time
from typing import Any, Callable, Dict, Optional, Tuple

from storage_motion.errors import ConnectionLost, DataPathError, PeerRefused
from storage_motion.wire import json_lines, stream
from storage_motion.wire.waker import Waker

HEARTBEAT = 10.0  # seconds of silence after which the receiver is told that we are alive
HEARTBEAT_BOUND = 60.0  # seconds within which it has to answer that

log = logging.getLogger(__name__)


class Pending(object):
    """An answer that is still to come."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._arrived = threading.Event()
        self._answer: Optional[Dict[str, Any]] = None
        self._error: Optional[Exception] = None

    def resolve(
        self, answer: Optional[Dict[str, Any]] = None, error: Optional[Exception] = None
    ) -> None:
        """Give the answer, or the error to raise instead."""
        self._answer, self._error = answer, error
        self._arrived.set()

    def await_it(self, seconds: float) -> bool:
        """Whether it arrives within so many seconds; `wait` tells what it is."""
        return self._arrived.wait(seconds)

    @property
    def arrived(self) -> bool:
        """Whether `wait` will not."""
        return self._arrived.is_set()

    def wait(self) -> Dict[str, Any]:
        """The answer (a dict with "ok" true). Raises PeerRefused with the receiver's reason,
        ConnectionLost."""
        # The link's thread resolves everything by its deadline; the margin only covers a link whose
        # thread has died.
        if not self._arrived.wait(max(0.0, self.deadline - time.monotonic()) + HEARTBEAT):
            raise ConnectionLost("the receiver did not answer in time")
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        if self._answer.get("ok") is not True:
            raise PeerRefused(json_lines.reason_of(self._answer))
        return self._answer


class ControlLink(object):
    """Owns the TLS socket of the control role, in a thread of its own."""

    def __init__(self, tls: ssl.SSLSocket, on_lost: Callable[[str], None]) -> None:
        """`on_lost(reason)` is called once, from the link's thread, if the connection ends other
        than by `close`."""
        self._tls = tls
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._unsent: "collections.deque[Tuple[Pending, bytes]]" = collections.deque()
        self._closing = False
        self._lost: Optional[str] = None
        self._waker = Waker()
        # Pending, in the order of their requests; for the thread alone
        self._awaited: "collections.deque[Pending]" = collections.deque()
        self._thread = threading.Thread(target=self._run, name="control link", daemon=True)
        self._thread.start()

    def submit(self, message: Dict[str, Any], timeout: float) -> Pending:
        """Send `message` (a dict with "cmd"); a Pending, to be answered within `timeout`
        seconds."""
        pending = Pending(time.monotonic() + timeout)
        with self._lock:
            if self._lost is not None:
                pending.resolve(error=ConnectionLost(self._lost))
                return pending
            self._unsent.append((pending, json_lines.encode(message)))
        self._waker.wake()
        return pending

    def request(self, message: Dict[str, Any], timeout: float) -> Dict[str, Any]:
        """`submit` and wait."""
        return self.submit(message, timeout).wait()

    def close(self) -> None:
        """End the connection; what is not answered yet fails."""
        self._closing = True
        self._waker.wake()
        self._thread.join(HEARTBEAT)

    def _run(self) -> None:
        lost, reason = True, None
        try:
            self._serve()
            lost, reason = False, "closed by us"
        except DataPathError as error:
            reason = str(error)
        except Exception as error:
            log.exception("the control link failed")
            reason = "internal error: %r" % error
        with self._lock:
            self._lost = reason
            unanswered = list(self._awaited) + [pending for pending, _ in self._unsent]
            self._unsent.clear()
        for pending in unanswered:
            pending.resolve(
                error=ConnectionLost("the control connection to the receiver: %s" % reason)
            )
        self._tls.close()
        self._waker.close()
        if lost:
            self._on_lost("the control connection to the receiver: %s" % reason)

    def _serve(self) -> None:
        self._tls.setblocking(False)
        outgoing = stream.Outgoing(self._tls)
        lines = json_lines.LineBuffer()
        buffer = bytearray(16384)
        quiet_since = time.monotonic()
        while not self._closing:
            if self._take_unsent(outgoing) or self._awaited:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= HEARTBEAT:
                self._awaited.append(Pending(time.monotonic() + HEARTBEAT_BOUND))
                outgoing.push(json_lines.encode({"cmd": "heartbeat"}))
                quiet_since = time.monotonic()  # its answer may be here before we look again
            drained = outgoing.flush()
            if self._awaited and time.monotonic() > self._awaited[0].deadline:
                raise ConnectionLost("no answer in time")
            poll = select.poll()
            self._waker.register(poll)
            poll.register(self._tls, select.POLLIN if drained else select.POLLIN | select.POLLOUT)
            ready = dict(poll.poll(self._patience(quiet_since) * 1000))
            self._waker.clear(ready)
            if self._tls.fileno() in ready:
                self._take_answers(lines, buffer)

    def _take_unsent(self, outgoing: stream.Outgoing) -> bool:
        with self._lock:
            taken = list(self._unsent)
            self._unsent.clear()
            self._awaited.extend(pending for pending, _ in taken)
        for _, line in taken:
            outgoing.push(line)
        return bool(taken)

    def _patience(self, quiet_since: float) -> float:
        """Seconds until something is due: the next answer, or the next heartbeat."""
        due = self._awaited[0].deadline if self._awaited else quiet_since + HEARTBEAT
        return max(0.0, due - time.monotonic()) + 0.001

    def _take_answers(self, lines: json_lines.LineBuffer, buffer: bytearray) -> None:
        while True:
            count = stream.receive_some(self._tls, memoryview(buffer))
            if count is None:
                return
            lines.feed(buffer[:count])
            answer = lines.next()
            while answer is not None:
                if not self._awaited:
                    raise ConnectionLost("an answer to nothing")
                self._awaited.popleft().resolve(answer)
                answer = lines.next()
