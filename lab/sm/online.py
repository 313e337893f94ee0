# SPDX-License-Identifier: LGPL-2.1-only
"""Merging below a leaf that is in use, as XCP-ng's storage manager does with QCOW2 images since May
2026: the tapdisk that has them open is asked (cleanup.py, on_slave.py, qcow2util.py, blktap2.py of
sm 3.2.12-21 with its patches); installed in its layout only.

For each image that is being merged there is an entry in the journal (`coalesce`) and a file that
says so. Whoever activates a disk above it empties the file, and waits until it is gone.
"""

import os
import threading
import time

import XenAPI

import lab_dom0
from sm import qcow2util
from sm.core import util, xs_errors
from sm.journaler import COALESCE, Journaler
from sm.tapdisk import TapCtl

PLUGIN = "on-slave"
TYPE = "qcow2"
NON_PERSISTENT = lab_dom0.path("/run/nonpersistent/sm")
POLL = 1.0  # seconds
CHILD_BOUND = 20.0  # seconds that a merge which was called off is waited for
PART_OF_TAPDISK = b"lab-tapdisk-commit\0"
"""How the lab's tapdisk calls what it has merge for it, in a process of its own."""


def handles(image):
    """Whether an image is merged so, if a leaf above it is in use."""
    return qcow2util.typeOf(image.path) == TYPE


def running_file(sr_uuid, uuid):
    """Of an image that is being merged: empty, if it is to be given up."""
    return os.path.join(NON_PERSISTENT, sr_uuid, "gc_running_" + uuid)


def create_running_file(sr_uuid, uuid):
    """Make it."""
    path = running_file(sr_uuid, uuid)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as made:
        made.write("1")


def is_given_up(sr_uuid, uuid):
    """Whether somebody wants the merge to end."""
    try:
        with open(running_file(sr_uuid, uuid)) as made:
            return not made.read()
    except FileNotFoundError:
        return True


def hosts(repository, image):
    """The hosts (refs) on which a leaf above an image is active. Raises XenAPI.Failure, if one is
    destroyed just then (util.py, get_hosts_attached_on)."""
    found = set()
    for leaf in image.leaves():
        try:
            ref = repository.api.get_by_uuid(leaf.uuid)
        except XenAPI.Failure:
            util.SMlog("VDI %s not in db, ignoring" % leaf.uuid)
            continue
        tags = repository.api.get_sm_config(ref)
        found |= {key[len("host_") :] for key in tags if key.startswith("host_")}
    return found


def merge(repository, image, host):
    """Have the tapdisk of a host merge an image into what is below it. Raises SMException;
    AbortException, if somebody wants it to end."""
    args, failed = {"path": image.path, "vdi_type": TYPE}, []

    def call():
        session = repository.another_session()
        try:
            answer = session.xenapi.host.call_plugin(host, PLUGIN, "commit_tapdisk", args)
            util.SMlog("Remote coalesce returned %s" % answer, "SMGC")
        except Exception:  # of a process of its own, which only fails
            util.logException("commit_tapdisk")
            failed.append(True)

    util.SMlog("Calling remote coalesce plugin with: %s" % args, "SMGC")
    child = threading.Thread(target=call, daemon=True)
    child.start()
    while child.is_alive():
        if is_given_up(repository.uuid, image.uuid):
            util.SMlog("Cancelling online coalesce following signal %s" % args, "SMGC")
            repository.session.xenapi.host.call_plugin(host, PLUGIN, "commit_cancel", args)
            child.join(CHILD_BOUND)
            raise repository.aborted()
        child.join(POLL)
    if failed:
        raise util.SMException("Child process exited with error")


def openers(path):
    """The processes that have a file open, as `lsof -t` lists them: none, if there is no file."""
    try:
        status, found = os.stat(path), []
    except FileNotFoundError:
        return []
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as line:
                if line.read().startswith(PART_OF_TAPDISK):
                    continue
            files = os.listdir("/proc/%s/fd" % pid)
            if any(_is_at("/proc/%s/fd/%s" % (pid, name), status) for name in files):
                found.append(int(pid))
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def _is_at(path, status):
    try:
        other = os.stat(path)
    except OSError:
        return False
    return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)


def _tapdisk(path):
    """(pid, minor) of the one that has an image open. Raises XenError."""
    pids = openers(path)
    if not pids:
        raise xs_errors.XenError("TapdiskFailed", opterr="No tapdisk process found for %s" % path)
    if len(pids) > 1:
        raise xs_errors.XenError("Multiple openers for %s" % path)
    rows = TapCtl.list(pid=pids[0])
    if len(rows) > 1:
        raise xs_errors.XenError(
            "TapdiskAlreadyRunning", opterr="There is multiple minor for this tapdisk process"
        )
    return pids[0], rows[0]["minor"]


# what the plugin `on-slave` has for it, on the host where the leaf is active


def commit_tapdisk(session, args):
    """Have the image at `path` merged, and wait for it: the bytes. If a pause has ended it, this
    waits for good, as the real one does."""
    pid, minor = _tapdisk(args["path"])
    TapCtl.commit(pid, minor, args["path"])
    status, done = TapCtl.query(pid, minor)
    if status == "undefined":
        return "0"
    while status != "concluded":
        time.sleep(POLL)
        status, done = TapCtl.query(pid, minor)
    return str(done)


def commit_cancel(session, args):
    """End that."""
    try:
        TapCtl.cancel_commit(*_tapdisk(args["path"]))
    except Exception:
        util.logException("commit_cancel")
        return "False"
    return "True"


def cancel_coalesce_master(session, args):
    """On the host of the collector: have it give up an image, and wait until it has."""
    path = running_file(args["sr_uuid"], args["vdi_uuid"])
    try:
        with open(path, "r+") as made:
            made.truncate(0)
    except FileNotFoundError:
        return "True"
    while os.path.exists(path):
        time.sleep(POLL)
    return "True"


def is_openers(session, args):
    """Whether anybody has a file open."""
    return str(bool(openers(args["path"])))


FUNCTIONS = {
    "commit_tapdisk": commit_tapdisk,
    "commit_cancel": commit_cancel,
    "cancel_coalesce_master": cancel_coalesce_master,
    "is_openers": is_openers,
}


def give_up_below(session, sr, path):
    """Before a tapdisk opens a chain of files: have the merges in it given up, and wait for that.
    `sr`: the driver's."""
    if qcow2util.typeOf(path) != TYPE:
        return
    merging = Journaler(os.path.dirname(path)).all(COALESCE)
    for uuid in [uuid for uuid in qcow2util.chainOf(path) if uuid in merging]:
        util.SMlog("Coalescing VDI %s in chain" % uuid)
        shared = session.xenapi.SR.get_shared(session.xenapi.SR.get_by_uuid(sr.uuid))
        host = util.get_master_ref(session) if shared else sr.host_ref
        session.xenapi.host.call_plugin(
            host, PLUGIN, "cancel_coalesce_master", {"sr_uuid": sr.uuid, "vdi_uuid": uuid}
        )
