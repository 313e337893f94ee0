# SPDX-License-Identifier: LGPL-2.1-only
"""Coalescing: a hidden image that is its parent's only child is merged into it, and what was based
on it is based on the parent.

Nothing of this changes what any leaf reads. The leaves are tagged `relinking` meanwhile, so that
none is activated, and the tapdisks of those that are active are made to open their chains anew.

On XCP-ng's, QCOW2 images below a leaf that is in use are merged by its tapdisk, down to the lowest.
If that lies deeper than the parent, the leaf is nobody's child any more of those that are looked at
then, and keeps the tag (cleanup.py, _coalesce, _reloadChildren).
"""

import os
import time

import XenAPI

from sm import blktap2, qcow2util
from sm.core import util
from sm.journaler import COALESCE, RELINK
from sm.repository import log

try:
    from sm import online
except ImportError:  # not XCP-ng's
    online = None

RELINKING, ACTIVATING, PARENT = "relinking", "activating", "vhd-parent"
TAG_TRIES, TAG_INTERVAL = 15, 2.0  # seconds


def coalesce(repository, image):
    """Merge a hidden image into its parent, and remove it. One that was merged already is only done
    with.

    Raises SMException, AbortException, and what else `_merge_qcow2` does; a further call then goes
    on with it."""
    relinked_already = []
    if image.uuid not in repository.journaler.all(RELINK):
        if online and online.handles(image):
            relinked_already = _merge_qcow2(repository, image)
        else:
            repository.merge(image)
        repository.journaler.create(RELINK, image.uuid, image.parent.uuid)
    parent, relinked = image.parent, []
    try:
        with repository.locked():
            for leaf in parent.leaves():
                _tag(repository, leaf, relinked_already)
            images = repository.images()  # something may have been cloned meanwhile
            image, parent = images[image.uuid], images[parent.uuid]
            _relink(repository, image, relinked)
    finally:
        for child in parent.children + relinked:
            if child.uuid != image.uuid:
                _reload(repository, child)
    repository.journaler.remove(RELINK, image.uuid)
    repository.delete(image)


def _merge_qcow2(repository, image):
    """Merge a QCOW2 image, by the tapdisk of a leaf that is in use, if one is. The uuids of the
    leaves that are based on its parent by that already. Raises SMException, AbortException,
    XenAPI.Failure, OSError; the journal's entry stays then, until the collector is run again."""
    online.create_running_file(repository.uuid, image.uuid)
    repository.journaler.create(COALESCE, image.uuid)
    hosts = online.hosts(repository, image)
    if len(hosts) > 1:
        raise Exception("Not coalesceable, chain activated more than once")  # as the real one
    relinked = []
    try:
        if not hosts:
            log("Offline coalesce for %s" % image.path)
            repository.merge(image)
        else:
            log("Remote coalesce for %s" % image.path)
            online.merge(repository, image, hosts.pop())
            relinked = _relinked_by_tapdisk(repository, image)
    except Exception as error:
        log("EXCEPTION while coalescing: %s" % error)
        os.unlink(online.running_file(repository.uuid, image.uuid))
        raise
    repository.journaler.remove(COALESCE, image.uuid)
    os.unlink(online.running_file(repository.uuid, image.uuid))
    return relinked


def _relinked_by_tapdisk(repository, image):
    """The uuids of the leaves that are based on an image's parent already. Raises OSError if a
    child was deleted since the images were listed: the SR is not locked here, and the real one
    neither catches that (cleanup.py, _coalesce: child.getParent(), by qcow2util._read_qcow2) nor
    skips the image for it, but ends."""
    relinked = []
    for child in image.children:
        if qcow2util.getInfo(child.path).parent == image.parent.uuid:
            _set_parent(repository, child.uuid, image.parent.uuid)
            relinked = [leaf.uuid for leaf in child.leaves()]  # of the last one, as the real one
    return relinked


def _set_parent(repository, uuid, parent):
    """Note it in xapi's record, if that is there still."""
    try:
        repository.set_config(uuid, PARENT, parent)
    except XenAPI.Failure:
        util.logException("vhd-parent of %s" % uuid)


def _tag(repository, leaf, relinked):
    """Keep the leaf from being activated from now on, if it is not relinked already. Raises
    SMException if it is activating all the time."""
    try:
        for _ in range(TAG_TRIES):
            if ACTIVATING not in repository.sm_config(leaf.uuid):
                if leaf.uuid in relinked:
                    log("Not adding relinking tag to VDI %s" % leaf.uuid)
                    return
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
        _set_parent(repository, child.uuid, image.parent.uuid)
    image.children = []


def _reload(repository, image):
    """Let the leaves be activated again; those that are active open their chains anew. Raises
    SMException."""
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
