# SPDX-License-Identifier: LGPL-2.1-only
"""The guest's mirrored writes that are under way: from tapdisk's request to the answer that it is
given. Held back where the merge says so.

No sockets: the pump (mirror.py) brings requests and the receiver's replies, and takes away what is
to be sent. The copier reaches the merge through `claim` and `release`, from its own thread.
"""

import collections
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Optional

from storage_motion.errors import MirrorBroken, ProtocolError
from storage_motion.wire import nbd, nbd_server

if TYPE_CHECKING:
    from storage_motion.source.merge import Claim, Merge
    from storage_motion.source.ranges import Range, RangeSet

MAX_OUTSTANDING_BYTES = 256 << 20  # memory that held and unsent writes may take
PEAK = 1.0  # seconds: a longest wait is told for so long, and for twice that at most


class _Write(object):
    """A mirrored write on its way. `arrival`: time.monotonic()."""

    __slots__ = ("held", "handle", "length", "arrival")

    def __init__(self, request: nbd_server.Request, arrival: float) -> None:
        # its message, while it waits for the merge
        self.held: Optional[bytes] = None
        self.handle = request.handle  # tapdisk's
        self.length = request.length
        self.arrival = arrival


class MirroredWrites(object):
    """Those of one disk. For any thread."""

    def __init__(
        self,
        merge: "Merge",
        size: int,
        max_outstanding: int,
        wrote: Callable[[int, int], None] = lambda start, end: None,
    ) -> None:
        """`merge`: merge.Merge, this object's from now on. `size` of the disk in bytes.
        `max_outstanding`: writes that tapdisk may have under way. `wrote(start, end)` is told of
        each, in sectors, before anything is done with it."""
        self._wrote = wrote
        self._merge = merge
        self._size = size
        self._max_outstanding = max_outstanding
        self._lock = threading.Lock()
        # our handle -> _Write, oldest first
        self._writes: "collections.OrderedDict[int, _Write]" = collections.OrderedDict()
        self._outstanding_bytes = 0
        self._next_handle = 1
        # held writes that may be sent now
        self._admitted: "collections.deque[int]" = collections.deque()
        self._errno: Optional[int] = None  # of a write that the destination has failed
        self._longest_stall = 0.0
        self._waited = 0.0  # seconds, of all that are answered
        # the longest waits of the last PEAK seconds that are over, and of those that go on
        self._peak_before = self._peak = 0.0
        self._peak_ends = 0.0
        self.mirrored_bytes = 0
        self.mirrored_writes = 0

    def __len__(self) -> int:
        """How many are not answered."""
        return len(self._writes)

    @property
    def intact(self) -> bool:
        """Whether nothing of the copy is unknown (merge.Merge)."""
        return self._merge.intact

    def status(self) -> Dict[str, Any]:
        """What the mover's status tells of them."""
        with self._lock:
            age = self._oldest_age()
            return {
                "errno": self._errno,
                "oldest_wait": round(age, 6),
                "mirrored_bytes": self.mirrored_bytes,
                "mirrored_writes": self.mirrored_writes,
                "outstanding": self._merge.outstanding,
                "held": self._merge.held,
                "longest_stall": round(max(self._longest_stall, age), 6),
                "waited": round(self._waited, 6),
                "recent_stall": round(max(self._recent_stall(), age), 6),
            }

    # For the pump.

    def take(self, requests: Iterable[nbd_server.Request]) -> List[nbd_server.Request]:
        """Put writes of tapdisk's under way: those of them that are to be sent now, each by a
        handle of ours; the others are kept. Raises ProtocolError, MirrorBroken if they are too
        many."""
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
                start = request.offset // nbd.SECTOR
                stop = start + request.length // nbd.SECTOR
                self._wrote(start, stop)
                if self._merge.arrive(handle, start, stop):
                    going.append(request)
                else:
                    write.held = bytes(request.message)
            count, length = len(self._writes), self._outstanding_bytes
        if count > self._max_outstanding or length > MAX_OUTSTANDING_BYTES:
            raise MirrorBroken("%d writes, %d bytes outstanding" % (count, length))
        return going

    def take_admitted(self) -> List[bytes]:
        """The messages that were held, and are to be sent now."""
        messages: List[bytes] = []
        if not self._admitted:
            return messages
        with self._lock:
            while self._admitted:
                write = self._writes[self._admitted.popleft()]
                assert write.held is not None
                messages.append(write.held)
                write.held = None
        return messages

    def answer(self, replies: bytes) -> List[bytes]:
        """What is to be said to tapdisk upon `replies` of the receiver's, whole ones. Raises
        ProtocolError; MirrorBroken if the destination has failed a write."""
        now = time.monotonic()
        answers = []
        longest = 0.0
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
                self.mirrored_bytes += write.length
                self.mirrored_writes += 1
                wait = now - write.arrival
                self._waited += wait
                if wait > longest:
                    longest = wait
                self._admitted.extend(self._merge.answered(handle))
                answers.append(nbd_server.simple_reply(write.handle))
            if answers:
                self._note_wait(longest, now)
        return answers

    def _note_wait(self, longest: float, now: float) -> None:
        self._longest_stall = max(self._longest_stall, longest)
        if now >= self._peak_ends:
            self._peak_before = self._peak if now < self._peak_ends + PEAK else 0.0
            self._peak = 0.0
            self._peak_ends = now + PEAK
        self._peak = max(self._peak, longest)

    def _recent_stall(self) -> float:
        since = time.monotonic() - self._peak_ends
        if since < 0:
            return max(self._peak, self._peak_before)
        return self._peak if since < PEAK else 0.0

    def oldest_age(self) -> float:
        """Seconds since the arrival of the oldest that is not answered; 0 where there is none."""
        with self._lock:
            return self._oldest_age()

    def stop_counting(self) -> None:
        """The mirror is broken: what waits has waited so long."""
        with self._lock:
            self._longest_stall = max(self._longest_stall, self._oldest_age())

    def _oldest_age(self) -> float:
        for write in self._writes.values():
            return time.monotonic() - write.arrival
        return 0.0

    # For the copier.

    def confine(self, data: "RangeSet") -> None:
        """Only `data`, of sectors, will be claimed; it is the merge's from now on. Once, before the
        first claim."""
        with self._lock:
            self._merge.confine(data)

    def free(self, ranges: Iterable["Range"]) -> List["Range"]:
        """Those of `ranges`, in sectors, that are still the copy's to write."""
        with self._lock:
            return self._merge.free(ranges)

    def claim(self, ranges: Iterable["Range"]) -> Optional["Claim"]:
        """A merge.Claim on what of `ranges` may be copied, or None."""
        with self._lock:
            return self._merge.claim(ranges)

    def release(self, claim: "Claim") -> bool:
        """The claim's sectors are copied and verified. Whether a write that waited for them may be
        sent now."""
        with self._lock:
            admitted = self._merge.release(claim)
            self._admitted.extend(admitted)
        return bool(admitted)

    def abandon(self) -> None:
        """The copy has failed: what waits may be sent, but this disk can never be handed over."""
        with self._lock:
            self._admitted.extend(self._merge.abandon())
