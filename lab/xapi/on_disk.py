"""The database's copy on disk: one file, replaced atomically and synced, several changes at a time."""
import json
import logging
import os
import threading

from lab.xapi.failures import Failure

_LAZILY = 1.0          # seconds that a change which nobody waits for may stay in memory only
_LONGEST_WAIT = 30.0   # seconds that a call waits for its changes to be on disk before it fails

log = logging.getLogger("xapi.database")


class Store:
    """Writes a Database to `directory`/state.json from a thread of its own. `start`, then `wait_durable`, then `stop`."""

    def __init__(self, database, directory):
        self.database = database
        self.path = os.path.join(directory, "state.json")
        self._condition = threading.Condition()
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

    def wait_durable(self):
        """Return once every structural change of the calling thread is on disk. Raises INTERNAL_ERROR if it cannot be."""
        generation = self.database.own_structural_generation()
        with self._condition:
            if self._written >= generation:
                return
            self._wanted = max(self._wanted, generation)
            failed_before = self._attempts
            self._condition.notify_all()
            self._condition.wait_for(
                lambda: self._written >= generation or self._attempts > failed_before + 1, _LONGEST_WAIT)
            if self._written < generation:
                raise Failure("INTERNAL_ERROR", "the database could not be written to disk")

    def _run(self):
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._wanted > self._written, _LAZILY)
                stopping = self._stopping
            if self.database.kept_generation > self._written:
                self._write()
            if stopping:
                return

    def _write(self):
        generation, contents = self.database.snapshot()
        try:
            _replace(self.path, json.dumps(contents, separators=(",", ":")).encode())
        except OSError as error:
            log.error("cannot write %s: %s", self.path, error)
            with self._condition:
                self._attempts += 1
                self._condition.notify_all()
                self._condition.wait(_LAZILY)
            return
        with self._condition:
            self._written = generation
            self._condition.notify_all()


def _replace(path, data):
    """Put `data` where `path` is, so that after a crash there is either all of the old or all of the new."""
    beside = path + ".new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view):]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(beside, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
