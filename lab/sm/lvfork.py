# SPDX-License-Identifier: LGPL-2.1-only
"""The fork that a snapshot of an image on a logical volume is, and how one that was killed is
undone.

The leaf's volume turns into a hidden base, shrunk to what is in it (XCP-ng's QCOW2 images are not),
with two children, or one. Until a new leaf is on it, a tag of the base says whose fork it is
(FORKED_FROM).
"""

import os

from sm import lvimage, lvutil, qcow2util, refcounter
from sm.core import util

try:
    from sm import cowutil
except ImportError:  # not XCP-ng's
    cowutil = None


def fork(vdi, base, snapshot):
    """Have what a VDI holds in an image `base`, below its new leaf and, unless that is None, below
    `snapshot`: uuids. Its tapdisk is paused. Raises SRNoSpace, CommandException."""
    sr = vdi.sr
    in_use = bool(refcounter.holders(sr.uuid, vdi.uuid))
    kind = _kind_on(vdi)
    smallest = lvimage.volume_size(kind, vdi.size, thin=True)
    full = lvimage.volume_size(kind, vdi.size, thin=False)
    # LVHDSR.py, _snapshot: a snapshot stays small, and a clone of it is made to be written to
    thick = sr.provision == "thick"
    leaf_size = full if in_use or thick and not vdi.is_snapshot_for_xapi() else smallest
    other_size = full if thick and sr.srcmd.cmd == "vdi_clone" else smallest
    if not in_use:
        lvutil.activate(vdi.path)
    needed = vdi.utilisation
    if lvimage.is_deflated(vdi.vdi_type):
        needed = lvimage.used_size(vdi.path)
    sr.ensure_space(leaf_size + (other_size if snapshot else 0) - (vdi.utilisation - needed))
    base_path = os.path.join(sr.path, lvimage.name(vdi.vdi_type, base))
    # hidden first: a base must never be seen as a VDI
    lvutil.change(vdi.path, add={lvimage.HIDDEN: "", lvimage.FORKED_FROM: vdi.uuid})
    lvutil.rename(vdi.path, os.path.basename(base_path))
    if needed < vdi.utilisation:
        lvutil.resize(base_path, needed)
    if snapshot:
        path = os.path.join(sr.path, lvimage.name(kind, snapshot))
        lvimage.create_on(path, base_path, vdi.vdi_type, vdi.size, other_size)
        lvutil.deactivate(path)
    leaf_path = os.path.join(sr.path, lvimage.name(kind, vdi.uuid))
    lvimage.create_on(leaf_path, base_path, vdi.vdi_type, vdi.size, leaf_size)
    lvutil.change(base_path, remove={lvimage.FORKED_FROM: vdi.uuid}, readonly=True)
    if in_use:
        refcounter.get(sr.uuid, base, vdi.uuid)
    else:
        lvutil.deactivate(base_path, leaf_path)


def _kind_on(vdi):
    """What the images on top are: as the one below; on a raw one what the SR prefers."""
    if vdi.vdi_type != lvimage.RAW:
        return vdi.vdi_type
    return cowutil.chosen({}, vdi.sr.dconf, vdi.size) if cowutil else qcow2util.VDI_TYPE


def recover(vg):
    """Undo a snapshot that was killed between hiding the leaf, which becomes the base, and basing a
    new leaf on it."""
    images = lvimage.getAll(vg)
    for image in images.values():
        leaf = image.forked_from
        if leaf and leaf != image.uuid and leaf in images and images[leaf].parent == image.uuid:
            lvutil.change(image.path, remove={lvimage.FORKED_FROM: leaf})
        elif leaf:
            util.SMlog("Undoing the snapshot of %s" % leaf)
            for other in images.values():  # nothing was ever written to them
                if other.parent == image.uuid or other.uuid == leaf != image.uuid:
                    lvutil.remove(other.path)
            lvutil.change(image.path, remove={lvimage.FORKED_FROM: leaf, lvimage.HIDDEN: ""})
            if leaf != image.uuid:
                lvutil.rename(image.path, lvimage.name(image.kind, leaf))


class Journaler(object):
    """What a volume group's tags say of snapshots that were interrupted, asked for as upstream's
    journal."""

    def __init__(self, vg):
        self._vg = vg

    def hasJournals(self, uuid):
        """Whether one of a VDI was."""
        return any(image.forked_from == uuid for image in lvimage.getAll(self._vg).values())
