# SPDX-License-Identifier: LGPL-2.1-only
"""What mover and receiver have in common as processes: a spec in a private file, a log in another,
an end that is asked for."""

import contextlib
import json
import logging
import os
import select
import signal
import stat
import sys
import time
from typing import Any, Callable, Dict, Iterable

from storage_motion import log_lines
from storage_motion.errors import DataPathError

SWITCH_INTERVAL = 0.0005  # seconds
ORPHAN_BOUND = 600.0  # seconds without a word from anybody after which a process gives up


def load_spec(path: str, required: Iterable[str]) -> Dict[str, Any]:
    """The dict in the JSON file `path`, which holds secrets, and so has to be this user's alone.

    Raises DataPathError if it is open to others, no JSON object, or lacks one of the `required`
    keys.
    """
    try:
        with open(path) as source:
            if os.fstat(source.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise DataPathError("%s is open to others" % path)
            spec: Dict[str, Any] = json.load(source)
    except (OSError, ValueError) as error:
        raise DataPathError("%s: %s" % (path, error))
    missing = [key for key in required if not isinstance(spec, dict) or key not in spec]
    if missing:
        raise DataPathError("%s lacks %s" % (path, ", ".join(missing)))
    return spec


def write_private(path: str, message: Dict[str, Any]) -> None:
    """Write the dict `message` as JSON to `path`, whole or not at all, for this user only."""
    temporary = "%s.%d" % (path, os.getpid())
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as target:
        json.dump(message, target)
    os.rename(temporary, path)


def start_log(path: str, name: str, migration: str = "") -> None:
    """Log plain lines to the file `path`, or to stderr where `path` is empty. `name` and the id
    `migration` go into each line."""
    handler = logging.FileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    handler.setFormatter(log_lines.Formatter(name, migration))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def switch_threads_often() -> None:
    """More often than Python does by itself, each 5 ms: a guest's write must not wait for the
    bytecode of another thread."""
    sys.setswitchinterval(SWITCH_INTERVAL)


class Life(object):
    """How long the process lives: until `end`, a signal, or `bound` seconds without `heard`."""

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._heard = time.monotonic()
        # Readable from the end on. Not an Event: a signal that comes while the main thread has the
        # Event's lock would wait for that for ever.
        self._end, self._say_end = os.pipe()
        os.set_blocking(self._say_end, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.end())

    def heard(self) -> None:
        """Somebody still cares."""
        self._heard = time.monotonic()

    def end(self) -> None:
        """It is over."""
        with contextlib.suppress(BlockingIOError):  # it has been said often enough
            os.write(self._say_end, b"e")

    def lasts(self, seconds: float) -> bool:
        """Wait so long, unless the end is asked for before. Whether it is not."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return not poll.poll(seconds * 1000)

    def wait(self) -> bool:
        """Until the end: True if it was asked for, False for an orphan."""
        self.heard()  # how long it took to come up does not count
        while True:
            remaining = self._heard + self._bound - time.monotonic()
            if remaining <= 0:
                return False
            if not self.lasts(remaining):
                return True


def main(run: Callable[[str], int], name: str) -> int:
    """Run the process whose spec's path is the only argument; the exit code. `run(path)`."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: %s SPEC\n" % name)
        return 2
    os.umask(0o077)
    try:
        return run(sys.argv[1])
    except DataPathError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.stderr.write("%s: %s\n" % (name, error))
        return 1
