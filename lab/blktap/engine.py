# SPDX-License-Identifier: LGPL-2.1-only
"""Starts and ends the qemu-storage-daemon that is a tapdisk."""

import errno
import os
import signal
import socket
import time

from . import commit, detach, nbd_server, records
from .qmp import Monitor, MonitorError

PROGRAM = "qemu-storage-daemon"
# dom0's callers may have a short PATH, or none
EXTRA_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BACKLOG = 64
EXIT_BOUND = 10.0
FIRST_ANSWER = 5.0  # seconds
SPAWNS = 3


def spawn(layout):
    """Start a tapdisk without a vbd, detached from the caller. Returns its pid; OSError if it
    cannot be started.

    QEMU's daemon does not answer now and then, from its beginning on (7.2, seen under load: a VM
    could not be activated after its move, 30 s later), or not as it should. Then there is another
    one."""
    layout.prepare()
    for _ in range(SPAWNS):
        pid = _spawn(layout)
        try:
            with Monitor(layout.ctl(pid), FIRST_ANSWER):
                return pid
        except (MonitorError, OSError):
            record = records.load(layout, pid) or records.Record(pid, records.start_time(pid))
            kill(layout, record)
    raise records.failure(errno.ETIMEDOUT)


def _spawn(layout):
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reader)
        _detach_and_become_daemon(layout, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as answer:
        # ends when the daemon's exec closed the pipe
        pid, _, code = answer.read().decode().partition(" ")
    if code or not pid:
        raise records.failure(int(code or errno.ECHILD))
    return int(pid)


def _detach_and_become_daemon(layout, answer):
    """In the child: start a session, fork once more so that the daemon is nobody's child, and exec
    it."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(answer, b"%d" % os.getpid())
        _become_daemon(layout, os.getpid(), answer)
    except OSError as error:
        os.write(answer, b" %d" % error.errno)
    finally:
        os._exit(1)


def _become_daemon(layout, pid, answer):
    detach.keep_only(answer, layout.log(pid))
    monitors = [_listening(layout.ctl(pid)), _listening(layout.stats_monitor(pid))]
    arguments = [PROGRAM]
    for name, listening in zip(("ctl", "stats"), monitors):
        arguments += [
            "--chardev",
            "socket,id=%s,fd=%d,server=on,wait=off" % (name, listening.fileno()),
            "--monitor",
            "chardev=" + name,
        ]
    records.store(layout, records.Record(pid, records.start_time(pid)))
    environment = dict(os.environ, PATH=os.environ.get("PATH", "") + ":" + EXTRA_PATH)
    try:
        os.chdir("/")
        os.execvpe(PROGRAM, arguments, environment)
    except OSError:
        records.remove(layout, records.load(layout, pid))
        raise


def _listening(path):
    records.unlink_if_there(path)  # of a killed tapdisk that had the same pid
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen(BACKLOG)
    listening.set_inheritable(True)
    return listening


def quit(layout, record, monitor):
    """End the tapdisk, wait until its process is gone, and remove its files."""
    monitor.command("quit")
    monitor.wait_for_end(EXIT_BOUND)
    if not wait_until_gone(record, EXIT_BOUND):
        raise records.failure(errno.ETIMEDOUT)
    nbd_server.end(layout, record.pid, EXIT_BOUND)
    records.remove(layout, record)


def wait_until_gone(record, bound):
    """Wait up to `bound` (s) for the process of `record` to end; whether it did."""
    until = time.monotonic() + bound
    while record.alive():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def kill(layout, record):
    """SIGKILL the tapdisk of `record` if it still runs, and remove its files (not its minor's
    marker)."""
    if record.alive():
        os.kill(record.pid, signal.SIGKILL)
        wait_until_gone(record, EXIT_BOUND)
    commit.end(layout, record.pid)
    nbd_server.end(layout, record.pid, EXIT_BOUND)
    records.remove(layout, record)
