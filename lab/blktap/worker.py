# SPDX-License-Identifier: LGPL-2.1-only
"""Runs a command as if inside the tapdisk: detached, so that it ends in order even if tap-ctl is
killed meanwhile."""

import errno
import os
import select
import signal
import time

from . import detach, records, reply


def run(layout, pid, command, timeout=None):
    """Run `command(record)` on the running tapdisk `pid`, alone, and wait for its reply up to
    `timeout` (s).

    `command` may return the number of pokes to wait for before the reply. Returns (errno or 0, text
    to show). ETIMEDOUT if the reply stays out; the command then goes on.
    """
    records.require(layout, pid)
    reply.poke(layout, pid, reply.MOST_POKES)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(layout, pid, command, writer)
    os.close(writer)
    answer = _read(reader, timeout)
    os.close(reader)
    if answer is None:
        return errno.ETIMEDOUT, ""
    os.waitpid(child, 0)
    code, _, text = answer.partition("\n")
    return (int(code), text) if code else (errno.ECHILD, "the tapdisk's worker died")


def _work(layout, pid, command, answer):
    """In the child: never returns."""
    code, text = 0, ""
    try:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        detach.keep_only(answer)
        with records.LockedTapdisk(layout, pid) as record:
            pokes = command(record)
        if pokes:
            reply.withhold(layout, pid, pokes, answer)
    except OSError as error:
        code = error.errno or errno.EIO
        text = "" if error.strerror == os.strerror(code) else str(error.strerror)
    except Exception:  # pylint: disable=broad-except -- the other process has to hear of it, whatever it is
        import traceback

        code, text = errno.EIO, traceback.format_exc()
    try:
        os.write(answer, ("%d\n%s" % (code, text)).encode())
    except BrokenPipeError:
        pass  # tap-ctl was killed
    finally:
        os._exit(0)


def _read(fd, timeout):
    """All that comes until the pipe ends, as text; None if it has not ended within `timeout`
    (s)."""
    until = None if timeout is None else time.monotonic() + timeout
    parts = []
    while True:
        left = None if until is None else max(0, until - time.monotonic())
        if not select.select([fd], [], [], left)[0]:
            return None
        data = os.read(fd, 65536)
        if not data:
            return b"".join(parts).decode()
        parts.append(data)
