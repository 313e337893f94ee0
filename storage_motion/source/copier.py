# SPDX-License-Identifier: LGPL-2.1-only
"""The copier: what a snapshot holds, to the destination, beside the mirror, and verified before it
counts.

Three threads in a row. The *reader* reads the snapshot in windows of 1 MiB. The *writer* claims a
window's sectors from the merge, which leaves out what the guest has written since, and writes them.
The *verifier* compares a digest of just these sectors, read back by the receiver through the
destination's tapdisk, with the source's; only then is the claim released, and a guest's write to
the same sectors, held since, sent. So a claim lasts a write and a read, and there are never more
than a few.

Where the destination has had some of it before (a mirror that was broken is taken up again), a
fourth thread, the *comparer*, comes before the writer: it asks the receiver for the digest of what
is there, and hands on only what differs. It claims nothing while it asks, so no write of the guest
waits for it.
"""

import collections
import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Optional, Tuple

from storage_motion.errors import DataPathError, DigestMismatch, MotionError
from storage_motion.source.pipeline import END, Pipeline
from storage_motion.source.ranges import Range, RangeSet, intersection, total
from storage_motion.wire import digest, nbd, nbd_client

if TYPE_CHECKING:
    from storage_motion.source.merge import Claim
    from storage_motion.source.mirror import Mirror
    from storage_motion.wire.control_link import ControlLink, Pending

WINDOW = (
    2048  # sectors: 1 MiB, the best size measured (docs/facts/qemu-storage-daemon.md section 2.2)
)
READS = 4  # windows being read at a time, where the snapshot's tapdisk bears so many
# windows whose digest the receiver is asked for at a time, before anything of them is claimed
COMPARISONS = 4
UNCLAIMED = 2  # windows read, and not claimed yet
GRAIN = 128  # sectors: 64 KiB, in which a window that differs is compared once more
WRITES = 4  # windows claimed, and not answered yet
UNVERIFIED = 4  # windows answered, and not verified yet
COPY_DEPTH = 64  # requests under way to the receiver, which gives its tapdisk a few at once
DIGEST_BOUND = 60.0  # seconds for the receiver to read one window back
ZEROS = bytes(WINDOW * nbd.SECTOR)

log = logging.getLogger(__name__)


class _Window(object):
    """Sectors to copy out of one aligned WINDOW. `data` begins at sector `start`; None: there is
    nothing but zeros."""

    __slots__ = ("ranges", "start", "data", "claim", "check")

    def __init__(self, ranges: List[Range], data: Optional[bytearray]) -> None:
        self.ranges = ranges  # list of (start, end)
        self.start = ranges[0][0]
        self.data = data
        self.claim: Optional["Claim"] = None
        self.check: Optional["Pending"] = None  # control_link.Pending: the receiver's digest

    def source(self, start: int, end: int) -> memoryview:
        """The source's data of sectors [start, end), as a view."""
        offset, length = (start - self.start) * nbd.SECTOR, (end - start) * nbd.SECTOR
        return (
            memoryview(ZEROS)[:length]
            if self.data is None
            else memoryview(self.data)[offset : offset + length]
        )

    def digest(self, algorithm: str, ranges: List[Range]) -> str:
        """The digest of the source's data of `ranges`."""
        if self.data is None:
            return digest.of_zeros(algorithm, total(ranges) * nbd.SECTOR)
        return digest.of_buffers(algorithm, (self.source(start, end) for start, end in ranges))


def windows(ranges: Iterable[Range], size: int = WINDOW) -> Iterator[List[Range]]:
    """Group ascending, disjoint `ranges` of sectors by aligned windows of `size`: an iterator of
    lists of (start, end)."""
    current: Optional[int] = None
    parts: List[Range] = []
    for start, end in ranges:
        while start < end:
            window = start // size
            stop = min(end, (window + 1) * size)
            if window != current and parts:
                yield parts
                parts = []
            current = window
            parts.append((start, stop))
            start = stop
    if parts:
        yield parts


def read_extents(path: str, size: int) -> RangeSet:
    """The extents, in sectors, that the file `path` lists (the answer of `vdi_extents`) for a disk
    of `size` bytes: a RangeSet.

    Raises DataPathError if they are not those of such a disk.
    """
    try:
        with open(path) as source:
            answer = json.load(source)
        extents = RangeSet()
        if answer["size"] != size:
            raise DataPathError(
                "the extents are those of a disk of %s bytes, not %d" % (answer["size"], size)
            )
        for offset, length in answer["extents"]:
            if (
                nbd.request_fault(offset, nbd.SECTOR, size)
                or length % nbd.SECTOR
                or not 0 < length <= size - offset
            ):
                raise DataPathError("an extent of %s bytes at %s" % (length, offset))
            extents.add(offset // nbd.SECTOR, (offset + length) // nbd.SECTOR)
        return extents
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataPathError("%s: %s" % (path, error))


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
        compare: bool = False,
    ) -> None:
        """Begins at once, in threads of its own.

        `source`: nbd_client.Client of the snapshot. `destination`: nbd_client.Client of the
        receiver's copy role, with COPY_DEPTH. `link`: control_link.ControlLink. `mirror`:
        mirror.Mirror. `data`: RangeSet of the sectors in which the snapshot may hold other than
        zeros. `blank`: the destination reads as zeros; if not, all other sectors are made zero too.
        `compare`: the destination may have some of it, so only what differs is written.
        """
        self._source = source
        self._destination = destination
        self._link = link
        self._mirror = mirror
        self._data = data
        self._blank = blank
        everything = [(0, source.size // nbd.SECTOR)]
        self._to_copy = list(data) if blank else everything
        self._state = "running"
        self._error: Optional[str] = None
        self._errno: Optional[int] = None  # of a request that a disk has failed
        # Sectors; each is written by one thread only. `same`: found at the destination; `saved`:
        # those of them that hold data.
        self._copied = self._verified = self._same = self._saved = 0
        self._skipped = {"reader": 0, "comparer": 0, "writer": 0}
        self._algorithm = digest.fastest()
        self._pipeline = Pipeline()
        self._read = self._pipeline.queue(UNCLAIMED)
        self._differing = self._pipeline.queue(UNCLAIMED) if compare else self._read
        self._answered = self._pipeline.queue(UNVERIFIED)
        self._stages = [self._reader] + [self._comparer] * compare + [self._writer, self._verifier]
        mirror.confine(self._to_copy)
        self._thread = threading.Thread(target=self._run, name="copier", daemon=True)
        self._thread.start()

    def status(self) -> Dict[str, Any]:
        """The copy's part of the mover's status; in bytes."""
        return {
            "state": self._state,
            "error": self._error,
            "errno": self._errno,
            "to_copy": total(self._to_copy) * nbd.SECTOR,
            "copied": self._copied * nbd.SECTOR,
            "skipped": sum(self._skipped.values()) * nbd.SECTOR,
            "verified": self._verified * nbd.SECTOR,
            "same": self._same * nbd.SECTOR,
            "saved": self._saved * nbd.SECTOR,
        }

    def stop(self, reason: str) -> None:
        """End the copy as failed, unless it has ended."""
        self._pipeline.stop(DataPathError(reason))
        self._interrupt()
        self._thread.join(nbd_client.TIMEOUT)

    def _interrupt(self) -> None:
        self._source.interrupt()
        self._destination.interrupt()

    def _run(self) -> None:
        try:
            self._pipeline.run(self._stages, self._interrupt)
            skipped = sum(self._skipped.values())
            if self._verified + self._same + skipped != total(self._to_copy):
                raise DataPathError(
                    "verified %d, found %d and skipped %d sectors, which is not what there is"
                    % (self._verified, self._same, skipped)
                )
            self._source.close()
            self._destination.disconnect()
            self._state = "done"
            log.info("the copy is done: %s", self.status())
        except Exception as error:
            if not isinstance(error, MotionError):
                log.exception("the copy failed")
            self._error, self._errno = str(error) or repr(error), getattr(error, "errno", None)
            self._state = "failed"
            self._source.close()
            self._destination.close()
            self._mirror.abandon()
            log.warning("the copy has failed: %s", self._error)

    def _reader(self) -> None:
        for ranges in windows(self._to_copy):
            if not self._mirror.free(ranges):
                self._skipped["reader"] += total(ranges)
                continue
            start, end = ranges[0][0], ranges[-1][1]
            if not self._data.overlaps(start, end):
                self._read.put(_Window(ranges, None))
                continue
            if self._source.full or self._source.in_flight >= READS:
                self._hand_on_read()
            self._source.start_read(start * nbd.SECTOR, (end - start) * nbd.SECTOR, tag=ranges)
        while self._source.in_flight:
            self._hand_on_read()
        self._read.put(END)

    def _hand_on_read(self) -> None:
        ranges, data = self._source.reap()
        assert data is not None
        self._read.put(_Window(ranges, None if data == ZEROS[: len(data)] else data))

    def _comparer(self) -> None:
        # (window, ranges, Pending): ranges whose digest at the destination is to come
        asked: "collections.deque[Tuple[List[Range], List[Range], Optional[Pending], _Window]]" = (
            collections.deque()
        )
        more = True
        while more or asked:
            window: Optional[_Window] = None
            if more and len(asked) < COMPARISONS:
                window = self._read.get(wait=not asked)
            if window is END:
                more = False
            elif window is not None:
                asked.append(self._question(window.ranges) + (window,))
            elif asked:
                self._decide(*asked.popleft())
        self._differing.put(END)

    def _question(
        self, ranges: List[Range]
    ) -> Tuple[List[Range], List[Range], Optional["Pending"]]:
        """(ranges, those of them that nobody has written so far, a Pending of their digest at the
        destination, if there are any)"""
        free = self._mirror.free(ranges)
        return ranges, free, self._ask(free) if free else None

    def _decide(
        self, ranges: List[Range], free: List[Range], answer: Optional["Pending"], window: _Window
    ) -> None:
        """Hand a window on, narrowed to where it differs: guests write little here and little
        there, so that is looked at closely."""
        if self._found(ranges, free, answer, window):
            return
        questions = [self._question(grain) for grain in windows(window.ranges, GRAIN)]
        window.ranges = [
            part
            for question in questions
            if not self._found(*question, window=window)
            for part in question[0]
        ]
        if window.ranges:
            self._differing.put(window)

    def _found(
        self, ranges: List[Range], free: List[Range], answer: Optional["Pending"], window: _Window
    ) -> bool:
        """Whether `ranges` need no copying: since the guest has written them, or the destination
        has the source's data there.

        A sector that is free now was so all the time, and nobody has written it meanwhile (merge,
        invariant 3): what the digest says of it is still true.
        """
        if answer is not None:
            expected = window.digest(self._algorithm, free)
            if answer.wait().get("digest") != expected:
                return False
        claim = self._mirror.claim(ranges)
        found = claim.ranges if claim else []
        self._same += total(found)
        self._saved += total(intersection(found, self._data))
        self._skipped["comparer"] += total(ranges) - total(found)
        if claim:
            self._mirror.release(claim)
        return True

    def _writer(self) -> None:
        unanswered: "collections.Counter[_Window]" = collections.Counter()
        more = True
        while more or unanswered:
            window: Optional[_Window] = None
            if more and len(unanswered) < WRITES:
                window = self._differing.get(wait=not unanswered)
            if window is END:
                more = False
            elif window is not None:
                self._write(window, unanswered)
            elif unanswered:
                self._reap_write(unanswered)
        self._answered.put(END)

    def _write(self, window: _Window, unanswered: "collections.Counter[_Window]") -> None:
        window.claim = self._mirror.claim(window.ranges)
        claimed = total(window.claim.ranges) if window.claim else 0
        self._skipped["writer"] += total(window.ranges) - claimed
        if not claimed:
            return
        assert window.claim is not None
        self._copied += claimed
        if window.data is None and self._blank:
            self._hand_on_written(window)  # zeros onto zeros: nothing to write, but to verify
            return
        unanswered[window] = len(window.claim.ranges)
        for start, end in window.claim.ranges:
            while self._destination.full:
                self._reap_write(unanswered)
            if window.data is None:
                self._destination.start_zero(
                    start * nbd.SECTOR, (end - start) * nbd.SECTOR, tag=window
                )
            else:
                self._destination.start_write(
                    start * nbd.SECTOR, window.source(start, end), tag=window
                )

    def _reap_write(self, unanswered: "collections.Counter[_Window]") -> None:
        window, _ = self._destination.reap()
        unanswered[window] -= 1
        if not unanswered[window]:
            del unanswered[window]
            self._hand_on_written(window)

    def _hand_on_written(self, window: _Window) -> None:
        assert window.claim is not None
        window.check = self._ask(window.claim.ranges)
        self._answered.put(window)

    def _ask(self, ranges: List[Range]) -> "Pending":
        """Have the receiver read `ranges` back: a Pending, of their digest."""
        pairs = [[start * nbd.SECTOR, (end - start) * nbd.SECTOR] for start, end in ranges]
        return self._link.submit(
            {"cmd": "digest", "algorithm": self._algorithm, "ranges": pairs}, DIGEST_BOUND
        )

    def _verifier(self) -> None:
        while True:
            window: _Window = self._answered.get()
            if window is END:
                return
            assert window.claim is not None and window.check is not None
            expected = window.digest(self._algorithm, window.claim.ranges)
            if window.check.wait().get("digest") != expected:
                start, end = window.claim.ranges[0][0], window.claim.ranges[-1][1]
                raise DigestMismatch(
                    "offset %d" % (start * nbd.SECTOR), "length %d" % ((end - start) * nbd.SECTOR)
                )
            self._verified += total(window.claim.ranges)
            self._mirror.release(window.claim)
