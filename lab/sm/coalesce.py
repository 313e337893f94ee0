"""Coalescing: a hidden image that is its parent's only child is merged into it, and what was based on it is based on the parent.

Nothing of this changes what any leaf reads. The leaves are tagged `relinking` meanwhile, so that none is activated, and the tapdisks
of those that are active are made to open their chains anew.
"""
import time

import XenAPI
from sm import blktap2
from sm import qcow2util
from sm.core import util
from sm.journaler import RELINK
from sm.repository import log

RELINKING, ACTIVATING, PARENT = "relinking", "activating", "vhd-parent"
TAG_TRIES, TAG_INTERVAL = 15, 2.0  # seconds


def coalesce(repository, image):
    """Merge a hidden image into its parent, and remove it. One that was merged already is only done with.

    Raises SMException, AbortException; a further call then goes on with it."""
    if image.uuid not in repository.journaler.all(RELINK):
        repository.merge(image)
        repository.journaler.create(RELINK, image.uuid, image.parent.uuid)
    parent, relinked = image.parent, []
    try:
        with repository.locked():
            for leaf in parent.leaves():
                _tag(repository, leaf)
            image = repository.images()[image.uuid]  # something may have been cloned meanwhile
            _relink(repository, image, relinked)
    finally:
        for child in parent.children + relinked:
            if child.uuid != image.uuid:
                _reload(repository, child)
    repository.journaler.remove(RELINK, image.uuid)
    repository.delete(image)


def _tag(repository, leaf):
    """Keep the leaf from being activated from now on. Raises SMException if it is activating all the time."""
    try:
        for _ in range(TAG_TRIES):
            if ACTIVATING not in repository.sm_config(leaf.uuid):
                repository.set_config(leaf.uuid, RELINKING, "True")
                if ACTIVATING not in repository.sm_config(leaf.uuid):
                    return
                repository.del_config(leaf.uuid, RELINKING)
            log("VDI %s is activating, wait to relink" % leaf.uuid)
            time.sleep(TAG_INTERVAL)
    except XenAPI.Failure as failure:
        if not util.isInvalidVDI(failure):
            raise
        return
    raise util.SMException("Failed to tag vdi %s for relink" % leaf.uuid)


def _relink(repository, image, relinked):
    """Base the children of an image on its parent; each is added to `relinked` when it is."""
    for child in image.children:
        repository.abort.check()
        log("Relinking %s from %s to %s" % (child.uuid, image.uuid, image.parent.uuid))
        qcow2util.relink(child.path, image.parent.path)
        relinked.append(child)
        try:
            repository.set_config(child.uuid, PARENT, image.parent.uuid)
        except XenAPI.Failure:
            util.logException("vhd-parent of %s" % child.uuid)
    image.children = []


def _reload(repository, image):
    """Let the leaves be activated again; those that are active open their chains anew. Raises SMException."""
    for leaf in image.leaves():
        repository.abort.check()
        try:
            repository.del_config(leaf.uuid, RELINKING)
            with repository.locked():
                if not blktap2.VDI.tap_refresh(repository.session, repository.uuid, leaf.uuid):
                    raise util.SMException("Failed to refresh %s" % leaf.uuid)
        except XenAPI.Failure as failure:
            if not util.isInvalidVDI(failure):
                raise
