# SPDX-License-Identifier: LGPL-2.1-only
"""A unit that runs, and the process that starts it, sees to it, and says how it has ended: its
parent, as PID 1 is on a host."""

import os
import signal
import sys
import time

from . import processes, states

BOOTED = "/run/systemd/system"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
CLEAN = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
RESTARTS = {"no": (), "on-abnormal": ("signal",), "on-failure": ("signal", "exit-code")}
BURST, WITHIN = 5, 10.0  # starts within so many seconds


def keep(root, unit, settings):
    """Have a process of its own see to the unit from here on: its parent, as PID 1 is on a host."""
    sys.stdout.flush()
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, 256)
    os.chdir("/")
    try:
        _see_to(root, unit, settings)
    except BaseException:
        import traceback  # costs an emulated processor a second, and is hardly ever needed

        with open(root + "/var/log/systemd.out", "a") as log:
            traceback.print_exc(file=log)
    finally:
        os._exit(0)


def _see_to(root, unit, settings):
    starts = []
    while True:
        told = settings()
        invocation = os.urandom(16).hex()
        starts.append(time.monotonic())
        pid = os.fork()
        if pid == 0:
            _become(root, invocation, told)
        state = dict(states.make("active", "running", pid), keeper=os.getpid(), left=invocation)
        states.write(root, unit, state)
        _, status = os.waitpid(pid, 0)
        result = _result(status)
        if told.get("KillMode", "control-group") == "control-group":
            processes.kill_all(invocation)
        stopped = "stopping" in (states.read(root, unit) or {})
        told = settings()
        if (
            stopped
            or result not in RESTARTS[told.get("Restart", "no")]
            or not os.path.isdir(root + BOOTED)
        ):
            break
        states.write(
            root,
            unit,
            dict(states.make("activating", "auto-restart"), keeper=os.getpid(), left=invocation),
        )
        time.sleep(float(told["RestartSec"].rstrip("s")))
        if len([start for start in starts if start > time.monotonic() - WITHIN]) >= BURST:
            break
    if result == "success":
        states.end(root, unit, state)
    else:
        states.write(
            root, unit, dict(states.make("failed", "failed"), left=invocation, Result=result)
        )


def _become(root, invocation, told):
    os.setsid()
    for number in CLEAN:
        signal.signal(number, signal.SIG_DFL)
    environment = {
        "PATH": "%s/usr/sbin:%s/usr/bin:%s" % (root, root, PATH),
        "INVOCATION_ID": invocation,
    }
    environment.update(told["environment"])
    try:
        os.execve(told["argv"][0], told["argv"], environment)
    except OSError:
        os._exit(203)


def _result(status):
    if os.WIFSIGNALED(status):
        return "success" if os.WTERMSIG(status) in CLEAN else "signal"
    return "exit-code" if os.WEXITSTATUS(status) else "success"
