# SPDX-License-Identifier: LGPL-2.1-only
"""The pump: takes the mirrored writes of the guest's tapdisk, and answers each when the receiver's
tapdisk has it.

The guest comes first. Whatever goes wrong here ends with tapdisk's connection being closed, upon
which it carries on alone: the mirror is then broken for good, and the guest has seen no error. What
the real tapdisk asks of us (docs/facts/tapdisk-and-sm.md section 4): never be silent, since it
waits without limit; never have more than 352 requests outstanding, since it loses the rest.

One thread owns both connections, and never blocks on either; the copier reaches the merge through
`claim` and `release`.
"""

import errno
import logging
import os
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional

from storage_motion.errors import (
    ConnectionLost,
    DataPathError,
    MirrorBroken,
    NotFinished,
    ProtocolError,
)
from storage_motion.source.mirrored_writes import MirroredWrites
from storage_motion.wire import nbd, nbd_server, stream
from storage_motion.wire.control_socket import listen
from storage_motion.wire.guest_writes import GuestWrites
from storage_motion.wire.mover_status import BROKEN, ENDED, MIRRORING, READY
from storage_motion.wire.waker import Waker

if TYPE_CHECKING:
    from storage_motion.source.merge import Claim
    from storage_motion.source.ranges import Range, RangeSet

GOODBYE_BOUND = 10.0  # seconds for the receiver to confirm the end, which it does by closing

log = logging.getLogger(__name__)


class Mirror(object):
    """One disk's mirror, from listening for tapdisk to its end: state ready, mirroring, and then
    ended or broken."""

    def __init__(
        self,
        secondary: str,
        tls: ssl.SSLSocket,
        size: int,
        writes: MirroredWrites,
        stall_bound: float,
    ) -> None:
        """Listens on the unix socket `secondary` at once.

        `tls`: the receiver's mirror role. `size` in bytes. `writes`: this object's from now on.
        `stall_bound`: seconds from a write's arrival to its answer.
        """
        self._secondary = secondary
        self._tls = tls
        self._size = size
        self._writes = writes
        self._stall_bound = stall_bound
        self.guest = GuestWrites()  # the copy gives way to them
        self._lock = threading.Lock()  # over these three
        self._state = READY
        self._error: Optional[str] = None
        self._attachments = 0
        self._over = threading.Event()  # ended, broken or closed

        self._closing = False
        self._retiring = False
        self._partial_since: Optional[float] = None
        self._replies = bytearray()
        self._reply_buffer = bytearray(4096)
        self._requests: Optional[nbd_server.RequestReader] = None
        self._tap: Optional[socket.socket] = None
        self._waker = Waker()
        self._poll = select.poll()
        self._waker.register(self._poll)
        self._watched: Dict[socket.socket, int] = {}  # socket -> the mask that `_poll` has for it
        self._listener = listen(secondary, 4)
        self._tls.setblocking(False)
        self._to_receiver = stream.Outgoing(self._tls, "the receiver")
        self._to_tap: Optional[stream.Outgoing] = None
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def status(self) -> Dict[str, Any]:
        """The mirror's part of the mover's status."""
        with self._lock:
            own = {
                "state": self._state,
                "clean": self._state == ENDED,
                "error": self._error,
                "attachments": self._attachments,
            }
        return dict(self._writes.status(), **own)

    # For the copier, from its thread.

    @property
    def mirrored_bytes(self) -> int:
        """How much of the guest's writes the receiver has."""
        return self._writes.mirrored_bytes

    def confine(self, data: "RangeSet") -> None:
        """See MirroredWrites."""
        self._writes.confine(data)

    def free(self, ranges: Iterable["Range"]) -> List["Range"]:
        """See MirroredWrites."""
        return self._writes.free(ranges)

    def claim(self, ranges: Iterable["Range"]) -> Optional["Claim"]:
        """See MirroredWrites. Raises MirrorBroken: a copy beside a broken mirror is waste."""
        with self._lock:
            if self._state == BROKEN:
                raise MirrorBroken(self._error)
        return self._writes.claim(ranges)

    def release(self, claim: "Claim") -> None:
        """The claim's sectors are copied and verified: the guest's writes that waited for them go
        on."""
        if self._writes.release(claim):
            self._waker.wake()

    def abandon(self) -> None:
        """The copy has failed: the guest's writes go on, but this disk can never be handed over."""
        self._writes.abandon()
        self._waker.wake()

    # For the mover's commands.

    def require_handover(self, unmirrored: bool) -> None:
        """Raise NotFinished unless the mirror ended cleanly, or (`unmirrored`) was never used: then
        it is ended now, for good."""
        if unmirrored and self.status()["state"] == "ready":
            self._retiring = True
            self._waker.wake()
            self._thread.join(GOODBYE_BOUND)
        status = self.status()
        if status["state"] != "ended":
            raise NotFinished("the mirror is %s" % status["state"], status["error"] or "")
        if status["attachments"] != (0 if unmirrored else 1):
            raise NotFinished("tapdisk was attached %d times" % status["attachments"])
        if not self._writes.intact:
            raise NotFinished("the copy has failed")

    def await_end(self, seconds: float) -> bool:
        """Wait up to `seconds` for the mirror to be ended or broken. Whether it is."""
        return self._over.wait(seconds)

    def break_off(self, reason: str) -> None:
        """End the mirror as broken, from any thread."""
        with self._lock:
            if self._error is None:
                self._error = reason
        self._waker.wake()

    def close(self) -> None:
        """End whatever is going on: tapdisk carries on alone."""
        self._closing = True
        self._over.set()
        self._waker.wake()
        self._thread.join(GOODBYE_BOUND)

    # The thread.

    def _run(self) -> None:
        try:
            self._await_attachment()
            if self._tap is not None:
                self._pump()
            if not self._closing:
                self._say_goodbye()
                self._stand_guard()
        except DataPathError as error:
            self._set_broken(str(error))
        except Exception as error:
            # A bug of ours: the guest must not wait for it.
            log.exception("the mirror failed")
            self._set_broken("internal error: %r" % error)
        finally:
            self._close_all()

    def _set_broken(self, reason: str) -> None:
        with self._lock:
            self._state = BROKEN
            self._error = self._error or reason
        self._over.set()
        self._writes.stop_counting()
        log.warning("the mirror is broken: %s", self._error)

    def _close_all(self) -> None:
        # tapdisk first: this is what lets the guest go on.
        for sock in (self._tap, self._listener, self._tls):
            if sock is not None:
                stream.interrupt(sock)
                sock.close()
        self._waker.close()
        if os.path.exists(self._secondary):
            os.unlink(self._secondary)

    def _watch(self, wanted: Dict[socket.socket, int]) -> None:
        """Have `_poll` watch just `wanted` (socket -> poll mask), and the wake-up."""
        for sock in [sock for sock in self._watched if sock not in wanted]:
            self._poll.unregister(sock)
            del self._watched[sock]
        for sock, mask in wanted.items():
            if self._watched.get(sock) != mask:
                self._poll.register(sock, mask)
                self._watched[sock] = mask

    def _ready(self, wanted: Dict[socket.socket, int], timeout: Optional[float]) -> List[int]:
        """Wait for any of `wanted` (socket -> poll mask) or a wake-up; the ready file descriptors.
        Raises if broken off."""
        if wanted != self._watched:
            self._watch(wanted)
        ready = [fd for fd, _ in self._poll.poll(None if timeout is None else timeout * 1000 + 1)]
        self._waker.clear(ready)
        if self._error is not None:
            raise MirrorBroken(self._error)
        return ready

    def _await_attachment(self) -> None:
        """Until tapdisk is through its handshake, which makes us `mirroring`, or somebody wants us
        to end."""
        while not self._closing and not self._retiring:
            ready = self._ready({self._listener: select.POLLIN, self._tls: select.POLLIN}, None)
            if self._tls.fileno() in ready:
                self._take_replies()  # there can be none: raises when the receiver is gone
            if self._listener.fileno() in ready and self._handshake():
                return

    def _handshake(self) -> bool:
        tap, _ = self._listener.accept()
        try:
            nbd_server.handshake(tap, self._size, time.monotonic() + nbd_server.HANDSHAKE_TIMEOUT)
        except DataPathError as error:
            # Not attached, and it knows: the prover of the mirror will not find it in tapdisk's
            # stats.
            log.warning("a connection to the secondary came to nothing: %s", error)
            tap.close()
            return False
        tap.setblocking(False)
        self._tap = tap
        self._to_tap = stream.Outgoing(tap, "tapdisk")
        self._requests = nbd_server.RequestReader(tap, "tapdisk")
        with self._lock:
            self._state = MIRRORING
            self._attachments = 1
        log.info("tapdisk is attached")
        return True

    def _pump(self) -> None:
        """Until tapdisk disconnects cleanly. Raises DataPathError for any other end."""
        assert self._tap is not None and self._to_tap is not None
        tap, receiver, listener = self._tap.fileno(), self._tls.fileno(), self._listener.fileno()
        while not self._closing:
            sent = self._to_receiver.flush()
            answered = self._to_tap.flush()
            ready = self._ready(
                {
                    self._tap: select.POLLIN if answered else select.POLLIN | select.POLLOUT,
                    self._tls: select.POLLIN if sent else select.POLLIN | select.POLLOUT,
                    self._listener: select.POLLIN,
                },
                self._patience(),
            )
            if listener in ready:
                self._refuse_attachment()
            if receiver in ready:
                self._take_replies()
            if tap in ready and self._take_requests():
                return
            self._send_admitted()

    def _take_requests(self) -> bool:
        """What tapdisk has sent by now; True if that ended with a clean goodbye."""
        assert self._requests is not None and self._to_tap is not None
        requests = self._requests.read()
        if requests:
            disconnects = requests[-1].command == nbd.CMD_DISC
            writes = []
            for request in requests[: len(requests) - disconnects]:
                if request.flags:
                    raise ProtocolError(
                        "tapdisk never sends flags, but here are %#x" % request.flags
                    )
                if request.command == nbd.CMD_WRITE:
                    writes.append(request)
                elif request.command == nbd.CMD_READ:
                    self._to_tap.push(nbd_server.simple_reply(request.handle, errno.EINVAL))
                else:
                    raise ProtocolError("unknown command %d" % request.command)
            self.guest.came()
            for run in nbd_server.runs(self._writes.take(writes)):
                self._to_receiver.push(run)
            if disconnects:
                if self._writes:
                    raise ProtocolError(
                        "tapdisk disconnected with %d writes outstanding" % len(self._writes)
                    )
                log.info("tapdisk has disconnected cleanly")
                return True
            if self._to_receiver.flush():
                self._requests.give_back(requests[0].buffer)
        self._partial_since = (
            (self._partial_since or time.monotonic()) if self._requests.partial else None
        )
        return False

    def _send_admitted(self) -> None:
        for message in self._writes.take_admitted():
            self._to_receiver.push(message)

    def _take_replies(self) -> None:
        """What the receiver has answered by now, passed on to tapdisk."""
        while True:
            count = stream.receive_some(self._tls, self._reply_buffer, "the receiver")
            if count is None:
                return
            self._replies += self._reply_buffer[:count]
            whole = len(self._replies) // nbd.SIMPLE_REPLY.size * nbd.SIMPLE_REPLY.size
            answers = self._writes.answer(bytes(self._replies[:whole]))
            if answers:
                assert self._to_tap is not None
                self._to_tap.push(b"".join(answers))
            del self._replies[:whole]
            if not stream.has_pending(self._tls):
                return  # what is in the kernel still, the poll will tell

    def _patience(self) -> Optional[float]:
        """Seconds until the stall bound strikes; None where nothing is outstanding. Raises
        MirrorBroken if it has."""
        partial = self._partial_since
        if not self._writes and partial is None:
            return None
        left = self._stall_bound - self._writes.oldest_age()
        if left <= 0:
            raise MirrorBroken("a write was not answered for %.1f s" % self._stall_bound)
        if partial is not None:
            left = min(left, self._stall_bound - (time.monotonic() - partial))
            if left <= 0:
                raise MirrorBroken(
                    "half a request, and nothing more for %.1f s" % self._stall_bound
                )
        return left

    def _refuse_attachment(self) -> None:
        """A second attachment: what was written in between, or beside, is not in this mirror."""
        tap, _ = self._listener.accept()
        tap.close()
        with self._lock:
            self._attachments += 1
        raise MirrorBroken("tapdisk was attached a second time")

    def _say_goodbye(self) -> None:
        """Pass the disconnect on, and wait until the receiver has confirmed it by closing; then we
        are `ended`."""
        if self._tap is not None:
            # before it is closed, since a closed socket cannot be taken out of a poll
            self._watch({})
            self._tap.close()
            self._tap = None
        self._to_receiver.push(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_DISC, 0, 0, 0))
        deadline = time.monotonic() + GOODBYE_BOUND
        while True:
            mask = select.POLLIN if self._to_receiver.flush() else select.POLLIN | select.POLLOUT
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise ConnectionLost("the receiver did not confirm the end of the mirror")
            if self._tls.fileno() not in self._ready({self._tls: mask}, remaining):
                continue
            try:
                self._take_replies()
            except ConnectionLost:
                # closed, as it should be; whether for that reason, the receiver knows, and says at
                # `finish`
                break
        with self._lock:
            self._state = ENDED
        self._over.set()

    def _stand_guard(self) -> None:
        """From the clean end on: whoever attaches again makes it unclean."""
        while not self._closing and not self._retiring:
            if self._listener.fileno() in self._ready({self._listener: select.POLLIN}, None):
                self._refuse_attachment()
