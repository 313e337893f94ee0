# SPDX-License-Identifier: LGPL-2.1-only
"""tap-ctl: the tapdisks of this host, their vbds, and what each is at. (Facts: tapdisk-and-sm.md,
sections 2 to 4.)

Every function is bounded by a timeout and raises TapCtlError. A tap-ctl that was killed may still
have done what it was asked to: after an interrupted `pause` look with `list` at the state, and
`unpause`.
"""

import collections
import contextlib
import errno
import json
import os
import re
import subprocess
import threading
import time
import uuid
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Union

from storage_motion.dom0 import launch, root
from storage_motion.errors import LaunchFailed, TapCtlError

PROGRAM = "/usr/sbin/tap-ctl"
CONTROL = "/run/blktap-control"

# Bits of a vbd's state, as `tap-ctl list` shows it; a paused vbd is at 0x2a, one that is about to
# be at 0x14.
CLOSED = 0x02
QUIESCED = 0x08
PAUSE_REQUESTED = 0x10
PAUSED = 0x20
RESUME_FAILED = 0x200

# Seconds. A tapdisk that does not answer costs `list` 10 s; an unpause onto a missing file takes 10
# s, then fails.
LIST_TIMEOUT = 30.0
STATS_TIMEOUT = 15.0
PAUSE_TIMEOUT = 60.0
UNPAUSE_TIMEOUT = 60.0
CREATE_TIMEOUT = 60.0
DESTROY_TIMEOUT = 60.0
KILL_TIMEOUT = 5.0
# Under I/O the reply to `pause` waits for some other event. Pokes at this interval ended all of 240
# measured pauses.
POKE_INTERVAL = 0.02
# A variable of the environment of `tap-ctl create`, and so of the tapdisk that it begins
# (tap-ctl-spawn.c, execl), which is not its child any more (tapdisk2.c, daemon).
MARK = "SXM_TAP_CTL"

Vbd = collections.namedtuple("Vbd", "pid minor state args")
Vbd.__doc__ = """A row of `tap-ctl list`: ints, but None where the row lacks it (a tapdisk without a
vbd, a minor without a tapdisk); `args` is "type:path", None while no image is open."""


def list(  # pylint: disable=redefined-builtin
    pid: Optional[int] = None, minor: Optional[int] = None, timeout: float = LIST_TIMEOUT
) -> List[Vbd]:
    """The rows of `tap-ctl list`, of one tapdisk or minor or of all: [Vbd]. Empty if there is no
    such tapdisk."""
    arguments: List[Union[str, int]] = ["list"]
    arguments += [] if pid is None else ["-p", pid]
    arguments += [] if minor is None else ["-m", minor]
    return [_parse_row(line) for line in _run(arguments, timeout).splitlines() if line]


def find(path: str) -> List[Vbd]:
    """The vbds that have the file or device `path` open as their leaf: [Vbd]."""
    return [vbd for vbd in list() if vbd.args is not None and vbd.args.partition(":")[2] == path]


def opening(path: str) -> List[launch.Process]:
    """The tap-ctl commands under way that have a tapdisk open the file or device `path`: what
    somebody who was killed has begun goes on, and `list` does not tell of it yet."""
    return launch.running("-a", mentioning=[":" + path])


def create(args: str, readonly: bool = False, timeout: float = CREATE_TIMEOUT) -> Vbd:
    """Start a tapdisk that serves `args` ("type:path"). Returns its Vbd.

    One that has not opened it within `timeout` is killed, since it would go on when its storage
    answers, and write to the image beside another one: nobody has been told of it yet, so nothing
    is lost. It may have to wait for its storage before it ends; then the error names it. Its minor
    is not freed."""
    arguments = ["create", "-a", args] + (["-R"] if readonly else [])
    mark = str(uuid.uuid4())
    try:
        printed = _run(arguments, timeout, {MARK: mark})
    except TapCtlError as error:
        if error.errno != errno.ETIMEDOUT:
            raise
        left = _kill_marked(mark)
        told = "no end after %s s; its tapdisk is killed" % timeout
        if left:
            told += ", and ends when its storage answers: pid " + ", ".join(map(str, left))
        raise TapCtlError(_line(arguments), errno.ETIMEDOUT, told)
    # blktap 4 prints the marker of the minor, blktap 3 the kernel's device,
    # /dev/xen/blktap-2/tapdevN
    match = re.search(r"tap(?:disk-|dev)(\d+)$", printed.strip())
    if not match:
        raise TapCtlError("create -a %s" % args, errno.EPROTO, "it printed %r" % printed)
    minor = int(match.group(1))
    for vbd in list(minor=minor):
        if vbd.pid is not None:
            return vbd
    raise TapCtlError(
        "create -a %s" % args, errno.ESRCH, "the tapdisk of minor %d is gone already" % minor
    )


def _kill_marked(mark: str) -> List[int]:
    """Kill what a `create` with this mark has begun. The pids of those that do not end within
    KILL_TIMEOUT: what is killed while it waits for its storage does nothing more but end."""
    end = time.monotonic() + KILL_TIMEOUT
    while True:
        found = launch.with_environment(MARK, mark)
        if not found or time.monotonic() > end:
            return sorted(process.pid for process in found)
        for process in found:
            with contextlib.suppress(LaunchFailed):  # it is looked for again
                process.kill()


def destroy(vbd: Vbd, timeout: float = DESTROY_TIMEOUT) -> None:
    """Close the disk of `vbd`, paused or not, end its tapdisk and free its minor."""
    _run(["destroy"] + _of(vbd), timeout)


def stats(vbd: Vbd, timeout: float = STATS_TIMEOUT) -> Dict[str, Any]:
    """tapdisk's statistics of `vbd`, as it has them: {"name", "images": [{"name", "driver":
    {"name", ...}, ...}], "nbd_mirror_failed", "reqs_outstanding", ...}. No image is shown while it
    is paused. ENODEV if it has no such vbd."""
    printed = _run(["stats"] + _of(vbd), timeout).strip()
    if not printed:
        # of a minor that it has not, tap-ctl says nothing at all, and that it went well
        raise TapCtlError(_line(["stats"] + _of(vbd)), errno.ENODEV, "no such vbd")
    try:
        return json.loads(printed)
    except ValueError as error:
        raise TapCtlError(
            _line(["stats"] + _of(vbd)), errno.EPROTO, "%s: %r" % (error, printed[:200])
        )


def pause(vbd: Vbd, timeout: float = PAUSE_TIMEOUT) -> None:
    """Hold the I/O of `vbd` and close its images. To be called within `poked(vbd.pid)`: it may hang
    otherwise."""
    _run(["pause"] + _of(vbd), timeout)


def unpause(
    vbd: Vbd,
    args: Optional[str] = None,
    secondary: Optional[str] = None,
    timeout: float = UNPAUSE_TIMEOUT,
    log: Optional[str] = None,
) -> None:
    """Open `args` ("type:path"; by default what was open) and let the I/O go on.

    `secondary`: "nbd:TARGET", "null" for none; by default the one that it had before. That this
    succeeds says nothing about the secondary: look at the images in `stats`.

    `log`: the file in which changed blocks are noted from now on; without it none are, whatever was
    before.
    """
    arguments = ["unpause"] + _of(vbd)
    arguments += [] if args is None else ["-a", args]
    arguments += [] if secondary is None else ["-2", secondary]
    arguments += [] if log is None else ["-c", log]
    _run(arguments, timeout)


def nbd_socket(vbd: Vbd) -> str:
    """The path of the unix socket on which `vbd` is served by NBD."""
    return root.path("%s/nbd%d.%d" % (CONTROL, vbd.pid, vbd.minor))


@contextlib.contextmanager
def poked(pid: int) -> Iterator[None]:
    """While the body runs, poke tapdisk `pid` every 20 ms, without which the reply to a pause may
    stay out."""
    over = threading.Event()
    poker = threading.Thread(target=_poke, args=(pid, over), name="poke-%d" % pid, daemon=True)
    poker.start()
    try:
        yield
    finally:
        over.set()
        poker.join(LIST_TIMEOUT + KILL_TIMEOUT)


def _poke(pid: int, over: threading.Event) -> None:
    while not over.wait(POKE_INTERVAL):
        try:
            list(pid=pid)
        except TapCtlError:
            # What matters is the call in the body: if this one cannot reach the tapdisk, that one
            # fails by itself.
            continue


def _parse_row(line: str) -> Vbd:
    """A Vbd of a line like `pid=17405 minor=0 state=0x2a args=vhd:/p/a b.vhd`, where any field may
    be missing."""
    head, has_args, args = (" " + line).partition(" args=")
    fields = dict(field.split("=", 1) for field in head.split() if "=" in field)
    try:
        numbers = [
            int(fields[key], base) if key in fields else None
            for key, base in (("pid", 10), ("minor", 10), ("state", 16))
        ]
    except ValueError:
        raise TapCtlError("list", errno.EPROTO, "it printed %r" % line)
    return Vbd(*numbers + [args if has_args else None])


def _of(vbd: Vbd) -> List[Union[str, int]]:
    return ["-p", vbd.pid, "-m", vbd.minor]


def _line(arguments: Sequence[Union[str, int]]) -> str:
    return " ".join(str(argument) for argument in arguments)


def _run(
    arguments: Sequence[Union[str, int]], timeout: float, marked: Optional[Mapping[str, str]] = None
) -> str:
    """Run tap-ctl, with the variables `marked` in its environment; what it printed."""
    try:
        process = subprocess.Popen(
            [root.path(PROGRAM)] + [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ, **marked) if marked else None,
        )
    except OSError as error:
        assert error.errno is not None
        raise TapCtlError(_line(arguments), error.errno, "cannot be run: %s" % error.strerror)
    try:
        printed, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise TapCtlError(_line(arguments), errno.ETIMEDOUT, "no end after %s s" % timeout)
    finally:
        if process.poll() is None:
            process.kill()
            # one that waits for its storage ends later; what is said of it is said above
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_TIMEOUT)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stderr.close()
    if process.returncode:
        number = process.returncode if process.returncode > 0 else errno.EINTR
        text = said.decode("utf-8", "replace").strip() or os.strerror(number)
        raise TapCtlError(_line(arguments), number, text)
    return printed.decode("utf-8", "surrogateescape")
