"""The copier: what a snapshot holds, to the destination, beside the mirror, and verified before it counts.

Three threads in a row. The *reader* reads the snapshot in windows of 1 MiB. The *writer* claims a window's sectors from the merge,
which leaves out what the guest has written since, and writes them. The *verifier* compares a digest of just these sectors, read
back by the receiver through the destination's tapdisk, with the source's; only then is the claim released, and a guest's write to
the same sectors, held since, sent. So a claim lasts a write and a read, and there are never more than a few.
"""
import collections
import json
import logging
import threading

from storage_motion.data import digest, nbd, nbd_client
from storage_motion.data.pipeline import END, Pipeline
from storage_motion.data.ranges import RangeSet, total
from storage_motion.errors import DataPathError, DigestMismatch, MotionError

WINDOW = 2048           # sectors: 1 MiB, the best size measured (facts/qemu-storage-daemon.md section 2.2)
READS = 4               # windows being read at a time; tapdisk works on 8 requests per connection
UNCLAIMED = 2           # windows read, and not claimed yet
WRITES = 4              # windows claimed, and not answered yet
UNVERIFIED = 4          # windows answered, and not verified yet
COPY_DEPTH = 64         # requests under way to the receiver, which gives its tapdisk 8 at a time
DIGEST_BOUND = 60.0     # seconds for the receiver to read one window back
ZEROS = bytes(WINDOW * nbd.SECTOR)

log = logging.getLogger(__name__)


class _Window(object):
    """Sectors to copy out of one aligned WINDOW. `data` begins at sector `start`; None: there is nothing but zeros."""
    __slots__ = ("ranges", "start", "data", "claim", "check")

    def __init__(self, ranges, data):
        self.ranges = ranges            # list of (start, end)
        self.start = ranges[0][0]
        self.data = data
        self.claim = None
        self.check = None               # control_link.Pending: the receiver's digest

    def source(self, start, end):
        """The source's data of sectors [start, end), as a view."""
        offset, length = (start - self.start) * nbd.SECTOR, (end - start) * nbd.SECTOR
        return memoryview(ZEROS)[:length] if self.data is None else memoryview(self.data)[offset:offset + length]


def windows(ranges):
    """Group ascending, disjoint `ranges` of sectors by WINDOW: an iterator of lists of (start, end)."""
    current, parts = None, []
    for start, end in ranges:
        while start < end:
            window = start // WINDOW
            stop = min(end, (window + 1) * WINDOW)
            if window != current and parts:
                yield parts
                parts = []
            current = window
            parts.append((start, stop))
            start = stop
    if parts:
        yield parts


def read_extents(path, size):
    """The extents, in sectors, that the file `path` lists (the answer of `vdi_extents`) for a disk of `size` bytes: a RangeSet.

    Raises DataPathError if they are not those of such a disk.
    """
    try:
        with open(path) as source:
            answer = json.load(source)
        extents = RangeSet()
        if answer["size"] != size:
            raise DataPathError("the extents are those of a disk of %s bytes, not %d" % (answer["size"], size))
        for offset, length in answer["extents"]:
            if nbd.request_fault(offset, nbd.SECTOR, size) or length % nbd.SECTOR or not 0 < length <= size - offset:
                raise DataPathError("an extent of %s bytes at %s" % (length, offset))
            extents.add(offset // nbd.SECTOR, (offset + length) // nbd.SECTOR)
        return extents
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataPathError("%s: %s" % (path, error))


class Copier(object):
    """One copy of one disk. State: running, and then done or failed."""

    def __init__(self, source, destination, link, mirror, data, blank):
        """Begins at once, in threads of its own.

        `source`: nbd_client.Client of the snapshot. `destination`: nbd_client.Client of the receiver's copy role, with COPY_DEPTH.
        `link`: control_link.ControlLink. `mirror`: mirror.Mirror. `data`: RangeSet of the sectors in which the snapshot may hold
        other than zeros. `blank`: the destination reads as zeros; if not, all other sectors are made zero too.
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
        self._error = None
        self._copied = self._skipped = self._verified = 0       # sectors; each written by one thread only
        self._reader_skipped = 0
        self._algorithm = digest.fastest()
        self._pipeline = Pipeline()
        self._read = self._pipeline.queue(UNCLAIMED)
        self._answered = self._pipeline.queue(UNVERIFIED)
        mirror.confine(self._to_copy)
        self._thread = threading.Thread(target=self._run, name="copier", daemon=True)
        self._thread.start()

    def status(self):
        """The copy's part of the mover's status; in bytes."""
        return {"state": self._state, "error": self._error, "to_copy": total(self._to_copy) * nbd.SECTOR,
                "copied": self._copied * nbd.SECTOR, "skipped": (self._skipped + self._reader_skipped) * nbd.SECTOR,
                "verified": self._verified * nbd.SECTOR}

    def stop(self, reason):
        """End the copy as failed, unless it has ended."""
        self._pipeline.stop(DataPathError(reason))
        self._interrupt()
        self._thread.join(nbd_client.TIMEOUT)

    def _interrupt(self):
        self._source.interrupt()
        self._destination.interrupt()

    def _run(self):
        try:
            self._pipeline.run([self._reader, self._writer, self._verifier], self._interrupt)
            if self._verified + self._skipped + self._reader_skipped != total(self._to_copy):
                raise DataPathError("verified %d and skipped %d sectors, which is not what there is" % (
                    self._verified, self._skipped + self._reader_skipped))
            self._source.disconnect()
            self._destination.disconnect(confirmed=True)
            self._state = "done"
            log.info("the copy is done: %s", self.status())
        except Exception as error:
            if not isinstance(error, MotionError):
                log.exception("the copy failed")
            self._error = str(error) or repr(error)
            self._state = "failed"
            self._source.close()
            self._destination.close()
            self._mirror.abandon()
            log.warning("the copy has failed: %s", self._error)

    def _reader(self):
        for ranges in windows(self._to_copy):
            if not self._mirror.unmirrored(ranges):
                self._reader_skipped += total(ranges)
                continue
            start, end = ranges[0][0], ranges[-1][1]
            if not self._data.overlaps(start, end):
                self._read.put(_Window(ranges, None))
                continue
            if self._source.in_flight >= READS:
                self._hand_on_read()
            self._source.start_read(start * nbd.SECTOR, (end - start) * nbd.SECTOR, tag=ranges)
        while self._source.in_flight:
            self._hand_on_read()
        self._read.put(END)

    def _hand_on_read(self):
        ranges, data = self._source.reap()
        self._read.put(_Window(ranges, None if data == ZEROS[:len(data)] else data))

    def _writer(self):
        unanswered = collections.Counter()
        more = True
        while more or unanswered:
            window = None
            if more and len(unanswered) < WRITES:
                window = self._read.get(wait=not unanswered)
            if window is END:
                more = False
            elif window is not None:
                self._write(window, unanswered)
            elif unanswered:
                self._reap_write(unanswered)
        self._answered.put(END)

    def _write(self, window, unanswered):
        window.claim = self._mirror.claim(window.ranges)
        claimed = total(window.claim.ranges) if window.claim else 0
        self._skipped += total(window.ranges) - claimed
        if not claimed:
            return
        self._copied += claimed
        if window.data is None and self._blank:
            self._hand_on_written(window)   # zeros onto zeros: nothing to write, but to verify
            return
        unanswered[window] = len(window.claim.ranges)
        for start, end in window.claim.ranges:
            while self._destination.full:
                self._reap_write(unanswered)
            if window.data is None:
                self._destination.start_zero(start * nbd.SECTOR, (end - start) * nbd.SECTOR, tag=window)
            else:
                self._destination.start_write(start * nbd.SECTOR, window.source(start, end), tag=window)

    def _reap_write(self, unanswered):
        window, _ = self._destination.reap()
        unanswered[window] -= 1
        if not unanswered[window]:
            del unanswered[window]
            self._hand_on_written(window)

    def _hand_on_written(self, window):
        ranges = [[start * nbd.SECTOR, (end - start) * nbd.SECTOR] for start, end in window.claim.ranges]
        window.check = self._link.submit({"cmd": "digest", "algorithm": self._algorithm, "ranges": ranges}, DIGEST_BOUND)
        self._answered.put(window)

    def _verifier(self):
        while True:
            window = self._answered.get()
            if window is END:
                return
            expected = digest.of_buffers(self._algorithm, (window.source(start, end) for start, end in window.claim.ranges))
            if window.check.wait().get("digest") != expected:
                start, end = window.claim.ranges[0][0], window.claim.ranges[-1][1]
                raise DigestMismatch("offset %d" % (start * nbd.SECTOR), "length %d" % ((end - start) * nbd.SECTOR))
            self._verified += total(window.claim.ranges)
            self._mirror.release(window.claim)
