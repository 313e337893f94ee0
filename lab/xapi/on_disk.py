# SPDX-License-Identifier: LGPL-2.1-only
"""The database's copy on disk: one file, replaced atomically and synced.

As the real one's (ocaml/database: db_cache_impl.ml, backend_xml.ml, xapi_host.ml `request_backup`)
it is written when `period` seconds have passed since it was last written so, upon
`pool.sync_database`, and at the end of xapi. A xapi that is killed comes back as it was then.
"""

import json
import logging
import os
import threading
import time

from lab.xapi.failures import Failure

STATE = "/var/lib/xcp/state.db"  # as in the real /etc/xensource/db.conf
# what is in the file, in one of its own, written after it (backend_xml.ml, `flush`)
GENERATION = ".generation"
_LOOK = 2.0  # seconds between two looks whether it is time (db_backend.ml, db_FLUSH_TIMER)
# seconds that a change which nobody waits for may stay in memory only, where each call is written
_LAZILY = 1.0
_LONGEST_WAIT = 30.0  # seconds that a call waits for its changes to be on disk before it fails

log = logging.getLogger("xapi.database")


class Store:
    """Writes a Database to `path` from a thread of its own. `load`, `start`, then the others, then
    `stop`.

    `period`: seconds from one write to the next; 0: each call is on disk before it is answered
    (`wait_durable`)."""

    def __init__(self, database, path, period):
        self.database = database
        self.path = path
        self._period = period
        self._condition = threading.Condition()
        self._writing = threading.Lock()
        self._wanted = 0
        self._written = 0
        self._attempts = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)

    def load(self):
        """Fill the database from the file. Answers False if there is none yet."""
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        try:
            with open(self.path, encoding="utf-8") as file:
                self.database.load(json.load(file))
        except FileNotFoundError:
            return False
        return True

    def start(self):
        self._thread.start()

    def stop(self):
        """Write what is not yet on disk and end the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._thread.join(_LONGEST_WAIT)

    def sync(self):
        """Write all of it as it is now. Raises INTERNAL_ERROR where that fails."""
        try:
            self._write()
        except OSError as error:
            raise Failure(
                "INTERNAL_ERROR", "the database could not be written to disk: %s" % error
            ) from error

    def contents(self):
        """What `sync` would write."""
        return _encoded(self.database.snapshot()[1])

    def wait_durable(self):
        """Where each call is written: return once every structural change of the calling thread is
        on disk, or raise INTERNAL_ERROR if it cannot be. Else return at once."""
        generation = self.database.own_structural_generation()
        with self._condition:
            if self._period or self._written >= generation:
                return
            self._wanted = max(self._wanted, generation)
            failed_before = self._attempts
            self._condition.notify_all()
            self._condition.wait_for(
                lambda: self._written >= generation or self._attempts > failed_before + 1,
                _LONGEST_WAIT,
            )
            if self._written < generation:
                raise Failure("INTERNAL_ERROR", "the database could not be written to disk")

    def _run(self):
        last = time.monotonic()
        while True:
            with self._condition:
                self._condition.wait_for(
                    lambda: self._stopping or self._wanted > self._written,
                    _LOOK if self._period else _LAZILY,
                )
                stopping = self._stopping
            due = stopping or time.monotonic() - last >= self._period
            if due and self.database.kept_generation > self._written:
                try:
                    self._write()
                    last = time.monotonic()
                except OSError as error:
                    log.error("cannot write %s: %s", self.path, error)
                    with self._condition:
                        self._attempts += 1
                        self._condition.notify_all()
                        self._condition.wait(_LAZILY)
            if stopping:
                return

    def _write(self):
        with self._writing:  # so that nobody puts an older state over a newer one
            generation, contents = self.database.snapshot()
            replace(self.path, _encoded(contents).encode())
            replace(self.path + GENERATION, str(generation).encode())
        with self._condition:
            self._written = max(self._written, generation)
            self._condition.notify_all()


def _encoded(contents):
    return json.dumps(contents, separators=(",", ":"))


def replace(path, data):
    """Put `data` where `path` is, so that after a crash there is either all of the old or all of
    the new."""
    beside = path + ".new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(beside, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
