# SPDX-License-Identifier: LGPL-2.1-only
"""An SR as its garbage collector has it: its images, lock and journal, xapi's records of its VDIs,
and the wish that it stop."""

import contextlib
import os
import subprocess
import time

import XenAPI

import lab_dom0
from sm import SR, chains, qcow2util
from sm.core import util
from sm.core.lock import Lock
from sm.journaler import Journaler
from sm.tapdisk import Tapdisk

try:
    from sm import online
except ImportError:  # not XCP-ng's
    online = None

TYPES = ("file", "ext", "nfs", "smb", "xfs", "zfs")
"""The types of SR that keep their images in a directory."""
FLAGS = lab_dom0.path("/run/sm/ipc")
POLL = 0.1
LOCK_TRIES, LOCK_INTERVAL = 100, 3.0  # seconds


class Unsupported(util.SMException):
    """The lab's collector does not know this type of SR."""


class AbortException(util.SMException):
    """Somebody wants the collector to stop."""


def log(text):
    """Write to the storage manager's log, as the collector does."""
    util.SMlog(text, "SMGC")


class AbortFlag(object):
    """That an SR's collector is to stop: a file."""

    def __init__(self, sr_uuid):
        self._path = os.path.join(FLAGS, sr_uuid, "abort")

    def set(self):
        """Ask it."""
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        open(self._path, "w").close()

    def clear(self):
        """Ask it no more."""
        if os.path.exists(self._path):
            os.unlink(self._path)

    def check(self):
        """Raises AbortException if it is asked to stop."""
        if os.path.exists(self._path):
            raise AbortException("Aborting due to signal")


class Repository(object):
    """The SR. `api`: xapi's VDI class."""

    def __init__(self, session, uuid):
        self.session = session
        self.api = session.xenapi.VDI
        self.uuid = uuid
        self._ref = session.xenapi.SR.get_by_uuid(uuid)
        record = session.xenapi.SR.get_record(self._ref)
        if record["type"] not in TYPES:
            raise Unsupported(
                "The collector of the lab does not support SR type %s, only %s: nothing is "
                "collected" % (record["type"], ", ".join(TYPES))
            )
        self.path = os.path.join(SR.MOUNT_BASE, uuid)
        self.journaler = Journaler(self.path)
        self.abort = AbortFlag(uuid)
        self._lock = Lock(qcow2util.LOCK_TYPE_SR, uuid)
        self._require_master(record["shared"])

    def _require_master(self, shared):
        if not self.plugged():
            raise util.SMException("SR %s not attached on this host" % self.uuid)
        if shared and not util.is_master(self.session):
            raise util.SMException("This host is NOT master, will not run")

    def another_session(self):
        """A session like ours, for a thread of its own."""
        session = lab_dom0.xapi_local()
        session._session = self.session._session
        return session

    @staticmethod
    def aborted():
        """What is raised where somebody wants a merge to end."""
        return AbortException("Aborting due to signal")

    def plugged(self):
        """Whether this host has the SR attached."""
        host = util.get_localhost_ref(self.session)
        return any(
            pbd["SR"] == self._ref and pbd["host"] == host and pbd["currently_attached"]
            for pbd in self.session.xenapi.PBD.get_all_records().values()
        )

    def forbids(self, *switches):
        """Whether the SR's other_config has one of these switches off."""
        other_config = self.session.xenapi.SR.get_other_config(self._ref)
        off = [switch for switch in switches if other_config.get(switch) == "false"]
        if off:
            log("%s is disabled for SR %s" % (off[0], self.uuid))
        return bool(off)

    def images(self):
        """The images, as `chains.read` finds them. Raises SMException. The SR has to be locked: a
        VDI that is deleted meanwhile would be listed, and not found."""
        return chains.read(self.path)

    @contextlib.contextmanager
    def locked(self):
        """The SR's lock, as every driver has it. Raises AbortException rather than hold up whoever
        wants us to stop."""
        for _ in range(LOCK_TRIES):
            if self._lock.acquireNoblock():
                break
            self.abort.check()
            time.sleep(LOCK_INTERVAL)
        else:
            raise util.SMException("Unable to acquire the SR lock")
        try:
            yield
        finally:
            self._lock.release()

    def merge(self, image, bound=None):
        """Write what is in an image itself into its parent, within `bound` seconds. Raises
        AbortException, SMException."""
        log("Running coalesce on %s" % image.uuid)
        if online and online.handles(image) and self._has_open(image.parent):
            raise util.CommandException(1, "coalesce %s" % image.path, 'Failed to get "write" lock')
        end = None if bound is None else time.monotonic() + bound
        process = qcow2util.coalesce(image.path, image.parent.path)
        try:
            while process.poll() is None:
                self.abort.check()
                if end is not None and time.monotonic() > end:
                    raise util.SMException("Timed out")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
        finally:
            if process.poll() is None:
                process.kill()
            _, said = process.communicate()
        if process.returncode != 0:
            raise util.CommandException(
                process.returncode, "coalesce %s" % image.path, said.strip()
            )

    @staticmethod
    def _has_open(image):
        """Whether a tapdisk of this host has an image open, and by that QEMU's lock of it."""
        return bool(set(online.openers(image.path)) & {tapdisk.pid for tapdisk in Tapdisk.list()})

    def delete(self, image):
        """Remove an image and xapi's record of it, if it has one."""
        log("Deleting unlinked VDI %s" % image.uuid)
        with self.locked():
            qcow2util.delete(image.path)
            self.forget(image.uuid)
        Lock.cleanupAll(image.uuid)

    # xapi's records of the VDIs, by uuid

    def forget(self, uuid):
        """Remove a record, if it is there."""
        with contextlib.suppress(XenAPI.Failure):
            self.api.forget(self.api.get_by_uuid(uuid))

    def sm_config(self, uuid):
        """A VDI's sm_config. Raises XenAPI.Failure, if there is no such VDI."""
        return self.api.get_sm_config(self.api.get_by_uuid(uuid))

    def set_config(self, uuid, key, value):
        """Write a key of it, whatever was there."""
        self.del_config(uuid, key)
        self.api.add_to_sm_config(self.api.get_by_uuid(uuid), key, value)
        log("Set %s = %s for %s" % (key, value, uuid))

    def del_config(self, uuid, key):
        """Remove a key of it, whoever has written it."""
        self.api.remove_from_sm_config(self.api.get_by_uuid(uuid), key)
