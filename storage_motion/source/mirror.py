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

import collections
import errno
import logging
import os
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Set

from storage_motion.errors import (
    ConnectionLost,
    DataPathError,
    MirrorBroken,
    NotFinished,
    ProtocolError,
)
from storage_motion.wire import nbd, nbd_server, stream
from storage_motion.wire.control_socket import listen
from storage_motion.wire.mover_status import BROKEN, ENDED, MIRRORING, READY
from storage_motion.wire.waker import Waker

if TYPE_CHECKING:
    from storage_motion.source.merge import Claim, Merge
    from storage_motion.source.ranges import Range

MAX_OUTSTANDING_BYTES = 256 << 20  # memory that held and unsent writes may take
GOODBYE_BOUND = 10.0  # seconds for the receiver to confirm the end, which it does by closing

log = logging.getLogger(__name__)


class _Write(object):
    """A mirrored write on its way. `arrival`: time.monotonic()."""

    __slots__ = ("held", "handle", "length", "arrival")

    def __init__(self, request: nbd_server.Request, arrival: float) -> None:
        # its message, while it waits for the merge
        self.held: Optional[bytes] = None
        self.handle = request.handle  # tapdisk's
        self.length = request.length
        self.arrival = arrival


class Mirror(object):
    """One disk's mirror, from listening for tapdisk to its end: state ready, mirroring, and then
    ended or broken."""

    def __init__(
        self,
        secondary: str,
        tls: ssl.SSLSocket,
        size: int,
        merge: "Merge",
        stall_bound: float,
        max_outstanding: int,
    ) -> None:
        """Listens on the unix socket `secondary` at once.

        `tls`: the receiver's mirror role. `size` in bytes. `merge`: merge.Merge, this object's from
        now on. `stall_bound`: seconds from a write's arrival to its answer.
        """
        self._secondary = secondary
        self._tls = tls
        self._size = size
        self._merge = merge
        self._stall_bound = stall_bound
        self._max_outstanding = max_outstanding

        self._lock = threading.Lock()  # over the merge, `_admitted` and all that `status` tells
        self._state = READY
        self._error: Optional[str] = None
        self._errno: Optional[int] = None  # of a write that the destination has failed
        self._attachments = 0
        self._mirrored_bytes = 0
        self._mirrored_writes = 0
        self._longest_stall = 0.0
        # writes that the copier's releases have set free
        self._admitted: "collections.deque[int]" = collections.deque()
        # our handle -> _Write, oldest first
        self._writes: "collections.OrderedDict[int, _Write]" = collections.OrderedDict()
        self._outstanding_bytes = 0
        self._next_handle = 1

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
            age = self._oldest_age()
            return {
                "state": self._state,
                "clean": self._state == ENDED,
                "error": self._error,
                "errno": self._errno,
                "attachments": self._attachments,
                "oldest_wait": round(age, 6),
                "mirrored_bytes": self._mirrored_bytes,
                "mirrored_writes": self._mirrored_writes,
                "outstanding": self._merge.outstanding,
                "held": self._merge.held,
                "longest_stall": round(max(self._longest_stall, age), 6),
            }

    # For the copier, from its thread.

    @property
    def mirrored_bytes(self) -> int:
        """How much of the guest's writes the receiver has."""
        return self._mirrored_bytes

    def confine(self, ranges: Iterable["Range"]) -> None:
        """Only `ranges`, in sectors, will be claimed. Once, before the first claim."""
        with self._lock:
            self._merge.confine(ranges)

    def free(self, ranges: Iterable["Range"]) -> List["Range"]:
        """Those of `ranges`, in sectors, that are still the copy's to write."""
        with self._lock:
            return self._merge.free(ranges)

    def claim(self, ranges: Iterable["Range"]) -> Optional["Claim"]:
        """A merge.Claim on what of `ranges` may be copied, or None. Raises MirrorBroken: a copy
        beside a broken mirror is waste."""
        with self._lock:
            if self._state == BROKEN:
                raise MirrorBroken(self._error)
            return self._merge.claim(ranges)

    def release(self, claim: "Claim") -> None:
        """The claim's sectors are copied and verified: the guest's writes that waited for them go
        on."""
        with self._lock:
            admitted = self._merge.release(claim)
            self._admitted.extend(admitted)
        if admitted:
            self._waker.wake()

    def abandon(self) -> None:
        """The copy has failed: the guest's writes go on, but this disk can never be handed over."""
        with self._lock:
            self._admitted.extend(self._merge.abandon())
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
        if not self._merge.intact:
            raise NotFinished("the copy has failed")

    def break_off(self, reason: str) -> None:
        """End the mirror as broken, from any thread."""
        with self._lock:
            if self._error is None:
                self._error = reason
        self._waker.wake()

    def close(self) -> None:
        """End whatever is going on: tapdisk carries on alone."""
        self._closing = True
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
            self._longest_stall = max(self._longest_stall, self._oldest_age())
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

    def _ready(self, wanted: Dict[socket.socket, int], timeout: Optional[float]) -> Set[int]:
        """Wait for any of `wanted` (socket -> poll mask) or a wake-up; the ready file descriptors.
        Raises if broken off."""
        self._watch(wanted)
        ready = {fd for fd, _ in self._poll.poll(None if timeout is None else timeout * 1000 + 1)}
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
            self._require_in_time()

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
            self._take_writes(writes)
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

    def _take_writes(self, requests: List[nbd_server.Request]) -> None:
        """Send on what may go, in one run where it is one; what has to wait is kept."""
        going = []
        arrival = time.monotonic()
        with self._lock:
            for request in requests:
                fault = nbd.request_fault(request.offset, request.length, self._size)
                if fault:
                    raise ProtocolError(
                        "a write of %d bytes at %d: %s"
                        % (request.length, request.offset, nbd.describe_errno(fault))
                    )
                write = _Write(request, arrival)
                handle = self._next_handle
                self._next_handle += 1
                self._writes[handle] = write
                self._outstanding_bytes += request.length
                request.rename(handle)
                start, stop = request.offset, request.offset + request.length
                if self._merge.arrive(handle, start // nbd.SECTOR, stop // nbd.SECTOR):
                    going.append(request)
                else:
                    write.held = bytes(request.message)
        if (
            len(self._writes) > self._max_outstanding
            or self._outstanding_bytes > MAX_OUTSTANDING_BYTES
        ):
            raise MirrorBroken(
                "%d writes, %d bytes outstanding" % (len(self._writes), self._outstanding_bytes)
            )
        for run in nbd_server.runs(going):
            self._to_receiver.push(run)

    def _send_held(self, handle: int) -> None:
        write = self._writes[handle]
        assert write.held is not None
        self._to_receiver.push(write.held)
        write.held = None

    def _send_admitted(self) -> None:
        if not self._admitted:
            return
        with self._lock:
            handles = list(self._admitted)
            self._admitted.clear()
        for handle in handles:
            self._send_held(handle)

    def _take_replies(self) -> None:
        """What the receiver has answered by now, passed on to tapdisk."""
        while True:
            count = stream.receive_some(self._tls, self._reply_buffer, "the receiver")
            if count is None:
                return
            self._replies += self._reply_buffer[:count]
            whole = len(self._replies) // nbd.SIMPLE_REPLY.size * nbd.SIMPLE_REPLY.size
            answers = self._take_run_of_replies(bytes(self._replies[:whole]))
            if answers:
                assert self._to_tap is not None
                self._to_tap.push(b"".join(answers))
            del self._replies[:whole]
            if not stream.has_pending(self._tls):
                return  # what is in the kernel still, the poll will tell

    def _take_run_of_replies(self, replies: bytes) -> List[bytes]:
        """What is to be said to tapdisk upon `replies`, whole ones."""
        now = time.monotonic()
        answers = []
        with self._lock:
            for magic, error, handle in nbd.SIMPLE_REPLY.iter_unpack(replies):
                write = self._writes.get(handle)
                if magic != nbd.SIMPLE_REPLY_MAGIC or write is None or write.held is not None:
                    raise ProtocolError("the receiver answered a write that it was not sent")
                if error:
                    self._errno = nbd.reply_errno(error)
                    raise MirrorBroken(
                        "the destination failed a write: %s" % nbd.describe_errno(self._errno)
                    )
                del self._writes[handle]
                self._outstanding_bytes -= write.length
                self._mirrored_bytes += write.length
                self._mirrored_writes += 1
                self._longest_stall = max(self._longest_stall, now - write.arrival)
                self._admitted.extend(self._merge.answered(handle))
                answers.append(nbd_server.simple_reply(write.handle))
        return answers

    def _oldest_age(self) -> float:
        """Seconds since the arrival of the oldest write that is not answered; 0 where there is
        none."""
        for write in self._writes.values():
            return time.monotonic() - write.arrival
        return 0.0

    def _patience(self) -> Optional[float]:
        """Seconds until the stall bound strikes; None where nothing is outstanding."""
        age = self._oldest_age()
        if self._partial_since is not None:
            age = max(age, time.monotonic() - self._partial_since)
        elif not self._writes:
            return None
        return max(0.0, self._stall_bound - age)

    def _require_in_time(self) -> None:
        if self._oldest_age() >= self._stall_bound:
            raise MirrorBroken("a write was not answered for %.1f s" % self._stall_bound)
        if (
            self._partial_since is not None
            and time.monotonic() - self._partial_since >= self._stall_bound
        ):
            raise MirrorBroken("half a request, and nothing more for %.1f s" % self._stall_bound)

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

    def _stand_guard(self) -> None:
        """From the clean end on: whoever attaches again makes it unclean."""
        while not self._closing and not self._retiring:
            if self._listener.fileno() in self._ready({self._listener: select.POLLIN}, None):
                self._refuse_attachment()
