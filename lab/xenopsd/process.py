# SPDX-License-Identifier: LGPL-2.1-only
"""A process that outlives the one that started it: known by its pid and when it started."""

import ctypes
import os
import select
import signal
import subprocess

_PIDFD_OPEN = 434  # of syscalls, on every architecture; os.pidfd_open is not in Python 3.6
_libc = ctypes.CDLL(None, use_errno=True)


def start(arguments, log_path, environment=None):
    """Start a process in a session of its own; (pid, start time)."""
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
            env=environment,
        )
    process.returncode = 0  # reaped by `wait`, not by Popen
    return process.pid, start_time(process.pid)


def mentioning(argument):
    """The pids of the processes that have this argument."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/cmdline" % name, "rb") as stream:
                    if argument.encode() in stream.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue  # it ended
    return found


def start_time(pid):
    """When this process started, in clock ticks since boot, or None if it does not run."""
    state, started = _stat(pid)
    return None if state in "ZX" else started


def _stat(pid):
    """(state, start time) of a process: fields 3 and 22 of /proc/PID/stat; ("X", None) if there is
    none."""
    try:
        with open("/proc/%d/stat" % pid) as stream:
            fields = stream.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", None
    return fields[0], int(fields[19])


def alive(pid, started):
    """True while the very process that `start` gave runs."""
    return pid is not None and started is not None and start_time(pid) == started


def wait(pid, started, timeout):
    """Wait until this process has ended, and reap it if it is ours; False if it still runs after
    `timeout` seconds.

    A zombie is waited for, too: the other threads of the process may still be ending, and with them
    its open files.
    """
    if _stat(pid)[1] != started:
        return True
    try:
        handle = _pidfd(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            return False
    finally:
        os.close(handle)
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass  # not ours: started by an xenopsd before this one
    return True


def _pidfd(pid):
    handle = _libc.syscall(_PIDFD_OPEN, pid, 0)
    if handle < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open of %d" % pid)
    return handle


def kill(pid, started, timeout):
    """Kill it if it runs; True once it has ended."""
    if alive(pid, started):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended meanwhile
    return wait(pid, started, timeout)
