# SPDX-License-Identifier: LGPL-2.1-only
"""What the lab's drivers have in common whose VDIs are chains of images, in files or on volumes.

Upstream has no such module: each driver there has all of it.
"""

import os

from sm import SR, VDI, blktap2, qcow2util
from sm.core import util, xs_errors
from sm.core.lock import Lock

try:
    from sm import cowutil
except ImportError:  # not XCP-ng's
    cowutil = None

CAPABILITIES = [
    "SR_UPDATE",
    "VDI_CREATE",
    "VDI_DELETE",
    "VDI_ATTACH",
    "VDI_DETACH",
    "VDI_CLONE",
    "VDI_SNAPSHOT",
    "VDI_RESIZE",
    "VDI_MIRROR",
    "VDI_UPDATE",
    "ATOMIC_PAUSE",
    "VDI_ACTIVATE",
    "VDI_DEACTIVATE",
]

DRIVER_INFO = {
    "vendor": "Storage XenMotion's lab",
    "copyright": "",
    "driver_version": "1.0",
    "required_api_version": "1.0",
}
"""What each driver says of itself, besides its name, description, capabilities and
configuration."""


class ImageSR(SR.SR):
    """A place of images. Its driver has `_measure()`, which sets the physical sizes, and
    `_collect_garbage()`, which removes the bases that nobody needs."""

    REQUIRED = ()
    """The keys that device_config must have, each with the error if it has not."""

    def load(self, sr_uuid):
        for key, error in self.REQUIRED:
            if not self.dconf.get(key):
                raise xs_errors.XenError(error)
        self.lock = Lock(qcow2util.LOCK_TYPE_SR, self.uuid)
        self.sr_vditype = qcow2util.VDI_TYPE

    def _require_closed(self):
        """Raises SRInUse if a tapdisk of this host has an image open."""
        inside = os.path.join(self.path, "")
        if any(tapdisk.path.startswith(inside) for tapdisk in blktap2.Tapdisk.list()):
            raise xs_errors.XenError("SRInUse", opterr="a tapdisk has an image of it open")

    def _kick_collector(self):
        """What follows a deletion."""
        self._collect_garbage()

    def update(self, sr_uuid):
        self._update(sr_uuid, 0)

    def _update(self, sr_uuid, virt_alloc_delta):
        """Bring xapi's record of the SR up to date, its virtual allocation by the difference in
        bytes."""
        current = int(self.session.xenapi.SR.get_virtual_allocation(self.sr_ref))
        self.virtual_allocation = current + virt_alloc_delta
        self._measure()
        self._db_update()

    def _add_vdis(self, images, make):
        """Have in `vdis` what `make(uuid, image)` answers for each image (uuid -> one that knows
        its `parent`, and whether it is `hidden`)."""
        parents = {image.parent for image in images.values()}
        for uuid, image in images.items():
            if image.hidden and uuid not in parents:
                continue  # a deleted base that is still in use somewhere: no VDI
            self.vdis[uuid] = make(uuid, image)
            self.vdis[uuid].read_only = image.hidden

    def scan(self, sr_uuid):
        """Once `vdis` is what is there."""
        self.virtual_allocation = sum(vdi.size for vdi in self.vdis.values() if not vdi.hidden)
        self._measure()
        super(ImageSR, self).scan(sr_uuid)


class ImageVDI(VDI.VDI):
    """An image. Its driver has `_query()`, which reads again what is known of it, `_grow(size)` in
    bytes, `_remove()`, `_put_on(uuid)`, which bases it on another and hides that, `_depth()` of its
    chain, and `_snapshot(type)`."""

    def _found(self, image):
        """Take what the image says of itself: whether it is `hidden`, and its `parent`, a uuid or
        None."""
        self.hidden = image.hidden
        self.managed = not image.hidden
        self.parent = image.parent or ""
        self.sm_config_override = dict(self._format(), **{"vhd-parent": image.parent})

    def _format(self):
        """What XCP-ng's SM notes of each VDI in its sm_config."""
        return {"image-format": self.vdi_type} if cowutil else {}

    def _noted(self):
        """What its SM notes in the sm_config of a new VDI, its parent aside."""
        return self._format()

    def _rounded(self, size):
        if cowutil and self.vdi_type in cowutil.FORMATS:
            return cowutil.rounded(self.vdi_type, size)
        return util.roundup(qcow2util.SIZE_UNIT, size)

    def update(self, sr_uuid, vdi_uuid):
        self.sm_config = self.session.xenapi.VDI.get_sm_config(self.sr.srcmd.params["vdi_ref"])
        self._db_update()

    def introduce(self, sr_uuid, vdi_uuid):
        self._db_introduce()
        return self.get_params()

    def delete(self, sr_uuid, vdi_uuid, data_only=False):
        self._remove()
        if not data_only:
            self._db_forget()
        self.sr._update(sr_uuid, -self.size)
        self.sr.lock.cleanupAll(vdi_uuid)
        if not data_only:  # in that the SR is not locked
            self.sr._kick_collector()
            self._delete_tracking(sr_uuid, vdi_uuid)

    def resize(self, sr_uuid, vdi_uuid, size):
        if self.hidden:
            raise xs_errors.XenError("VDIUnavailable", opterr="hidden VDI")
        if size < self.size:
            raise xs_errors.XenError("VDISize", opterr="shrinking not allowed")
        old = self.size
        self._grow(self._rounded(size))
        self._query()
        self._db_update()
        self.sr._update(sr_uuid, self.size - old)
        self.resize_cbt(sr_uuid, vdi_uuid, self.size)
        return self.get_params()

    def clone(self, sr_uuid, vdi_uuid):
        return self._do_snapshot(sr_uuid, vdi_uuid, VDI.SNAPSHOT_DOUBLE)

    def compose(self, sr_uuid, vdi1, vdi2):
        self._put_on(vdi1)
        self.session.xenapi.VDI.set_managed(self.sr.srcmd.params["args"][0], False)
        if not blktap2.VDI.tap_refresh(self.session, sr_uuid, vdi2):
            raise util.SMException("failed to refresh VDI %s" % self.uuid)

    def _pause_to_snapshot(self):
        """Pause its tapdisk, wherever it runs, unless no snapshot can be taken. Raises VDIClone,
        SnapshotChainTooLong, SMException."""
        if self.hidden:
            raise xs_errors.XenError("VDIClone", opterr="hidden VDI")
        if self._depth() >= qcow2util.MAX_CHAIN_SIZE:
            raise xs_errors.XenError("SnapshotChainTooLong")
        if not blktap2.VDI.tap_pause(self.session, self.sr.uuid, self.uuid):
            raise util.SMException("failed to pause VDI %s" % self.uuid)

    def _end_fork(self, snap_type, introduced):
        """Tell xapi what it is based on since a snapshot was taken. Returns the answer: the first
        of the VDIs that were introduced, the snapshot if there is one."""
        self._note_base()
        if snap_type != VDI.SNAPSHOT_INTERNAL:
            self.sr._update(self.sr.uuid, self.size)
        return introduced[0].get_params()

    def _note_base(self):
        self._write_sm_config("vhd-parent", self.parent)

    def _write_sm_config(self, key, value):
        """Write a key of the sm_config in xapi's record, whatever was there."""
        ref = self.sr.srcmd.params["vdi_ref"]
        self.session.xenapi.VDI.remove_from_sm_config(ref, key)
        self.session.xenapi.VDI.add_to_sm_config(ref, key, value)


def introduce_fork(vdis):
    """Tell xapi of the VDIs that a snapshot has made: the snapshot, the base, or both."""
    for vdi in vdis:
        vdi.sm_config = vdi._noted()
        if vdi.parent:
            vdi.sm_config["vhd-parent"] = vdi.parent
        if vdi.hidden:
            vdi.label = "base copy"
            vdi.read_only = True
        ref = vdi._db_introduce()
        if vdi.hidden:
            vdi.session.xenapi.VDI.set_managed(ref, False)
