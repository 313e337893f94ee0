# SPDX-License-Identifier: LGPL-2.1-only
"""Live leaf-coalesce: a leaf that is its parent's only child is merged into it while its tapdisks
are paused, and the parent takes its name. Interrupted, it is undone as long as the old leaf is
there, which still has all that is in it.

One that is too large for that is made small first, by snapshots for which it is the only leaf, each
of which is coalesced as any other image (cleanup.py, _coalesceLeaf, _snapshotCoalesce).
"""

import os

import XenAPI

import lab_dom0
from sm import blktap2, chains, coalesce as coalescing, qcow2util
from sm.core import util
from sm.journaler import LEAF
from sm.repository import log

PAUSED, PARENT, SWITCH = "paused", "vhd-parent", "leaf-coalesce"
DISABLED, FORCE = "false", "force"
RESET, NULL = "reset", "OpaqueRef:NULL"
TIMEOUT = 10.0  # seconds for which a guest's disk may stand still
MARGIN = 0.5  # the part of them in which it has to be merged
SPEED = 100 * (1 << 20)  # bytes a second, where none is noted
SPEED_LOG = lab_dom0.path("/var/run/%s.speed_log")
"""Of an SR: a line for each of the last merges, in bytes a second. Only read here."""
ROUNDS = 20  # snapshots that are taken for one leaf at most
PATIENT_ROUNDS = 3  # in which it may have become no smaller


def allowed(repository, image):
    """Whether nothing forbids it for this leaf."""
    api, ref = repository.api, repository.api.get_by_uuid(image.uuid)
    switch = api.get_other_config(ref).get(SWITCH)
    if api.get_on_boot(ref) == RESET:
        log("Skipping reset-on-boot %s" % image.uuid)
    elif api.get_allow_caching(ref):
        log("Skipping allow_caching=true %s" % image.uuid)
    elif switch == DISABLED:
        log("Leaf-coalesce disabled for %s" % image.uuid)
    else:
        return True
    return False


def coalesce(repository, uuid):
    """Merge a leaf into its parent. Raises SMException, AbortException, XenAPI.Failure; it is as it
    was then."""
    try:
        if _make_small(repository, uuid):
            _coalesce(repository, uuid)
    finally:
        repository.api.remove_from_other_config(repository.api.get_by_uuid(uuid), SWITCH)


def _make_small(repository, uuid):
    """Snapshot a leaf as often as it takes for it to be merged fast enough, and coalesce what it
    was. Whether it is to be merged then: it is not if somebody else has changed its tree. Raises
    SMException, XenAPI.Failure."""
    sizes = []
    while True:
        with repository.locked():
            images = repository.images()
        image = images.get(uuid)
        if image not in chains.leaf_coalesceable(images):
            log("The VDI tree appears to have been altered since")
            return False
        if _is_small(repository, image):
            return True
        sizes.append(image.size)
        before = sizes[-PATIENT_ROUNDS - 1 : -1]
        if len(sizes) > ROUNDS or len(before) == PATIENT_ROUNDS and sizes[-1] >= max(before):
            raise util.SMException("VDI %s could not be coalesced" % uuid)
        if not _snapshot_coalesce(repository, uuid):
            return False


def _is_small(repository, image):
    switch = repository.api.get_other_config(repository.api.get_by_uuid(image.uuid)).get(SWITCH)
    return image.size / _speed(repository.uuid) < TIMEOUT * MARGIN or switch == FORCE


def _speed(sr_uuid):
    try:
        with open(SPEED_LOG % sr_uuid) as noted:
            speeds = [float(line) for line in noted]
    except FileNotFoundError:
        return SPEED
    return sum(speeds) / len(speeds)


def _snapshot_coalesce(repository, uuid):
    """Without a lock: others may change the tree meanwhile."""
    log("Single-snapshotting %s" % uuid)
    try:
        repository.api.snapshot(repository.api.get_by_uuid(uuid), {"type": "internal"})
    except XenAPI.Failure as failure:
        if not util.isInvalidVDI(failure):
            raise
        log("The VDI appears to have been concurrently deleted")
        return False
    with repository.locked():
        images = repository.images()
    snapshot = images[uuid].parent
    if snapshot not in chains.coalesceable(images):
        log("The VDI appears to have been concurrently snapshotted")
        return False
    log("Coalescing parent %s" % snapshot.uuid)
    coalescing.coalesce(repository, snapshot)
    return True


def _coalesce(repository, uuid):
    with repository.locked():
        images = repository.images()
        if uuid not in images or images[uuid] not in chains.leaf_coalesceable(images):
            log("%s is no longer leaf-coalesceable" % uuid)
            return
        if not blktap2.VDI.tap_pause(repository.session, repository.uuid, uuid, failfast=True):
            raise util.SMException("Failed to pause VDI %s" % uuid)
        try:
            try:
                _merge(repository, images[uuid])
            except BaseException:
                util.logException("leaf-coalesce")
                recover(repository)
                raise
        finally:
            _ensure_unpaused(repository, uuid)
            old = repository.images().get(chains.OLD + uuid)
            if old:
                repository.delete(old)


def _merge(repository, image):
    parent = image.parent
    switch = repository.api.get_other_config(repository.api.get_by_uuid(image.uuid)).get(SWITCH)
    repository.journaler.create(LEAF, image.uuid, parent.uuid)
    qcow2util.setHidden(parent.path, False)
    repository.merge(image, None if switch == FORCE else TIMEOUT)
    os.rename(image.path, _path(repository, chains.OLD + image.uuid))
    os.rename(parent.path, image.path)
    repository.del_config(image.uuid, PARENT)
    qcow2util.setHidden(_path(repository, chains.OLD + image.uuid))
    repository.journaler.remove(LEAF, image.uuid)
    repository.forget(parent.uuid)


def recover(repository):
    """Undo every one that was interrupted, or end it if its leaf is gone. With the SR's lock
    held."""
    for uuid, parent in repository.journaler.all(LEAF).items():
        leaf, base, old = (_path(repository, name) for name in (uuid, parent, chains.OLD + uuid))
        if os.path.exists(base) or os.path.exists(old):
            log("*** UNDO LEAF-COALESCE of %s" % uuid)
            if not os.path.exists(base):
                os.rename(leaf, base)
            if os.path.exists(old):
                qcow2util.setHidden(old, False)
                os.rename(old, leaf)
            qcow2util.setHidden(base)
            repository.set_config(uuid, PARENT, parent)
        else:
            log("*** FINISH LEAF-COALESCE of %s" % uuid)
            repository.forget(parent)
        repository.journaler.remove(LEAF, uuid)
        _ensure_unpaused(repository, uuid)


def _ensure_unpaused(repository, uuid):
    """Of what pauses a VDI only SM's own `true`: what has another value has somebody else's
    reason."""
    if repository.sm_config(uuid).get(PAUSED) == "true" and not blktap2.VDI.tap_unpause(
        repository.session, repository.uuid, uuid
    ):
        raise util.SMException("Failed to unpause VDI %s" % uuid)


def _path(repository, uuid):
    return qcow2util.pathOf(repository.path, uuid)
