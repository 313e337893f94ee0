# SPDX-License-Identifier: LGPL-2.1-only
"""Locks between the processes of one host: `Lock(name, namespace)`, a record lock on
/var/lock/sm/<namespace>/<name>.

As upstream's: the file is opened when the object is made, and stays open. A process has the lock,
whatever descriptor of the file it took it by; it loses it when it closes any of them."""

import fcntl
import os
import shutil

import lab_dom0
from sm.core import util


class LockException(util.SMException):
    """The lock file could not be made."""


class Lock(object):
    """A lock by name. One object for each name in a process; taken again by its holder it only
    counts."""

    BASE_DIR = lab_dom0.path("/var/lock/sm")
    INSTANCES = {}

    def __new__(cls, name, ns=None):
        key = (ns, name)
        if key not in Lock.INSTANCES:
            Lock.INSTANCES[key] = LockImplementation(name, ns)
        return Lock.INSTANCES[key]

    @staticmethod
    def cleanupAll(ns=None):
        """Remove every lock file of a namespace, when what it names (a VDI) is gone. Who has one of
        these locks keeps it, on a file that no other process can open."""
        shutil.rmtree(os.path.join(Lock.BASE_DIR, ns or ".nil"), ignore_errors=True)


class LockImplementation(object):
    """What `Lock(...)` returns."""

    cleanupAll = staticmethod(Lock.cleanupAll)

    def __init__(self, name, ns=None):
        self.name = name
        self.ns = ns or ".nil"
        self.lockpath = os.path.join(Lock.BASE_DIR, self.ns, name)
        self.count = 0
        self._held = False
        self._file = self._open()

    def acquire(self):
        """Take the lock; waits for it without bound, as upstream's does."""
        self._acquire(fcntl.LOCK_EX)

    def acquireNoblock(self):
        """Take the lock if it is free. Returns whether it was taken."""
        return self._acquire(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _acquire(self, operation):
        if not self._held:
            try:
                fcntl.lockf(self._file, operation)
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2)
                return False
            self._held = True
        self.count += 1
        return True

    def _open(self):
        for _ in range(10):  # the directory may be removed (cleanupAll) between making and using it
            try:
                os.makedirs(os.path.dirname(self.lockpath), exist_ok=True)
                return open(self.lockpath, "w+")
            except FileNotFoundError:
                continue
        raise LockException("no lock file %s" % self.lockpath)

    def held(self):
        """Whether this process holds the lock."""
        return self._held

    def release(self):
        """Let go of the lock, when it was released as often as it was taken."""
        self.count = max(0, self.count - 1)
        if self.count == 0 and self._held:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
            self._held = False
