# SPDX-License-Identifier: LGPL-2.1-only
"""One disk of the guest: its threads write and read back until they are stopped, and count what
they find."""

import threading
import time

from lab.guest import content
from lab.guest.nbd import FAILURES
from lab.guest.ranges import BusyRanges
from lab.guest.record import EXAMPLES
from lab.guest.workload import Pace, Workload

CHUNK = 1 << 20
"""Bytes read or written at once at boot and in a full check."""
RECONNECT = 0.2
"""Seconds before a failed connection is tried again."""
CLAIM = 60.0
"""Seconds a full check waits for a range that is being written; a stall as long as that is an error
of its own."""

COUNTERS = ("writes_acknowledged", "bytes_written", "reads_checked", "errors", "missing", "foreign")


class DiskStuck(Exception):
    """A write or read of this disk does not come back."""


class GuestDisk:
    """See the module. `connect` gives a new connection with read(offset, length), write(offset,
    data) and close()."""

    def __init__(self, device, writable, settings, connect, record, counters=None):
        """`record`: what the guest remembers of the disk, empty at a boot; `counters` likewise,
        None at a boot."""
        self.device = device
        self.size = record.sectors * content.SECTOR
        self.writable = writable
        self.record = record
        self.examples = []
        self.longest_write = 0.0
        self.first_write = None
        self._booted = counters is not None
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._counters.update(counters or {})
        self._settings = settings
        self._connect = connect
        self._busy = BusyRanges()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = []
        turns = self._counters["writes_acknowledged"]
        self._workload = Workload(
            "%s/%d" % (record.key.hex(), turns), self.record.sectors, settings.hot
        )
        self._pace = Pace(settings.writes)

    def boot(self):
        """Learn what is on the disk, if nothing is remembered, and fill the share of it that shall
        be data."""
        if self._booted:
            return
        connection = self._connect()
        try:
            for offset in range(0, self.size, CHUNK):
                data = connection.read(offset, min(CHUNK, self.size - offset))
                self._count(foreign=self.record.learn(offset // content.SECTOR, data))
            if self.writable and not any(self.record.generations):
                self._fill(connection)
        finally:
            connection.close()
        self._booted = True

    def start(self):
        """Begin to write and read (only read, if the disk is read-only)."""
        # a thread that was stopped but is stuck keeps the old one, and ends by it
        self._stop = threading.Event()
        self._threads = []
        for number in range(self._settings.workers):
            thread = threading.Thread(
                target=self._work,
                args=(self._stop,),
                name="%s-%d" % (self.device, number),
                daemon=True,
            )
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout):
        """Issue nothing more and wait until nothing is outstanding; raises DiskStuck after
        `timeout` seconds."""
        self._stop.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise DiskStuck("%s: I/O still outstanding after %.0f s" % (self.device, timeout))
        self._threads = []

    def full_check(self):
        """Read the whole disk and compare it with all that was acknowledged; how many sectors are
        missing. Writes may go on meanwhile."""
        missing = 0
        connection = self._connect()
        try:
            for offset in range(0, self.size, CHUNK):
                length = min(CHUNK, self.size - offset)
                first, count = offset // content.SECTOR, length // content.SECTOR
                if not self._busy.claim(first, count, CLAIM):
                    raise DiskStuck(
                        "%s: I/O at %d outstanding for %.0f s" % (self.device, offset, CLAIM)
                    )
                try:
                    missing += self._compare(first, connection.read(offset, length))
                finally:
                    self._busy.release(first, count)
        finally:
            connection.close()
        return missing

    def status(self, reset=False):
        """Counters as JSON values; with `reset` the longest write is measured anew from here on."""
        with self._lock:
            status = dict(
                self._counters,
                device=self.device,
                size=self.size,
                examples=list(self.examples),
                longest_write=round(self.longest_write, 6),
            )
            if reset:
                self.longest_write = 0.0
            return status

    def counters(self):
        """What the guest remembers of its counters when it moves."""
        with self._lock:
            return dict(self._counters)

    def _fill(self, connection):
        chunks = list(range(0, self.size, CHUNK))
        wanted = int(len(chunks) * self._settings.fill)
        for number in range(wanted):
            # evenly spread, so that data and holes alternate
            offset = chunks[number * len(chunks) // wanted]
            self._write(
                connection,
                offset // content.SECTOR,
                min(CHUNK, self.size - offset) // content.SECTOR,
            )

    def _work(self, stop):
        connection = None
        while not stop.is_set():
            try:
                connection = connection or self._connect()
                if not stop.wait(self._pace.delay()):
                    self._turn(connection)
            except FAILURES as error:
                self._count(errors=1)
                self._note({"error": str(error)})
                if connection is not None:
                    connection.close()
                connection = None
                stop.wait(RECONNECT)
        if connection is not None:
            connection.close()

    def _turn(self, connection):
        with self._lock:
            reading = not self.writable or self._workload.chance(self._settings.reads)
            first, count = self._workload.read() if reading else self._workload.write()
        if not self._busy.claim(first, count):
            return
        try:
            if reading:
                data = connection.read(first * content.SECTOR, count * content.SECTOR)
                self._compare(first, data)
                self._count(reads_checked=1)
            else:
                self._write(connection, first, count)
        finally:
            self._busy.release(first, count)

    def _write(self, connection, first, count):
        generations, data = self.record.next_content(first, count)
        begun = time.monotonic()
        try:
            connection.write(first * content.SECTOR, data)
        except Exception:
            with self._lock:
                self.record.doubt(first, generations)
            raise
        with self._lock:
            self.longest_write = max(self.longest_write, time.monotonic() - begun)
            self.first_write = self.first_write or time.time()
            self.record.acknowledge(first, generations)
            self._counters["writes_acknowledged"] += 1
            self._counters["bytes_written"] += len(data)

    def _compare(self, first, data):
        wrong = self.record.wrong(first, data)
        if wrong:
            self._count(missing=len(wrong))
            for sector, expected, found in wrong:
                self._note({"sector": sector, "expected": expected, "found": found})
        return len(wrong)

    def _note(self, example):
        with self._lock:
            if len(self.examples) < EXAMPLES:
                self.examples.append(example)

    def _count(self, **amounts):
        with self._lock:
            for name, amount in amounts.items():
                self._counters[name] += amount
