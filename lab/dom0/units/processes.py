# SPDX-License-Identifier: LGPL-2.1-only
"""The processes that a unit has begun, and their end."""

import os
import signal
import time

TIMES = 90.0  # seconds from SIGTERM to SIGKILL
POLL = 0.02


def of_invocation(invocation):
    """The processes that a unit has begun, by what they inherited: what a cgroup knows."""
    mark, found = ("INVOCATION_ID=%s" % invocation).encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/environ" % name, "rb") as source:
                    if mark in source.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue  # it has ended, or is not ours
    return found


def kill_all(invocation):
    """End all that the unit has begun: with SIGTERM, and with SIGKILL what is left after TIMES."""
    for number, patience in ((signal.SIGTERM, TIMES), (signal.SIGKILL, TIMES)):
        for pid in of_invocation(invocation):
            kill(pid, number)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if not of_invocation(invocation):
                return
            time.sleep(POLL)


def kill(pid, number):
    """Send a process a signal, if it is there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
