# SPDX-License-Identifier: LGPL-2.1-only
"""SM's garbage collector: removes hidden images that nothing is based on, and merges those that
have one child only.

    cleanup.py -g -u <SR uuid>     in the foreground, at once, until there is nothing left to do
    cleanup.py -a -u <SR uuid>     stop one that runs

A stand-in that behaves as upstream's does in what a running migration meets; chains, coalesce and
leafcoalesce have the parts.
"""

import getopt
import sys
import time

import XenAPI

import lab_dom0
from sm import chains, coalesce, leafcoalesce, qcow2util
from sm.core import util
from sm.core.lock import Lock
from sm.journaler import COALESCE as MERGING, RELINK
from sm.repository import AbortException, AbortFlag, Repository, log

GC, COALESCE, LEAF_COALESCE = "gc", "coalesce", "leaf-coalesce"
"""The switches in an SR's other_config: "false" forbids."""
ABORT_TRIES, ABORT_INTERVAL = 20, 3.0  # seconds


class _Active(object):
    """The lock of an SR's collector, which nobody takes while somebody else has the SR locked."""

    def __init__(self, sr_uuid):
        self._lock = Lock(qcow2util.LOCK_TYPE_GC_ACTIVE, sr_uuid)
        self._of_sr = Lock(qcow2util.LOCK_TYPE_SR, sr_uuid)

    def acquire(self):
        """Whether it could be taken."""
        self._of_sr.acquire()
        try:
            return self._lock.acquireNoblock()
        finally:
            self._of_sr.release()

    def release(self):
        """Let go of it."""
        self._lock.release()


def gc(session, sr_uuid):
    """Collect until there is nothing left to do. Raises SMException, AbortException; of a VDI that
    is destroyed meanwhile XenAPI.Failure, OSError."""
    log("=== SR %s: gc ===" % sr_uuid)
    repository = Repository(session, sr_uuid)
    active = _Active(sr_uuid)
    if repository.forbids(GC):
        return
    if not active.acquire():
        log("Another GC instance already active, exiting")
        return
    try:
        failed = set()
        while repository.plugged() and not repository.forbids(GC) and _step(repository, failed):
            pass
        log("No work, exiting")
    finally:
        active.release()


def _step(repository, failed):
    """Do what comes first. Whether there was anything to do. `failed`: uuids that are not tried
    again, and are added to."""
    with repository.locked():
        leafcoalesce.recover(repository)
        for uuid in repository.journaler.all(MERGING):
            repository.journaler.remove(MERGING, uuid)
        images = repository.images()
    relinking = repository.journaler.all(RELINK)
    for uuid in set(relinking) - set(images):
        repository.journaler.remove(RELINK, uuid)
    garbage = chains.garbage(images, relinking)
    for image in garbage:
        repository.abort.check()
        repository.delete(image)
    if garbage:
        return True
    if repository.forbids(COALESCE):
        return False
    interrupted = [images[uuid] for uuid in relinking if uuid in images]
    for image in interrupted + chains.coalesceable(images):
        if image.uuid not in failed:
            log("Coalescing %s -> %s" % (image.uuid, image.parent.uuid))
            _try(lambda: coalesce.coalesce(repository, image), image.uuid, failed, util.SMException)
            return True
    if repository.forbids(LEAF_COALESCE):
        return False
    for image in chains.leaf_coalesceable(images):
        if image.uuid not in failed and leafcoalesce.allowed(repository, image):
            log("Leaf-coalescing %s -> %s" % (image.uuid, image.parent.uuid))
            _try(
                lambda: leafcoalesce.coalesce(repository, image.uuid),
                image.uuid,
                failed,
                util.SMException,
                XenAPI.Failure,
            )
            return True
    return False


def _try(action, uuid, failed, *errors):
    try:
        action()
    except AbortException:
        raise
    except errors as error:
        util.logException("coalesce of %s" % uuid)
        log("Coalesce failed on %s, skipping: %s" % (uuid, error))
        failed.add(uuid)


def abort(sr_uuid):
    """Stop the collector of an SR, if it runs. Raises SMException if it does not stop."""
    log("=== SR %s: abort ===" % sr_uuid)
    active, flag = _Active(sr_uuid), AbortFlag(sr_uuid)
    try:
        for _ in range(ABORT_TRIES):
            if active.acquire():
                active.release()
                return
            flag.set()
            time.sleep(ABORT_INTERVAL)
    finally:
        flag.clear()
    raise util.SMException("SR %s: error aborting existing process" % sr_uuid)


def _collect(sr_uuid):
    session = lab_dom0.xapi_local()
    session.xenapi.login_with_password("root", "", "1.0", "SM")
    try:
        gc(session, sr_uuid)
    finally:
        session.xenapi.session.logout()


_ACTIONS = {"-g": _collect, "--gc": _collect, "-a": abort, "--abort": abort}


def main(arguments):
    """The main program; the exit status."""
    try:
        given, rest = getopt.getopt(arguments, "gau:", ["gc", "abort", "uuid="])
    except getopt.GetoptError as error:
        given, rest = [], [str(error)]
    uuids = [value for name, value in given if name in ("-u", "--uuid")]
    actions = [_ACTIONS[name] for name, _ in given if name in _ACTIONS]
    if rest or len(uuids) != 1 or len(actions) != 1:
        print(__doc__, file=sys.stderr)
        return 1
    print("All output goes to log")
    try:
        actions[0](uuids[0])
    except Exception as error:  # of any kind, as the real one (run_gc): nobody else would tell it
        util.logException("SMGC")
        log("* * * * * SR %s: ERROR" % uuids[0])
        print("%s: %s" % (type(error).__name__, error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
