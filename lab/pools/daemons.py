# SPDX-License-Identifier: LGPL-2.1-only
"""The processes of a lab: started, recorded, found again and ended, by pid and start time only."""

import contextlib
import json
import os
import signal
import sys
import threading
import time

from lab import patience
from lab.pools.roots import REPOSITORY
from lab.xenopsd import process

START = 200.0 * patience.TIMES
"""Seconds until a daemon must serve: a xapi's start waits for SM, which may wait 120 s for a
gate."""
DIE = 20.0
POLL = 0.02 * patience.TIMES


class StartFailed(Exception):
    """A daemon of the lab did not come up; the text says where its log is."""


class Daemons:
    """Kept in one file, so that another process (`down`) can end what this one started."""

    def __init__(self, path):
        self._path = path
        self._lock = threading.Lock()
        self._known = {}
        if os.path.exists(path):
            with open(path) as stream:
                self._known = json.load(stream)

    def start(self, name, module, root, ready):
        """Start `python -m module --root ROOT` in that host's environment and wait until the path
        `ready` exists."""
        log = os.path.join(root, "var/log", "%s.out" % module.split(".")[-1])
        if os.path.exists(ready):
            os.unlink(ready)
        pid, started = process.start(
            [sys.executable, "-m", module, "--root", root], log, environment(root)
        )
        with self._lock:
            self._known[name] = {"pid": pid, "started": started}
            self._save()
        deadline = time.monotonic() + START
        while not os.path.exists(ready):
            if not process.alive(pid, started) or time.monotonic() > deadline:
                raise StartFailed("%s does not come up: %s says\n%s" % (name, log, _tail(log)))
            time.sleep(POLL)

    def kill(self, name):
        """Kill it (SIGKILL) and wait until it is gone."""
        with self._lock:
            known = self._known.pop(name)
            self._save()
        process.kill(known["pid"], known["started"], DIE)

    def end(self, name):
        """Tell it to end (SIGTERM) and wait until it has; one that does not is killed, and
        StartFailed raised."""
        known = self._known[name]
        with contextlib.suppress(ProcessLookupError):
            os.kill(known["pid"], signal.SIGTERM)
        ended = process.wait(known["pid"], known["started"], DIE)
        self.kill(name)
        if not ended:
            raise StartFailed("%s does not end" % name)

    def alive(self, name):
        """True while it runs."""
        known = self._known.get(name)
        return known is not None and process.alive(known["pid"], known["started"])

    def pids(self):
        """The pids of all that run, by name."""
        return {name: known["pid"] for name, known in self._known.items() if self.alive(name)}

    def names(self):
        """All that were started and not killed."""
        return list(self._known)

    def _save(self):
        with open(self._path + ".new", "w") as stream:
            json.dump(self._known, stream)
        os.rename(self._path + ".new", self._path)


def environment(root):
    """What everything that is started on the host at `root` inherits."""
    path = os.pathsep.join(
        [
            root + "/usr/sbin",
            root + "/usr/bin",
            os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ]
    )
    return dict(os.environ, SXM_ROOT=root, PATH=path, PYTHONPATH=REPOSITORY)


def of_root(root):
    """The processes that run on the host at `root`, by what they inherited: {pid: command line}."""
    mark = ("SXM_ROOT=%s" % root).encode()
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/environ" % entry, "rb") as stream:
                    inherited = stream.read().split(b"\0")
                with open("/proc/%s/cmdline" % entry, "rb") as stream:
                    command = stream.read().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue  # it ended, or is not ours
            if mark in inherited:
                found[int(entry)] = command
    return found


def end_all_of(root):
    """Kill whatever runs on the host at `root`; the command lines of what had to be killed."""
    deadline = time.monotonic() + DIE
    killed = {}
    while True:
        running = of_root(root)
        if not running:
            return killed
        if time.monotonic() > deadline:
            raise StartFailed("these do not die: %s" % running)
        for pid, command in running.items():
            killed[pid] = command
            process.kill(pid, process.start_time(pid), 1.0)


def _tail(path, size=3000):
    try:
        with open(path) as stream:
            return stream.read()[-size:]
    except OSError:
        return ""
