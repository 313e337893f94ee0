# SPDX-License-Identifier: LGPL-2.1-only
"""SR type `lvm`: a volume group VG_XenStorage-<SR> on a local device, a logical volume for each
image.

Images are QCOW2 (`QCOW2-<uuid>`), VHDs (`VHD-<uuid>`, in XCP-ng's layout alone) or raw
(`LV-<uuid>`, asked for by sm_config:type=raw). `allocation`, in sm_config or device_config: "thick"
(the default) gives an image the space that it may ever need, "thin" only while it is attached to be
written to. A snapshot turns the leaf's volume into a hidden base, shrunk to what is in it (XCP-ng's
QCOW2 images are not), with two children. The images of a chain are active exactly while a leaf of
it is attached.

Where upstream has a metadata volume and a journal, here are the volumes' tags (lvutil, lvimage,
lvfork). Only the SR's master uses it: the lab shares no volume group between hosts. Upstream's can
track changed blocks (VDI_CONFIG_CBT), with a volume for each log; this one refuses.
"""

import os

from sm import SR, VDI, SRCommand, blktap2, image_sr, lvfork, lvimage, lvutil, qcow2util, refcounter
from sm.core import util, xs_errors

try:
    from sm import cowutil
except ImportError:  # not XCP-ng's
    cowutil = None

DRIVER_INFO = dict(
    image_sr.DRIVER_INFO,
    name="Local QCOW2 on LVM",
    description="SR plugin which represents disks as QCOW2 images on logical volumes within a "
    "locally-attached volume group",
    capabilities=image_sr.CAPABILITIES,
    configuration=[["device", "local device path (required) (e.g. /dev/sda3)"]],
)

OPS_EXCLUSIVE = [
    "sr_create",
    "sr_delete",
    "sr_attach",
    "sr_detach",
    "sr_scan",
    "sr_update",
    "vdi_create",
    "vdi_delete",
    "vdi_resize",
    "vdi_snapshot",
    "vdi_clone",
]
PROVISIONING_TYPES = ("thin", "thick")


class LVHDSR(image_sr.ImageSR):
    """A volume group of images."""

    @staticmethod
    def handles(srtype):
        return srtype == "lvm"

    def load(self, sr_uuid):
        super(LVHDSR, self).load(sr_uuid)
        self.ops_exclusive = OPS_EXCLUSIVE
        self.isMaster = self.dconf.get("SRmaster") == "true"
        self.journaler = lvfork.Journaler(lvutil.VG_PREFIX + sr_uuid)
        self.vgname = lvutil.VG_PREFIX + sr_uuid
        self.path = os.path.join(lvutil.VG_LOCATION, self.vgname)
        self.provision = self._provisioning()

    def _provisioning(self):
        """`allocation` of sm_config goes before that of device_config. Raises InvalidArg."""
        sm_config = {}
        if self.sr_ref and self.session:
            sm_config = self.session.xenapi.SR.get_sm_config(self.sr_ref)
        wanted = sm_config.get("allocation") or self.dconf.get("allocation") or "thick"
        if wanted not in PROVISIONING_TYPES:
            raise xs_errors.XenError(
                "InvalidArg",
                opterr="Allocation parameter must be one of %s" % (PROVISIONING_TYPES,),
            )
        return wanted

    def devices(self):
        """The devices of the volume group, to make it. Raises ConfigDeviceMissing."""
        if not self.dconf.get("device"):
            raise xs_errors.XenError("ConfigDeviceMissing")
        return self.dconf["device"].split(",")

    def create(self, sr_uuid, size):
        devices = self.devices()
        missing = [device for device in devices if not os.path.exists(device)]
        if missing:
            raise xs_errors.XenError("InvalidDev", opterr=", ".join(missing))
        with util.failing_as("LVMGroupCreate"):
            lvutil.createVG(devices, self.vgname)

    def delete(self, sr_uuid):
        self._collect_garbage()
        if self.images():
            raise xs_errors.XenError("SRNotEmpty", opterr="VDIs still exist in SR")
        with util.failing_as("LVMDelete"):
            lvutil.removeVG(self.vgname)

    def attach(self, sr_uuid):
        self._recover()

    def _recover(self):
        """Undo the snapshots that were killed. Raises SRUnavailable."""
        if not lvutil.checkVG(self.vgname):
            raise xs_errors.XenError(
                "SRUnavailable", opterr="no such volume group: %s" % self.vgname
            )
        lvfork.recover(self.vgname)

    def detach(self, sr_uuid):
        if not lvutil.checkVG(self.vgname):
            return
        active = [image.path for image in self.images().values() if image.active]
        self._require_closed()
        if active:
            with util.failing_as("SRInUse"):
                lvutil.deactivate(*active)
        refcounter.reset(self.uuid)

    def scan(self, sr_uuid):
        self._recover()
        self._add_vdis(self._collect_garbage(), lambda uuid, image: LVHDVDI(self, uuid, image))
        super(LVHDSR, self).scan(sr_uuid)

    def _measure(self):
        self.physical_size, free = lvutil.getVGstats(self.vgname)
        self.physical_utilisation = self.physical_size - free

    def vdi(self, uuid):
        return LVHDVDI(self, uuid)

    def images(self):
        """The images of the volume group: uuid -> lvimage.Image. A group that is not there has
        none."""
        return lvimage.getAll(self.vgname)

    def ensure_space(self, size):
        """Raises SRNoSpace unless `size` bytes are free."""
        _, free = lvutil.getVGstats(self.vgname)
        if free < size:
            raise xs_errors.XenError("SRNoSpace", opterr="%d bytes needed, %d free" % (size, free))

    def _collect_garbage(self):
        """Remove the bases that nothing is based on any more, and has active. Returns the images
        that are left."""
        return lvimage.collect_garbage(
            self.vgname, lambda image: refcounter.holders(self.uuid, image.uuid)
        )


class LVHDVDI(image_sr.ImageVDI):
    """An image on a logical volume."""

    def __init__(self, sr, uuid, image=None):
        self._image = image
        super(LVHDVDI, self).__init__(sr, uuid)

    def load(self, vdi_uuid):
        image = self._image or self.sr.images().get(vdi_uuid)
        self.exists = image is not None
        if self.exists:
            self._take(image)
        elif self.sr.srcmd.cmd in ("vdi_create", "vdi_delete"):
            asked = self.sr.srcmd.params.get("vdi_sm_config", {})
            creating = self.sr.srcmd.cmd == "vdi_create"
            if cowutil and creating and (asked.get("image-format") or asked.get("type")):
                # XCP-ng's LVMSR.py, since 0147-feat-use-preferred-image-formats-as-a-list.patch:
                # load() sets no type where one is asked for, and looks up a prefix for "".
                raise KeyError("")
            self.vdi_type = asked.get("type", qcow2util.VDI_TYPE)
            if cowutil and self.vdi_type != lvimage.RAW:
                size = int((self.sr.srcmd.params.get("args") or ["0"])[0])
                self.vdi_type = cowutil.chosen(asked, self.sr.dconf, size)
            if self.vdi_type not in lvimage.PREFIXES:
                raise xs_errors.XenError("VDIType", opterr="Invalid VDI type %s" % self.vdi_type)
            self.path = os.path.join(self.sr.path, lvimage.name(self.vdi_type, vdi_uuid))
        else:
            raise xs_errors.XenError("VDIUnavailable", opterr="VDI %s not found" % vdi_uuid)

    def _take(self, image):
        self._image = image
        self.path = image.path
        self.vdi_type = image.kind
        self.size = image.virtual_size
        self.utilisation = image.size
        self._found(image)

    def _noted(self):
        return dict(self._format(), vdi_type=self.vdi_type)

    def _query(self):
        self._take(self.sr.images()[self.uuid])

    def create(self, sr_uuid, vdi_uuid, size):
        if not self.sr.isMaster:
            raise xs_errors.XenError("LVMMaster")
        if self.exists:
            raise xs_errors.XenError("VDIExists")
        size = self._rounded(size)
        volume = lvimage.volume_size(self.vdi_type, size, self.sr.provision == "thin")
        self.sr.ensure_space(volume)
        lvimage.create(self.path, self.vdi_type, size, volume)
        lvutil.deactivate(self.path)
        self._query()
        self.sm_config = self._noted()
        if self.vdi_type == lvimage.RAW:
            self.sm_config["type"] = self.vdi_type
        self._db_introduce()
        self.sr._update(sr_uuid, self.size)
        return self.get_params()

    def _remove(self):
        if self.exists:
            if not self.session.xenapi.VDI.get_managed(self.sr.srcmd.params["vdi_ref"]):
                raise xs_errors.XenError("VDIDelete", opterr="Deleting non-leaf node not permitted")
            if refcounter.holders(self.sr.uuid, self.uuid):
                raise xs_errors.XenError("VDIInUse")
            lvutil.remove(self.path)

    def attach(self, sr_uuid, vdi_uuid):
        """Activate the chain, a writable leaf at its full size."""
        writable = "args" not in self.sr.srcmd.params or self.sr.srcmd.params["args"][0] == "true"
        self.sr.lock.acquire()
        try:
            if writable:
                self._inflate()
            self._activate_chain()
        finally:
            self.sr.lock.release()
        self.attached = True
        self.xenstore_data.update({"storage-type": "lvm", "vdi-type": self.vdi_type})
        return super(LVHDVDI, self).attach(sr_uuid, vdi_uuid)

    def detach(self, sr_uuid, vdi_uuid):
        """Deactivate what nobody else needs of the chain. Snapshots are always shrunk, on a thin SR
        every image is."""
        self.sr.lock.acquire()
        try:
            self._query()
            if self._image.active and (self.sr.provision == "thin" or self.is_snapshot_for_xapi()):
                self._deflate()
            self._deactivate_chain()
        finally:
            self.sr.lock.release()
        self.attached = False

    def is_snapshot_for_xapi(self):
        """Whether xapi has it as a snapshot."""
        return self.session.xenapi.VDI.get_is_a_snapshot(self.sr.srcmd.params["vdi_ref"])

    def _inflate(self):
        full = lvimage.volume_size(self.vdi_type, self.size, thin=False)
        if self.utilisation >= full:
            return
        with util.failing_as("LVMProvisionAttach"):
            self.sr.ensure_space(full - self.utilisation)
            lvutil.resize(self.path, full)
        self._sized(full)

    def _deflate(self):
        if not lvimage.is_deflated(self.vdi_type):
            return
        needed = lvimage.used_size(self.path)
        if needed < self.utilisation:
            lvutil.resize(self.path, needed)
            self._sized(needed)

    def _sized(self, size):
        self.utilisation = size
        self.session.xenapi.VDI.set_physical_utilisation(self.sr.srcmd.params["vdi_ref"], str(size))

    def _activate_chain(self):
        images = self.sr.images()
        chain = lvimage.chain(images, self.uuid)
        for image in chain:
            refcounter.get(self.sr.uuid, image.uuid, self.uuid)
        lvutil.activate(*[image.path for image in chain])

    def _deactivate_chain(self):
        idle = [
            uuid
            for uuid in refcounter.held(self.sr.uuid, self.uuid)
            if not refcounter.put(self.sr.uuid, uuid, self.uuid)
        ]
        images = self.sr.images()
        paths = [images[uuid].path for uuid in idle if uuid in images and images[uuid].active]
        if paths:
            lvutil.deactivate(*paths)

    def _grow(self, size):
        if self.vdi_type == lvimage.RAW or self.sr.provision == "thick":
            volume = lvimage.volume_size(self.vdi_type, size, thin=False)
            self.sr.ensure_space(volume - self.utilisation)
            if volume > self.utilisation:
                lvutil.resize(self.path, volume)
        lvimage.set_virtual_size(self._image, size)

    def _put_on(self, uuid):
        parent = self.sr.images()[uuid]
        self.sr.lock.acquire()
        try:
            lvimage.set_parent(self._image, parent)
            lvutil.change(parent.path, add={lvimage.HIDDEN: ""})
        finally:
            self.sr.lock.release()

    def _depth(self):
        return len(lvimage.chain(self.sr.images(), self.uuid))

    def _do_snapshot(self, sr_uuid, vdi_uuid, snapType, cloneOp=False, secondary=None, cbtlog=None):
        if not self.sr.isMaster:
            raise xs_errors.XenError("LVMMaster")
        self._pause_to_snapshot()
        try:
            answer = self._snapshot(snapType)
        except Exception:
            try:
                blktap2.VDI.tap_unpause(self.session, sr_uuid, vdi_uuid, None)
            except Exception as error:
                util.SMlog(
                    "WARNING: failed to clean up failed snapshot: %s (error ignored)" % error
                )
            raise
        self.disable_leaf_on_secondary(vdi_uuid, secondary=secondary)
        blktap2.VDI.tap_unpause(self.session, sr_uuid, vdi_uuid, secondary)
        return answer

    def _snapshot(self, snap_type):
        """Fork the chain. Killed at any step, the next scan undoes it (lvfork.recover)."""
        config = self.session.xenapi.VDI.get_sm_config(self.sr.srcmd.params["vdi_ref"])
        if config.get("type") == lvimage.RAW:
            raise xs_errors.XenError(
                "Unimplemented", opterr="Raw VDI, snapshot or clone not permitted"
            )
        base = util.gen_uuid()
        snapshot = util.gen_uuid() if snap_type == VDI.SNAPSHOT_DOUBLE else None
        lvfork.fork(self, base, snapshot)
        return self._introduce_fork(snap_type, snapshot, base)

    def _introduce_fork(self, snap_type, snapshot, base):
        """Tell xapi of the new VDIs. Returns the answer: the snapshot, or the base where there is
        no other."""
        images = self.sr.images()
        introduced = [LVHDVDI(self.sr, uuid, images[uuid]) for uuid in (snapshot, base) if uuid]
        image_sr.introduce_fork(introduced)
        self._take(images[self.uuid])
        return self._end_fork(snap_type, introduced)

    def _note_base(self):
        super(LVHDVDI, self)._note_base()
        self._write_sm_config("vdi_type", self.vdi_type)
        self._sized(self.utilisation)


if __name__ == "__main__":  # the flat layout: this file is the driver
    SRCommand.run(LVHDSR, DRIVER_INFO)
else:
    SR.registerSR(LVHDSR)
