# SPDX-License-Identifier: LGPL-2.1-only
"""The copier: what a snapshot holds, to the destination, beside the mirror, and verified before it
counts.

One thread, which waits for the snapshot and for the receiver at once. It has windows of 1 MiB read
ahead. It takes one, claims its sectors from the merge, which leaves out what the guest has written
since, and sends them. The receiver answers when it has written them, read them back and found them
the same; only then is the claim released, and a guest's write to the same sectors, held since,
sent. So a claim lasts a write and a read, and there are never more than a few.

Where the destination has had some of it before (a mirror that was broken is taken up again), only
what differs is sent (comparison.py).
"""

import collections
import logging
import select
import threading
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Set, Tuple

from storage_motion.errors import (
    ConnectionLost,
    CopyDiffers,
    DataPathError,
    MotionError,
    RequestFailed,
)
from storage_motion.source.comparison import Comparison, Question
from storage_motion.source.fair_share import FairShare
from storage_motion.source.pace import Pace
from storage_motion.source.ranges import Range, RangeSet, intersection, total
from storage_motion.source.verified_windows import VerifiedWindows
from storage_motion.source.windows import WINDOW, windows
from storage_motion.wire import nbd, nbd_client, stream
from storage_motion.wire.guest_writes import CopyPriority

if TYPE_CHECKING:
    from storage_motion.source.merge import Claim
    from storage_motion.source.mirror import Mirror
    from storage_motion.wire.control_link import ControlLink

READS = 4  # windows being read at a time, where the snapshot's tapdisk bears so many
QUESTIONS = 4  # about windows without data
WRITES = 4  # windows claimed, and not answered yet
# requests under way to the receiver, which keeps as many (destination/copy_role.py, MAX_REQUESTS)
COPY_DEPTH = 8
LIMIT_NOTICED = 0.5  # seconds until a new bandwidth is kept to, at most
ROOM = nbd.REQUEST.size  # bytes before the data, for the header of the request that takes it on
ZEROS = bytes(WINDOW * nbd.SECTOR)

log = logging.getLogger(__name__)


class Copier(object):
    """One copy of one disk. State: running, and then done or failed."""

    def __init__(
        self,
        source: nbd_client.Client,
        destination: nbd_client.Client,
        link: "ControlLink",
        mirror: "Mirror",
        data: RangeSet,
        blank: bool,
        verified: VerifiedWindows,
        heading: Dict[str, Any],
        compare: bool = False,
        known: Optional[RangeSet] = None,
        bandwidth: float = 0.0,
        share: Optional[FairShare] = None,
        based: bool = False,
    ) -> None:
        """Begins at once, in a thread of its own.

        `source`: nbd_client.Client of the snapshot. `destination`: nbd_client.Client of the
        receiver's copy role, with COPY_DEPTH. `link`: control_link.ControlLink. `mirror`:
        mirror.Mirror. `data`: RangeSet of the sectors in which the snapshot may hold other than
        zeros. `blank`: the destination reads as zeros; if not, all other sectors are made zero too.
        `verified`: is told of each window that is, under `heading`. `compare`: the destination may
        have some of it, so only what differs is written. `known`: sectors that are at the
        destination for sure, whole windows, which are left alone; only with `compare`.
        `bandwidth`: see `limit`. `share`: this object's from now on; None: there are no others.
        `based`: the destination has all but `data`, in which zeros count as any other content.
        """
        self._source = source
        self._destination = destination
        self._mirror = mirror
        self._data = data
        # a command for zeros, which carries none
        self._zeros = nbd.CMD_REQUIRE_ZEROES if blank else nbd.CMD_WRITE_ZEROES
        everything = RangeSet([(0, source.size // nbd.SECTOR)])
        self._to_copy = data if blank or based else everything
        known = known if compare and known and not blank else RangeSet()
        self._left = RangeSet(known.missing(0, everything.total)) if known else self._to_copy
        self._state = "running"
        self._error: Optional[str] = None
        self._errno: Optional[int] = None  # of a request that a disk has failed
        self._stopped: Optional[str] = None
        # Sectors. `same`: found at the destination; `saved`: those of them that hold data.
        self._copied = self._verified = self._skipped = 0
        # of `_copied`, what went as data; of `_verified`, zeros, of which only a command went
        self._sent = self._zeros_verified = 0
        self._same, self._saved = known.total, total(intersection(known, data))
        self._windows = verified
        for start, end in known:
            verified.verified(start, end)
        if blank or based:
            verified.all_but(data, everything.total)
        verified.begin(heading)
        self._comparison = Comparison(link, mirror) if compare else None
        # claims that the receiver has not answered, each with the count of its requests
        self._unanswered: "collections.Counter[Claim]" = collections.Counter()
        self._without_data: "Set[Claim]" = set()  # those of them that are zeros
        # windows without data, whose questions to the destination are not answered yet
        self._asked: "collections.deque[Tuple[List[Range], Question]]" = collections.deque()
        self._buffer = memoryview(bytearray(ROOM + WINDOW * nbd.SECTOR))
        self._poll = select.poll()
        for client in (source, destination):
            self._poll.register(client.sock, select.POLLIN)
        self._priority = CopyPriority(mirror.guest)
        self._pace = Pace()
        self._pace.bandwidth = bandwidth
        self._share = share
        mirror.confine(self._left.copy())
        self._thread = threading.Thread(target=self._run, name="copier", daemon=True)
        self._thread.start()

    def status(self) -> Dict[str, Any]:
        """The copy's part of the mover's status; in bytes."""
        return {
            "state": self._state,
            "error": self._error,
            "errno": self._errno,
            "to_copy": self._to_copy.total * nbd.SECTOR,
            "copied": self._copied * nbd.SECTOR,
            "skipped": self._skipped * nbd.SECTOR,
            "sent": self._sent * nbd.SECTOR,
            "verified": self._verified * nbd.SECTOR,
            "zeros": self._zeros_verified * nbd.SECTOR,
            "same": self._same * nbd.SECTOR,
            "saved": self._saved * nbd.SECTOR,
        }

    def limit(self, bandwidth: float) -> None:
        """Let mirror and copy together send no more than so many bytes per second from now on; 0:
        as much as goes."""
        self._pace.bandwidth = bandwidth

    def stop(self, reason: str) -> None:
        """End the copy as failed, unless it has ended."""
        self._stopped = reason
        self._source.interrupt()
        self._destination.interrupt()
        self._thread.join(nbd_client.TIMEOUT)

    def _run(self) -> None:
        try:
            self._copy()
            if self._verified + self._same + self._skipped != self._to_copy.total:
                raise DataPathError(
                    "verified %d, found %d and skipped %d sectors, which is not what there is"
                    % (self._verified, self._same, self._skipped)
                )
            self._source.close()
            self._destination.disconnect()
            self._state = "done"
            log.info("the copy is done: %s", self.status())
        except Exception as error:
            if not isinstance(error, MotionError):
                log.exception("the copy failed")
            if self._stopped is not None:
                error = DataPathError(self._stopped)
            self._error = str(error) or repr(error)
            self._errno = getattr(error, "errno", None)
            self._state = "failed"
            self._source.close()
            self._destination.close()
            self._mirror.abandon()
            if self._stopped is not None:
                log.info("the copy is stopped: %s", self._stopped)
            else:
                log.warning("the copy has failed: %s", self._error)
        finally:
            if self._share is not None:
                self._share.close()

    def _copy(self) -> None:
        for ranges in windows(self._left):
            while self._source.full or self._source.in_flight >= READS:
                self._go_on()
            self._begin(ranges)
        while self._asked:
            self._take(*self._asked.popleft(), data=None)
        while self._source.in_flight or self._destination.in_flight:
            self._go_on()

    def _begin(self, ranges: List[Range]) -> None:
        """Have a window read, unless it is known what is in it, or nobody needs it any more."""
        if not self._mirror.free(ranges):
            self._skipped += total(ranges)
            return
        question = self._comparison.ask(ranges) if self._comparison else None
        start, end = ranges[0][0], ranges[-1][1]
        if self._data.overlaps(start, end):
            self._source.start_read(
                start * nbd.SECTOR, (end - start) * nbd.SECTOR, tag=(ranges, question)
            )
        elif question is None:
            self._send(ranges, ranges[0][0], None)
        else:
            self._asked.append((ranges, question))
            if len(self._asked) > QUESTIONS:
                self._take(*self._asked.popleft(), data=None)

    def _go_on(self) -> None:
        """Do what comes first: an answer of the receiver's, or a window that has been read, if the
        receiver may have more. Raises ConnectionLost where neither comes."""
        self._priority.adjust()
        if not self._source.in_flight or self._is_receiver_busy():
            self._take_answer()
            return
        if self._destination.in_flight and stream.has_pending(self._destination.sock):
            self._take_answer()
            return
        ready = dict(self._poll.poll(nbd_client.TIMEOUT * 1000))
        if not ready:
            raise ConnectionLost("the snapshot's tapdisk did not answer in time")
        if self._destination.sock.fileno() in ready:
            self._take_answer()
            return
        (ranges, question), data = self._source.reap(self._buffer[ROOM:])
        assert isinstance(data, memoryview)
        self._take(ranges, question, None if ZEROS.startswith(data) else data)

    def _is_receiver_busy(self) -> bool:
        return len(self._unanswered) >= WRITES or self._destination.full

    def _take(
        self, ranges: List[Range], question: Optional[Question], data: Optional[memoryview]
    ) -> None:
        """Send a window, as far as the destination does not have it, and nobody has written it.
        `data` begins with the first of `ranges`; None: zeros."""
        first = ranges[0][0]
        if question is not None:
            assert self._comparison is not None
            if not question.answered:
                # no write of the guest has to wait for a digest
                while self._destination.in_flight:
                    self._take_answer()
            same, differing = self._comparison.answer(question, data)
            self._note_found(ranges, same, differing)
            ranges = differing
            if same and not differing:
                self._windows.verified(same[0][0], same[-1][1])
        if ranges:
            self._send(ranges, first, data)

    def _note_found(self, ranges: List[Range], same: List[Range], differing: List[Range]) -> None:
        self._same += total(same)
        self._saved += total(intersection(same, self._data))
        self._skipped += total(ranges) - total(same) - total(differing)

    def _send(self, ranges: List[Range], first: int, data: Optional[memoryview]) -> None:
        """Send what is the copy's still of `ranges`. `data` begins with sector `first`."""
        if data is not None:
            self._await_turn()
        while self._is_receiver_busy():
            self._take_answer()
        claim = self._mirror.claim(ranges)
        claimed = total(claim.ranges) if claim else 0
        self._skipped += total(ranges) - claimed
        if claim is None:
            return
        self._copied += claimed
        self._unanswered[claim] = len(claim.ranges)
        if data is None:
            self._without_data.add(claim)
        for start, end in claim.ranges:
            while self._destination.full:
                self._take_answer()
            offset, length = start * nbd.SECTOR, (end - start) * nbd.SECTOR
            if data is None:
                message, command = memoryview(bytearray(ROOM)), self._zeros
            else:
                at = offset - first * nbd.SECTOR
                # the header goes over what lies before it: sent already, or not to be sent
                message, command = self._buffer[at : at + ROOM + length], nbd.CMD_WRITE
            self._destination.start_message(message, command, offset, length, tag=(claim, start))
        if data is not None:
            self._sent += claimed
            self._pace.sent(claimed * nbd.SECTOR)
            if self._share is not None:
                self._share.sent(claimed * nbd.SECTOR)

    def _await_turn(self) -> None:
        """Until the bandwidth, and the other copies of this host, let the copy go on. Answers are
        taken meanwhile, so no write of the guest waits for that."""
        answers = select.poll()
        answers.register(self._destination.sock, select.POLLIN)
        while True:
            pause = self._pace.pause(self._mirror.mirrored_bytes)
            if not pause and self._share is not None:
                pause = self._share.pause()
            if not pause:
                return
            # a change is noticed soon
            if stream.has_pending(self._destination.sock) or answers.poll(
                min(pause, LIMIT_NOTICED) * 1000 + 1
            ):
                self._take_answer()

    def _take_answer(self) -> None:
        claim: "Claim"
        try:
            (claim, _), _ = self._destination.reap()
        except RequestFailed as error:
            if error.errno != nbd.NOT_AS_WRITTEN:
                raise
            claim, start = error.tag
            length = next(end - first for first, end in claim.ranges if first == start)
            raise CopyDiffers(
                "offset %d" % (start * nbd.SECTOR), "length %d" % (length * nbd.SECTOR)
            )
        self._unanswered[claim] -= 1
        if not self._unanswered[claim]:
            del self._unanswered[claim]
            self._verified += total(claim.ranges)
            if claim in self._without_data:
                self._without_data.remove(claim)
                self._zeros_verified += total(claim.ranges)
            self._windows.verified(claim.ranges[0][0], claim.ranges[-1][1])
            self._mirror.release(claim)
            if self._share is not None:
                self._share.answered(stream.unacknowledged(self._destination.sock) > 0)
