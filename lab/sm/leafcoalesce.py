"""Live leaf-coalesce: a leaf that is its parent's only child is merged into it while its tapdisks are paused, and the parent takes its
name. Interrupted, it is undone as long as the old leaf is there, which still has all that is in it.
"""
import os

from sm import blktap2
from sm import chains
from sm import qcow2util
from sm.core import util
from sm.journaler import LEAF
from sm.repository import log

PAUSED, PARENT, SWITCH = "paused", "vhd-parent", "leaf-coalesce"
DISABLED, FORCE = "false", "force"
RESET, NULL = "reset", "OpaqueRef:NULL"
TIMEOUT = 10.0             # seconds for which a guest's disk may stand still
LARGEST = 500 * (1 << 20)  # bytes that are merged in half of it, at 100 MiB/s


def allowed(repository, image):
    """Whether nothing forbids it for this leaf: what its VDI says, or its size.

    One that is too large the real collector makes small first, by a snapshot that it coalesces; this one leaves it alone."""
    api, ref = repository.api, repository.api.get_by_uuid(image.uuid)
    switch = api.get_other_config(ref).get(SWITCH)
    if api.get_on_boot(ref) == RESET:
        log("Skipping reset-on-boot %s" % image.uuid)
    elif api.get_allow_caching(ref):
        log("Skipping allow_caching=true %s" % image.uuid)
    elif switch == DISABLED:
        log("Leaf-coalesce disabled for %s" % image.uuid)
    elif image.size > LARGEST and switch != FORCE:
        log("%s is too large to be leaf-coalesced live, and the lab does not snapshot it" % image.uuid)
    else:
        return True
    return False


def coalesce(repository, uuid):
    """Merge a leaf into its parent. Raises SMException, AbortException, XenAPI.Failure; it is as it was then."""
    try:
        _coalesce(repository, uuid)
    finally:
        repository.api.remove_from_other_config(repository.api.get_by_uuid(uuid), SWITCH)


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
    """Undo every one that was interrupted, or end it if its leaf is gone. With the SR's lock held."""
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
    """Of what pauses a VDI only SM's own `true`: what has another value has somebody else's reason."""
    if repository.sm_config(uuid).get(PAUSED) == "true" and not blktap2.VDI.tap_unpause(repository.session, repository.uuid, uuid):
        raise util.SMException("Failed to unpause VDI %s" % uuid)


def _path(repository, uuid):
    return qcow2util.pathOf(repository.path, uuid)
