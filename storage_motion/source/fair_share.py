# SPDX-License-Identifier: LGPL-2.1-only
"""The copies of this host that go to the same one share the way there: none gets far ahead of
another that waits for the network.

TCP does not see to that: what its connections get of a link, whose window has grown first, may
differ tenfold for minutes (docs/performance.md). So each copy keeps a small file, in which it says
how much it has sent, and whether the network is what it waits for. Before it sends more it looks at
the files of the others, and if it is ahead it waits until they have come near. Nobody hands
anything over to anybody, so nobody can fail to. A mover that is killed loses the lock on its file
with its life, and is not waited for any more; one that hangs is not when it has said nothing for
PATIENCE. No mirrored write comes by here.

Who needs less than its share, as its disk is slow or has a bandwidth, is not waited for, and does
not save up what it leaves.
"""

import contextlib
import fcntl
import glob
import os
import struct
import time
from typing import Callable, List, NamedTuple, Optional

LEAD = 2 << 20  # bytes that a copy may be ahead
# Bytes that one is made up for that was behind, and not waited for. More than the windows that a
# copy has under way, by which two that are equally fast may seem to differ.
ARREARS = 8 << 20
PATIENCE = 2.0  # seconds: no piece waits longer, and nobody is waited for that is silent so long
LOOK = 0.01  # seconds until it is looked again, whether the others have come near
FIND = 1.0  # seconds until it is looked again, who the others are
RECORD = struct.Struct("=qd?")  # a Standing; the address follows

Standing = NamedTuple("Standing", [("sent", int), ("at", float), ("hungry", bool)])
Standing.__doc__ = """The bytes that a copy has sent, counted from where the others were when it
began; when it had the last answer; and whether the network was busy still with what it had sent
since."""


class _Other(object):
    """The file of another copy."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path, os.O_RDONLY)
        length = os.fstat(self._descriptor).st_size
        self.address = os.pread(self._descriptor, length, RECORD.size)

    def standing(self) -> Standing:
        """What it says of itself."""
        return Standing(*RECORD.unpack(os.pread(self._descriptor, RECORD.size, 0)))

    def has_ended(self) -> bool:
        """Whether its copy has ended, or been killed."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self._descriptor)


class FairShare(object):
    """Of one copy. For the one thread that copies."""

    def __init__(
        self, path: str, others: str, address: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`path`: of its file. `others`: the glob pattern of all such files of the host. `address`:
        where the copy goes. Raises OSError if the file cannot be made."""
        self._path, self._pattern, self._address = path, others, address.encode()
        self._clock = clock
        self._others: List[_Other] = []  # those that go to the same address
        self._found = clock()
        self._waits: Optional[float] = None  # since when
        temporary = "%s.%d" % (path, os.getpid())
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._find()
            # not waited for before its first answer: it may have nothing to send yet
            self._tell(Standing(self._floor(0), clock(), False))
            os.pwrite(descriptor, self._address, RECORD.size)
            os.rename(temporary, path)
        except OSError:
            self.close()
            raise

    def pause(self) -> float:
        """Seconds until it is to be asked again; 0.0: the copy may go on."""
        now = self._clock()
        if now >= self._found + FIND:
            self._found = now
            self._find()
        if not self._is_ahead(now):
            return 0.0
        if self._waits is None:
            self._waits = now
        return LOOK if now < self._waits + PATIENCE else 0.0

    def sent(self, length: int) -> None:
        """The copy has sent `length` bytes."""
        self._waits = None
        self._tell(self._standing._replace(sent=self._standing.sent + length))

    def answered(self, hungry: bool) -> None:
        """There is an answer. `hungry`: the network is busy with what was sent since."""
        sent = self._standing.sent
        sent = max(sent, self._floor(sent) - (ARREARS if hungry else 0))
        self._tell(Standing(sent, self._clock(), hungry))

    def close(self) -> None:
        """The copy has ended."""
        with contextlib.suppress(OSError):  # gone already, with its directory
            os.unlink(self._path)
        self._file.close()
        self._forget_others()

    def _tell(self, standing: Standing) -> None:
        self._standing = standing
        os.pwrite(self._file.fileno(), RECORD.pack(*standing), 0)

    def _find(self) -> None:
        self._forget_others()
        for path in glob.glob(self._pattern):
            if path == self._path:
                continue
            try:
                other = _Other(path)
            except OSError:  # has just ended
                continue
            if other.address == self._address and not other.has_ended():
                self._others.append(other)
            else:
                other.close()

    def _forget_others(self) -> None:
        while self._others:
            self._others.pop().close()

    def _is_ahead(self, now: float) -> bool:
        """Whether there is somebody to wait for."""
        for other in self._others:
            sent, at, hungry = other.standing()
            if hungry and self._standing.sent > sent + LEAD and now < at + PATIENCE:
                if not other.has_ended():
                    return True
        return False

    def _floor(self, alone: int) -> int:
        """Where one who has not saved up anything is at least: at the last of those that wait for
        the network, or, where nobody does, at the first of all. `alone`: where there is nobody."""
        standings = [other.standing() for other in self._others]
        hungry = [standing.sent for standing in standings if standing.hungry]
        if hungry:
            return min(hungry)
        return max([standing.sent for standing in standings] or [alone])
