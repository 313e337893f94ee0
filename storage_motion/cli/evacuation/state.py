# SPDX-License-Identifier: LGPL-2.1-only
"""The file of an evacuation: each event is one line of JSON, on the disk before anything follows
of it. By it the same command, run again, goes on.

$XDG_STATE_HOME/sxm/evacuations/NAME.jsonl, and NAME.lock beside it, which one process has at a
time; the kernel lets it go when that process ends, however it ends.
"""

import fcntl
import json
import os
import re
from typing import IO, Any, Dict, List, Optional

from storage_motion.errors import MotionError

BEGUN = "begun"
"""The event behind which something may have been started."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
NAME_IS = "at most 100 letters, digits, dots and dashes make one, the first a letter or a digit"


class StateError(MotionError):
    """[path, why]: the state file can be neither used nor passed over."""

    code = "SXM_EVACUATION_STATE"


class AlreadyEvacuating(MotionError):
    """[name, pid]: another process has this evacuation."""

    code = "SXM_ALREADY_EVACUATING"


def directory() -> str:
    """Where the state files are. Made by StateFile.open."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(home, "sxm", "evacuations")


class StateFile:
    """One evacuation's file, locked. `events`: what stands in it."""

    def __init__(self, path: str, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock
        self.events = _read(path)
        self._stream: Optional[IO[bytes]] = None

    @classmethod
    def open(cls, name: str, within: Optional[str] = None) -> "StateFile":
        """The file of the evacuation `name`, new or as it is; `within`: the directory (default:
        `directory()`). Raises AlreadyEvacuating, StateError."""
        if not NAME.match(name):
            raise StateError(name, NAME_IS)
        within = within or directory()
        try:
            os.makedirs(within, mode=0o700, exist_ok=True)
            lock = open(os.path.join(within, name + ".lock"), "a+")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                pid = lock.read(20).strip()
                lock.close()
                raise AlreadyEvacuating(name, pid)
            lock.truncate(0)
            lock.write("%d\n" % os.getpid())
            lock.flush()
            return cls(os.path.join(within, name + ".jsonl"), lock)
        except OSError as error:
            raise StateError(within, error.strerror or str(error))

    def note(self, **event: Any) -> None:
        """Add an event; it is on the disk when this returns. Raises StateError: then it may be
        there in part, which the next reader passes over."""
        line = json.dumps(event, sort_keys=True).encode() + b"\n"
        try:
            if self._stream is None:
                self._begin()
            assert self._stream is not None
            self._stream.write(line)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise StateError(self.path, error.strerror or str(error))
        self.events.append(event)

    def put_away(self) -> Optional[str]:
        """Keep the file of an evacuation that was begun under another name, NAME.N.jsonl, and begin
        anew. That name; None if there was none. One of which only the plan was noted is removed."""
        self._end()
        begun = any(event["event"] == BEGUN for event in self.events)
        self.events = []
        if not os.path.exists(self.path):
            return None
        if not begun:
            os.unlink(self.path)
            return None
        stem, number = self.path[: -len(".jsonl")], 1
        while os.path.exists("%s.%d.jsonl" % (stem, number)):
            number += 1
        kept = "%s.%d.jsonl" % (stem, number)
        os.rename(self.path, kept)
        return kept

    def close(self) -> None:
        """Let it go."""
        self._end()
        self._lock.close()

    def _begin(self) -> None:
        """Open it for more; what a writer that died has begun, and not ended, is cut off."""
        whole = _whole(self.path)
        fresh = not os.path.exists(self.path)
        self._stream = open(self.path, "ab", opener=_private)
        self._stream.truncate(whole)
        if fresh:
            above = os.open(os.path.dirname(self.path), os.O_RDONLY)
            try:
                os.fsync(above)
            finally:
                os.close(above)

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _whole(path: str) -> int:
    """The bytes of the whole lines of a file."""
    try:
        with open(path, "rb") as source:
            return source.read().rfind(b"\n") + 1
    except FileNotFoundError:
        return 0


def _read(path: str) -> List[Dict[str, Any]]:
    try:
        with open(path, "rb") as source:
            text = source.read()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError(path, error.strerror or str(error))
    events = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), 1):
        try:
            event = json.loads(line.decode())
            if not isinstance(event["event"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise StateError(path, "line %d is no event: move the file away" % number)
        events.append(event)
    return events
