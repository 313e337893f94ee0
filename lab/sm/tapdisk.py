# SPDX-License-Identifier: LGPL-2.1-only
"""Tapdisk, through tap-ctl. Upstream keeps this in blktap2, which re-exports it."""

import errno
import json
import os
import re
import time

import lab_dom0
from sm.core import util


class TapCtl(object):
    """The calls of tap-ctl: each runs the program once and raises CommandFailure if it fails."""

    PATH = lab_dom0.path("/usr/sbin/tap-ctl")

    class CommandFailure(Exception):
        """tap-ctl failed: `info` holds `status` (an errno), or `signal`, and `errmsg`."""

        def __init__(self, cmd, **info):
            super(TapCtl.CommandFailure, self).__init__(cmd, info)
            self.cmd = cmd
            self.info = info

        def __str__(self):
            return "%s failed: %s" % (
                self.cmd,
                ", ".join("%s=%s" % item for item in sorted(self.info.items())),
            )

        @property
        def has_status(self):
            """Whether tap-ctl ended by itself."""
            return "status" in self.info

        def get_error_code(self):
            """The errno that tap-ctl ended with, 0 if it did not get that far."""
            return self.info.get("status", 0)

    @classmethod
    def _run(cls, *args):
        command = [cls.PATH] + [str(arg) for arg in args]
        try:
            status, out, err = util.doexec(command)
        except OSError as error:
            raise cls.CommandFailure(command, errno=error.errno)
        if status < 0:
            raise cls.CommandFailure(command, signal=-status, errmsg=err.strip())
        if status > 0:
            raise cls.CommandFailure(command, status=status, errmsg=err.strip())
        return out

    @classmethod
    def list(cls, minor=None, pid=None):
        """The vbds as dicts of `pid`, `minor`, `state` and `args`, each only if tap-ctl names it.

        Tried again, up to 10 times, while tapdisks come and go under its feet.
        """
        options = [] if minor is None else ["-m", minor]
        options += [] if pid is None else ["-p", pid]
        for attempt in range(10):
            try:
                return [cls._row(line) for line in cls._run("list", *options).splitlines()]
            except cls.CommandFailure as failure:
                if attempt == 9 or failure.get_error_code() not in (errno.EPROTO, errno.ENOENT):
                    raise
                time.sleep(0.5)

    @staticmethod
    def _row(line):
        row = {}
        for field in line.split(" ", 3):
            key, _, value = field.partition("=")
            if value:
                row[key] = value if key == "args" else int(value, 16 if key == "state" else 10)
        return row

    @classmethod
    def create(cls, arg, rdonly=False, cbtlog=None):
        """Start a tapdisk on the image `arg` ("type:path"), with its changed blocks noted in the
        file `cbtlog`. Returns its device path, which ends in the minor."""
        options = (["-R"] if rdonly else []) + (["-C", cbtlog] if cbtlog else [])
        return cls._run("create", "-a", arg, *options).strip()

    @classmethod
    def destroy(cls, pid, minor):
        """Close the image, detach, free the minor; the tapdisk exits with its last vbd."""
        cls._run("destroy", "-p", pid, "-m", minor)

    @classmethod
    def pause(cls, pid, minor):
        """Finish what is in flight, hold the rest, close the images."""
        cls._run("pause", "-p", pid, "-m", minor)

    @classmethod
    def unpause(cls, pid, minor, arg=None, mirror=None, cbtlog=None):
        """Open the images again, `arg` if it is given, with the secondary `mirror` if it is given,
        and go on, with changed blocks noted in the file `cbtlog` if that is given."""
        options = ["-2", mirror] if mirror else []
        options += ["-a", arg] if arg else []
        options += ["-c", cbtlog] if cbtlog else []
        cls._run("unpause", "-p", pid, "-m", minor, *options)

    @classmethod
    def commit(cls, pid, minor, path):
        """Begin to merge an image below the one that is in use (XCP-ng)."""
        cls._run("commit", "-p", pid, "-m", minor, "-a", path)

    @classmethod
    def query(cls, pid, minor):
        """What that is at: (status, bytes done)."""
        said = cls._run("query", "-p", pid, "-m", minor)
        match = re.match(r"Commit status '(.+)' \((\d+)\/(\d+)\)", said)
        return match.group(1), int(match.group(2))

    @classmethod
    def cancel_commit(cls, pid, minor):
        """End it."""
        cls._run("cancel", "-p", pid, "-m", minor, "-w")

    @classmethod
    def stats(cls, pid, minor):
        """The statistics of a vbd, as JSON text."""
        return cls._run("stats", "-p", pid, "-m", minor)


class TapdiskExists(Exception):
    """A tapdisk has this image open already."""

    def __init__(self, tapdisk):
        super(TapdiskExists, self).__init__(tapdisk)
        self.tapdisk = tapdisk

    def __str__(self):
        return "%s already running" % self.tapdisk


class TapdiskNotRunning(Exception):
    """There is no such tapdisk."""


class TapdiskNotUnique(Exception):
    """More than one tapdisk has this image open."""


class TapdiskFailed(Exception):
    """A tapdisk could not be started: `arg` is its image, `err` a TapCtl.CommandFailure."""

    def __init__(self, arg, err):
        super(TapdiskFailed, self).__init__(arg, err)
        self.arg = arg
        self.err = err

    def __str__(self):
        return "Tapdisk(%s): %s" % (self.arg, self.err)

    def get_error(self):
        """The TapCtl.CommandFailure."""
        return self.err


class TapdiskInvalidState(Exception):
    """Asked to pause a tapdisk that is not running, or to unpause one that is not paused."""


class Tapdisk(object):
    """One vbd of a running tapdisk, as tap-ctl list showed it."""

    TYPES = ["aio", "vhd", "qcow2"]
    PAUSE_REQUESTED = 0x10
    PAUSED = 0x20

    class Arg(object):
        """An image: "type:path"."""

        def __init__(self, _type, path):
            self.type = _type
            self.path = path

        def __str__(self):
            return "%s:%s" % (self.type, self.path)

        @classmethod
        def parse(cls, text):
            """The Arg that `text` spells. Raises ValueError."""
            _type, _, path = text.partition(":")
            if _type not in Tapdisk.TYPES:
                raise ValueError("not a tapdisk image: %r" % text)
            return cls(_type, path)

    def __init__(self, pid, minor, _type, path, state):
        self.pid = pid
        self.minor = minor
        self.type = _type
        self.path = path
        self.state = state

    def __str__(self):
        return "Tapdisk(%s, pid=%d, minor=%s, state=%#x)" % (
            self.get_arg(),
            self.pid,
            self.minor,
            self.state,
        )

    def get_arg(self):
        """The image it has open."""
        return self.Arg(self.type, self.path)

    @classmethod
    def list(cls, path=None, **filters):
        """The tapdisks that have an image, or the image at `path`, open; `filters` are those of
        TapCtl.list."""
        for row in TapCtl.list(**filters):
            if {"pid", "minor", "state", "args"} <= set(row):
                arg = cls.Arg.parse(row["args"])
                if path in (None, arg.path):
                    yield cls(row["pid"], row["minor"], arg.type, arg.path, row["state"])

    @classmethod
    def find(cls, **filters):
        """The one tapdisk that matches, or None. Raises TapdiskNotUnique."""
        found = list(cls.list(**filters))
        if len(found) > 1:
            raise TapdiskNotUnique([str(tapdisk) for tapdisk in found])
        return found[0] if found else None

    @classmethod
    def find_by_path(cls, path):
        """The tapdisk that has the image at `path` open, or None."""
        return cls.find(path=path)

    @classmethod
    def get(cls, **filters):
        """The one tapdisk that matches. Raises TapdiskNotRunning."""
        tapdisk = cls.find(**filters)
        if tapdisk is None:
            raise TapdiskNotRunning("No such Tapdisk(%s)" % filters)
        return tapdisk

    @classmethod
    def from_minor(cls, minor):
        """The tapdisk with this minor. Raises TapdiskNotRunning."""
        return cls.get(minor=minor)

    @classmethod
    def launch(cls, path, _type, rdonly, cbtlog=None):
        """Start a tapdisk on an image. Raises TapdiskExists, TapdiskFailed."""
        running = cls.find_by_path(path)
        if running:
            raise TapdiskExists(running)
        arg = cls.Arg(_type, path)
        try:
            device = TapCtl.create(str(arg), rdonly, cbtlog)
        except TapCtl.CommandFailure as failure:
            raise TapdiskFailed(arg, failure)
        return cls.from_minor(int(re.search(r"(\d+)$", device).group(1)))

    def shutdown(self):
        """Close the image; the tapdisk exits."""
        TapCtl.destroy(self.pid, self.minor)

    def is_paused(self):
        """Whether it is paused: its images are closed."""
        return bool(self.state & self.PAUSED)

    def is_running(self):
        """Whether nobody paused it, or is about to."""
        return not self.state & (self.PAUSED | self.PAUSE_REQUESTED)

    def pause(self):
        """Pause it. Raises TapdiskInvalidState."""
        if not self.is_running():
            raise TapdiskInvalidState(str(self))
        TapCtl.pause(self.pid, self.minor)

    def unpause(self, _type=None, path=None, mirror=None, cbtlog=None):
        """Let it go on, on the same image or on another. Raises TapdiskInvalidState."""
        if not self.is_paused():
            raise TapdiskInvalidState(str(self))
        TapCtl.unpause(
            self.pid,
            self.minor,
            str(self.Arg(_type or self.type, path or self.path)),
            mirror,
            cbtlog,
        )

    def stats(self):
        """Its statistics, as an object."""
        return json.loads(TapCtl.stats(self.pid, self.minor))

    def nbd_socket(self):
        """The unix socket at which it serves its disk."""
        return os.path.join(
            lab_dom0.path("/run/blktap-control"), "nbd%d.%d" % (self.pid, self.minor)
        )
