# SPDX-License-Identifier: LGPL-2.1-only
"""A command of MirrorSR that stands by: it has begun, and made its SR and its disk, before it is
needed. So a guest's pause does not wait for a Python to begin.

    MirrorSR --stand-by VDI       the UUID, by which the command is found

It takes lines on its standard input. The first is its call, as JSON: what other commands have as
their argument. Then it waits for each of two words before it does what that stands for. Where the
input ends first it does nothing more: so it ends with the receiver that has begun it, and ends the
session with xapi that the receiver had for it. So it does if the receiver was killed while it did
what it was told to. Only a receiver that is killed between its end and the end of the session,
which is ended when nobody waits for it, leaves that to xapi: for a day.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple

from storage_motion.errors import SmFault
from storage_motion.sm import smapi

if TYPE_CHECKING:
    import XenAPI

CLOSE, OPEN = "close", "open"  # its disk's tapdisk; the gate
END = "end"  # neither: who says so is there, and sees to the session
# the argument by which a command is told that it is to wait for them
WHEN_TOLD = "when-told"
CALL_BOUND = 60.0  # seconds until it is called, which is done at once
# Seconds from CLOSE to OPEN. SM's activation waits for the lock meanwhile, and only then begins its
# own 120; the first second is what is to be gained.
OPEN_BOUND = 15.0
END_BOUND = 30.0  # for one whose input has ended; it may be closing a tapdisk (disks/disk.py)
KILL_BOUND = 5.0
LOGOUT_BOUND = 5.0  # for xapi to end a session
MAX_LINE = 1 << 16

_unread = bytearray()  # of this process's standard input
_told: List[str] = []  # the words that have come


class Standby:
    """One that stands by, for who will have it do something. Not for two threads at once."""

    def __init__(
        self,
        session: "XenAPI.Session",
        sr_ref: str,
        command: str,
        vdi_ref: str,
        args: Sequence[str] = (),
    ) -> None:
        """Begins it. The parameters are those of `smapi.call`; the session has to last. Raises
        SmFault, XenAPI.Failure."""
        self._command = command
        self._closes = False  # it has been told to
        self._ended = False  # its outputs have been read
        argument = smapi.argument(session, sr_ref, command, vdi_ref, args)
        vdi = session.xenapi.VDI.get_uuid(vdi_ref)
        self._process = smapi.begin(command, [smapi.STANDS_BY, vdi], stdin=subprocess.PIPE)
        self._tell(json.dumps(argument))

    def close_disk(self) -> None:
        """Tell it to close its disk. Raises SmFault if it has ended."""
        self._closes = True
        self._tell(CLOSE)

    def open(self, timeout: float = smapi.DEFAULT_TIMEOUT) -> Any:
        """Tell it that it may open, and wait for its end: what it has answered. One that came too
        late to be told to close its disk is told now. Raises SmFault."""
        if not self._closes:
            self.close_disk()
        self._tell(OPEN)
        self._ended = True
        # kept open until it has answered, by which it knows that we live: reading its outputs would
        # close it first
        stdin, self._process.stdin = self._process.stdin, None
        try:
            printed = smapi.outputs(self._command, self._process, timeout)
        finally:
            if stdin is not None:
                with contextlib.suppress(OSError):  # it has ended, and left something unread
                    stdin.close()
        return smapi.answer(self._command, printed)

    def end(self) -> None:
        """Have it end without doing anything more: its input ends."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(SmFault):  # it has ended by itself
            self._tell(END)
        try:
            self._process.communicate(timeout=END_BOUND)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(KILL_BOUND)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:  # ended by itself, or by `end`
            raise SmFault(self._command, None, "it has ended: %s" % error)


def argument_of_call() -> Optional[str]:
    """In a process that stands by: what it is called with; None if it is not called at all."""
    line = _line(CALL_BOUND)
    return None if line is None else str(json.loads(line))


def told_to_close() -> bool:
    """In such a process: whether it is told to close its disk. Waits without bound: for as long as
    the receiver lives, and the guest's memory is on its way."""
    return _line(None) == CLOSE


def told_to_open() -> bool:
    """In such a process: whether it is told to open the gate, within OPEN_BOUND."""
    return _line(OPEN_BOUND) == OPEN


def finish(session: Optional[str]) -> None:
    """In such a process, at its end: hand over what it has printed, and end the session with xapi
    (its reference, if it has come so far as to know it) if who has begun it was killed by now.
    Nobody else knows of that session, which would last until xapi ends it, a day later."""
    with contextlib.suppress(BrokenPipeError):  # of one who was killed
        sys.stdout.flush()
    if session is not None and _is_deserted():
        # as seldom as this is needed no command waits for its import
        from storage_motion.xapi import session as sessions

        sessions.end(sessions.joined(session, LOGOUT_BOUND), session)


def _is_deserted() -> bool:
    """Whether the standard input has ended, and not because we were told to end."""
    more = b"?"
    while more and select.select([sys.stdin.fileno()], [], [], 0.0)[0]:
        more = os.read(sys.stdin.fileno(), MAX_LINE)
        _unread.extend(more)
    return not more and END not in _told + _unread.decode().split("\n")


def _line(bound: Optional[float]) -> Optional[str]:
    """The next line of the standard input; None if there is none within `bound` seconds, or any
    more."""
    end = None if bound is None else time.monotonic() + bound
    while b"\n" not in _unread:
        left = None if end is None else max(0.0, end - time.monotonic())
        ready: Tuple[Any, ...] = select.select([sys.stdin.fileno()], [], [], left)
        more = os.read(sys.stdin.fileno(), MAX_LINE) if ready[0] else b""
        if not more or len(_unread) > MAX_LINE:
            return None
        _unread.extend(more)
    line, _, rest = bytes(_unread).partition(b"\n")
    _unread[:] = rest
    _told.append(line.decode())
    return _told[-1]
