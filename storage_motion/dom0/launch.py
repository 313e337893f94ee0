# SPDX-License-Identifier: LGPL-2.1-only
"""Processes that outlive the call that started them: worker, movers, receiver.

On a host each becomes a unit of systemd, out of xapi's cgroup, so that a restart of xapi does not
end it. KillMode=process: when one ends, however it does, the commands of the storage manager that
it has begun go on to their end, and the tapdisks that they started stay. systemd 219 is the oldest;
it knows few properties of transient units. What it is not booted with (a bed of tests) is detached
by a double fork. Standard output and error go to /var/log/sxm.log.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, overload

from storage_motion.dom0 import root
from storage_motion.errors import LaunchFailed

LOG = "/var/log/sxm.log"
PYTHON = "/usr/bin/python3"
SYSTEMD = "/run/systemd/system"  # sd_booted(3)
SYSTEMD_RUN = "/usr/bin/systemd-run"
SYSTEMCTL = "/usr/bin/systemctl"
PREFIX = "sxm-"
# A unit has no LANG, and without it Python 3.6 can write ASCII only.
ENVIRONMENT = {"PYTHONIOENCODING": "utf-8"}
START_TIMEOUT = 20.0
POLL = 0.02
FIRST_POLL = 0.001  # what is about to end is waited for while a guest is suspended
# Seconds for a process to have its command line, once it runs a program (on a busy machine).
EXEC_TIMEOUT = 0.2
MAX_READ = 1 << 16  # bytes of a file in /proc
KERNEL_THREAD = 0x00200000  # PF_KTHREAD, of field 9 of /proc/PID/stat

log = logging.getLogger("sxm")


class Process:
    """A process by its pid and the time it started (clock ticks since boot), so that a reused pid
    is not taken for it."""

    def __init__(self, pid: int, started: int) -> None:
        self.pid = pid
        self.started = started

    @classmethod
    def of(cls, pid: int) -> Optional["Process"]:
        """The process that has this pid now, or None."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    @overload
    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "Process": ...

    @overload
    @classmethod
    def from_json(cls, value: None) -> None: ...

    @classmethod
    def from_json(cls, value: Optional[Dict[str, Any]]) -> Optional["Process"]:
        """What `to_json` gave, or None for None."""
        return cls(value["pid"], value["started"]) if value else None

    def to_json(self) -> Dict[str, int]:
        """{"pid", "started"}"""
        return {"pid": self.pid, "started": self.started}

    def alive(self) -> bool:
        """Whether it still runs."""
        return _started(self.pid) == self.started

    def stop(self, timeout: float = 5.0) -> None:
        """End it: SIGTERM, and SIGKILL when it has not gone after `timeout` seconds. Raises
        LaunchFailed if even that fails."""
        for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5.0)):
            if not self._signal(number) or self.gone(patience):
                return
        raise LaunchFailed(str(self.pid), "does not end")

    def kill(self) -> None:
        """End it by SIGKILL. Raises LaunchFailed if that fails."""
        if self._signal(signal.SIGKILL) and not self.gone(5.0):
            raise LaunchFailed(str(self.pid), "does not end")

    def gone(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for it to end by itself. Whether it has."""
        end, pause = time.monotonic() + timeout, FIRST_POLL
        while self.alive():
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(POLL, 2 * pause)
        return True

    def _signal(self, number: int) -> bool:
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def _started(pid: int) -> Optional[int]:
    """Field 22 of /proc/PID/stat; None when there is no such process, or only its remains."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def _stat(pid: int) -> Optional[List[str]]:
    """/proc/PID/stat from its field 3 on, or None as above."""
    fields = _file_of(pid, "stat").rpartition(b")")[2].decode("ascii").split()
    return None if not fields or fields[0] in "ZX" else fields


def python_module(module: str, *arguments: str) -> List[str]:
    """The command line that runs a module of ours with dom0's Python."""
    python = root.path(PYTHON)
    return [python if os.access(python, os.X_OK) else sys.executable, "-m", module] + list(
        arguments
    )


def running(
    *words: str, mentioning: Sequence[str] = (), below: Sequence[str] = ()
) -> List[Process]:
    """The processes whose command line has all `words` as arguments of their own, this one left
    out: a list of Process.

    With `mentioning`, only those with one of these strings somewhere in an argument; with `below`,
    only those with an argument that begins with one of these. What a process that died had begun,
    and nobody has noted: paths of ours are in no other command line."""

    def wanted(argv: List[str]) -> bool:
        return (
            all(word in argv for word in words)
            and (not below or any(argument.startswith(tuple(below)) for argument in argv))
            and (
                not mentioning or any(text in argument for argument in argv for text in mentioning)
            )
        )

    found = []
    own = os.getpid()
    needed = [word.encode() for word in words]
    either = [text.encode() for text in mentioning]
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        # One look at most of them, which are others or the kernel's, and that one at the bytes: a
        # receiver looks often, and what opens a gate does so while a guest is suspended.
        line = _command_line(int(name))
        if line and not (
            all(word in line for word in needed)
            and (not either or any(text in line for text in either))
        ):
            continue
        if not (wanted(_words(line)) if line else _begins(int(name))):
            continue
        process = Process.of(int(name))  # and only then, again, what it runs: its pid is its own
        if process is not None and wanted(arguments(int(name))):
            found.append(process)
    return found


def with_environment(name: str, value: str) -> List[Process]:
    """The processes that began with this variable in their environment, this one left out: what a
    program that was given it has begun, by whatever name, and whoever is its parent now."""
    wanted = ("%s=%s" % (name, value)).encode()
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        process = Process.of(int(pid))
        with contextlib.suppress(PermissionError):  # whose it is it did not begin as ours did
            if process is not None and wanted in _file_of(int(pid), "environ").split(b"\0"):
                found.append(process)
    return [process for process in found if process.alive()]


def arguments(pid: int) -> List[str]:
    """The command line of a process, as a list; of one that is gone, or of the kernel's, with
    nothing in it.

    Nor does a process have one for a moment while it begins a program: exec(2) has closed its
    files by then, so whoever started it may believe that it runs. That moment is waited for, up
    to EXEC_TIMEOUT seconds."""
    end = time.monotonic() + EXEC_TIMEOUT
    while True:
        line = _command_line(pid)
        if line:
            return _words(line)
        if not _begins(pid) or time.monotonic() > end:
            return []
        time.sleep(POLL)


def _begins(pid: int) -> bool:
    """Whether a process without a command line is about to have one.

    It has its program before it has the memory in which that is (fs/exec.c: set_mm_exe_file, then
    exec_mmap). One of the kernel's, of which there are hundreds, has none: to see that costs a
    third of /proc/PID/stat."""
    try:
        os.readlink("/proc/%d/exe" % pid)
        return True
    except PermissionError:  # what is not ours to ask
        stat = _stat(pid)
        return stat is not None and not int(stat[6]) & KERNEL_THREAD
    except OSError:
        return False


def _words(line: bytes) -> List[str]:
    return line.decode("utf-8", "replace").split("\0")


def _command_line(pid: int) -> bytes:
    return _file_of(pid, "cmdline")


def _file_of(pid: int, name: str) -> bytes:
    """/proc/PID/NAME; nothing of a process that is gone. By the bare calls: a file object costs as
    much again as the kernel does, and there is one such file for each process of the host."""
    try:
        descriptor = os.open("/proc/%d/%s" % (pid, name), os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    try:
        parts: List[bytes] = []
        while True:
            part = os.read(descriptor, MAX_READ)
            if not part:
                return b"".join(parts)
            parts.append(part)
    except ProcessLookupError:
        return b""
    finally:
        os.close(descriptor)


def start(name: str, argv: Sequence[str]) -> Process:
    """Start `argv` detached, as `name` with something of its own behind it: what an earlier one of
    that name has left, a unit that has failed or a process that it had begun, is no hindrance.
    Returns its Process. Raises LaunchFailed."""
    output = root.private_file(LOG)
    if not _booted():
        return _alive(name, _start_detached(name, output, argv))
    unit = "%s%s-%s" % (PREFIX, name, os.urandom(4).hex())
    settings = ["--property=KillMode=process"] + [
        "--setenv=%s=%s" % item for item in sorted(ENVIRONMENT.items())
    ]
    shell = ["/bin/sh", "-c", 'exec "$@" >>"$0" 2>&1 </dev/null', output]
    _run(
        unit,
        [root.path(SYSTEMD_RUN), "--quiet", "--slice=sxm.slice", "--unit=" + unit]
        + settings
        + shell
        + list(argv),
    )
    # Not asked to wait, or not able to (219): it may only be about to begin. One that has ended
    # well is not loaded any more.
    return _main_process(unit, lambda state: state["LoadState"] != "loaded")


def start_unit(unit: str, argv: Sequence[str]) -> Process:
    """Start a unit of ours, `unit`.service, which runs `argv`. Returns its Process. Raises
    LaunchFailed."""
    output = root.private_file(LOG)
    if not _booted():
        return _alive(unit, _start_detached(unit, output, argv))
    _run(unit, [root.path(SYSTEMCTL), "start", unit + ".service"])
    return _main_process(unit, lambda state: state["ActiveState"] == "inactive")


def forget_failed(migration: str) -> None:
    """Have systemd forget the units of a migration that have failed, as what was killed has: they
    would be shown for ever."""
    if _booted():
        try:
            _run(migration, [root.path(SYSTEMCTL), "reset-failed", "%s*%s*" % (PREFIX, migration)])
        except LaunchFailed as error:
            # and hinders nobody
            log.warning("what of its units has failed stays to be seen: %s", error)


def _booted() -> bool:
    return os.path.isdir(root.path(SYSTEMD))


def _alive(name: str, pid: int) -> Process:
    process = Process.of(pid)
    if process is None:
        raise LaunchFailed(name, "ended at once; see %s" % LOG)
    return process


def _main_process(unit: str, has_ended: Callable[[Dict[str, str]], bool]) -> Process:
    """The process of a unit, once systemd has begun it. `has_ended(properties)`: how it shows that
    it has ended, but for a failure."""
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        answer = _run(
            unit,
            [
                root.path(SYSTEMCTL),
                "show",
                "-p",
                "LoadState,ActiveState,MainPID",
                unit + ".service",
            ],
        )
        state = dict(line.split("=", 1) for line in answer.splitlines())
        pid = int(state["MainPID"])
        if pid:
            return _alive(unit, pid)
        if state["ActiveState"] == "failed" or has_ended(state):
            raise LaunchFailed(unit, "ended at once; see %s" % LOG)
        time.sleep(POLL)
    raise LaunchFailed(unit, "no process of it after %g s" % START_TIMEOUT)


def _run(name: str, command: List[str]) -> str:
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise LaunchFailed(name, "%s: %s" % (command[0], error.strerror))
    try:
        out, err = process.communicate(timeout=START_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LaunchFailed(name, "%s does not answer" % command[0])
    if process.returncode:
        raise LaunchFailed(name, err.decode("utf-8", "replace").strip())
    return out.decode("utf-8", "replace")


# Run by a Python of its own: forking a process that may have threads is left to subprocess.
_DETACH = """
import os, sys
os.setsid()
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0)
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0), os.dup2(log, 1), os.dup2(log, 2)
os.chdir("/")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    os.write(2, ("cannot run %s: %s\\n" % (sys.argv[2], error.strerror)).encode())
    os._exit(127)
"""


def _start_detached(name: str, output: str, argv: Sequence[str]) -> int:
    answer = _run(name, [sys.executable, "-S", "-E", "-c", _DETACH, output] + list(argv))
    return int(answer)
