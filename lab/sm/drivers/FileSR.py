# SPDX-License-Identifier: LGPL-2.1-only
"""SR type `file`: a directory of QCOW2 images, one chain for each VDI.

A snapshot turns the leaf into a hidden base, `<new uuid>.qcow2`, with two children: the new leaf,
under the VDI's own name, and the snapshot. Nothing is mounted, since the lab has no privileges for
that: /run/sr-mount/<SR> is a symbolic link to the location.
"""

import os

from sm import SR, VDI, SRCommand, blktap2, cbtutil, chains, image_sr, qcow2util, tracking
from sm.core import util, xs_errors
from sm.core.lock import Lock
from sm.journaler import RELINK, Journaler

try:
    from sm import cowutil
except ImportError:  # not XCP-ng's
    cowutil = None

CAPABILITIES = image_sr.CAPABILITIES + ["THIN_PROVISIONING", tracking.CAPABILITY]

DRIVER_INFO = dict(
    image_sr.DRIVER_INFO,
    name="Local Path QCOW2",
    description="SR plugin which represents disks as QCOW2 files stored on a local path",
    capabilities=CAPABILITIES,
    configuration=[["location", "local directory path (required)"]],
)

OPS_EXCLUSIVE = [
    "sr_create",
    "sr_delete",
    "sr_probe",
    "sr_attach",
    "sr_detach",
    "sr_scan",
    "vdi_init",
    "vdi_create",
    "vdi_delete",
    "vdi_attach",
    "vdi_detach",
    "vdi_resize_online",
    "vdi_snapshot",
    "vdi_clone",
]


LOG_EXTN = "." + cbtutil.CBTLOG_TAG


class FileSR(image_sr.ImageSR):
    """A directory of images."""

    REQUIRED = (("location", "ConfigLocationMissing"),)

    @staticmethod
    def handles(srtype):
        return srtype == "file"

    def load(self, sr_uuid):
        super(FileSR, self).load(sr_uuid)
        self.ops_exclusive = OPS_EXCLUSIVE
        self.remotepath = self._remote_path()
        self.path = os.path.join(SR.MOUNT_BASE, sr_uuid)

    def create(self, sr_uuid, size):
        try:
            os.makedirs(self.remotepath, exist_ok=True)
            if os.listdir(self.remotepath):
                raise xs_errors.XenError("SRExists", opterr="%s is not empty" % self.remotepath)
        except OSError as error:
            raise xs_errors.XenError("FileSRCreate", opterr=str(error))

    def delete(self, sr_uuid):
        self.attach(sr_uuid)
        self._collect_garbage()
        if qcow2util.getAll(self.path):
            raise xs_errors.XenError("SRNotEmpty", opterr="VDIs still exist in SR")
        self.detach(sr_uuid)

    def attach(self, sr_uuid):
        if not self._attached():
            self._mount()

    def detach(self, sr_uuid):
        if not self._attached():
            return
        self._require_closed()
        self._unmount()

    # How the directory comes to be at `path`: what differs between the types of SR that keep their
    # images in one.

    def _remote_path(self):
        """What is mounted at `path`."""
        return self.dconf["location"]

    def _attached(self):
        return os.path.islink(self.path) and os.readlink(self.path) == self.remotepath

    def _mount(self):
        if not os.path.isdir(self.remotepath):
            raise xs_errors.XenError(
                "SRUnavailable", opterr="no such directory %s" % self.remotepath
            )
        os.makedirs(SR.MOUNT_BASE, exist_ok=True)
        try:
            os.symlink(self.remotepath, self.path)
        except OSError as error:
            raise xs_errors.XenError(
                "FileSRCreate", opterr="fail to create mount point: %s" % error
            )

    def _unmount(self):
        os.unlink(self.path)

    def scan(self, sr_uuid):
        if not self._attached():
            raise xs_errors.XenError("SRUnavailable", opterr="no such directory %s" % self.path)
        self._kick_collector()
        self._loadvdis()
        super(FileSR, self).scan(sr_uuid)

    def _measure(self):
        self.physical_size = util.get_fs_size(self.path)
        self.physical_utilisation = util.get_fs_utilisation(self.path)

    def vdi(self, uuid):
        return FileVDI(self, uuid)

    def _loadvdis(self):
        self._add_vdis(qcow2util.getAll(self.path), lambda uuid, _: self.vdi(uuid))
        for name in os.listdir(self.path):
            uuid, extension = os.path.splitext(name)
            if extension == LOG_EXTN:
                if uuid not in self.vdis:  # a snapshot whose data have been destroyed
                    self.vdis[uuid] = self.vdi(uuid)
                    self.vdis[uuid].ty = "cbt_metadata"
                self.vdis[uuid].cbt_enabled = True

    def _kick_collector(self):
        """Upstream starts its garbage collector in the background here. What that does besides
        removing images, merging them, is left to the lab's own (cleanup.py), which runs when
        somebody says so: no test is to meet it by accident. Of one SR no two run: beside it nothing
        is removed here, or it would miss an image that it merges."""
        if self.session.xenapi.SR.get_other_config(self.sr_ref).get("gc") == "false":
            return
        active = Lock(qcow2util.LOCK_TYPE_GC_ACTIVE, self.uuid)
        if not active.acquireNoblock():
            util.SMlog("Another GC instance already active")
            return
        try:
            self._collect_garbage()
        finally:
            active.release()

    def _collect_garbage(self):
        """Remove hidden bases that nothing is based on any more, and has open. Called with the SR
        locked."""
        open_here = {tapdisk.path for tapdisk in blktap2.Tapdisk.list()}
        for image in chains.garbage(
            chains.read(self.path, force=True), Journaler(self.path).all(RELINK)
        ):
            if image.path not in open_here:
                util.SMlog("Removing unreferenced base %s" % image.uuid)
                qcow2util.delete(image.path)


class FileVDI(image_sr.ImageVDI):
    """An image of the directory, `<uuid>.qcow2`."""

    def load(self, vdi_uuid):
        self.path = qcow2util.pathOf(self.sr.path, vdi_uuid)
        self.vdi_type = qcow2util.typeOf(self.path)
        self.exists = os.path.exists(self.path)
        log = os.path.join(self.sr.path, vdi_uuid + LOG_EXTN)
        if not self.exists and os.path.exists(log) and self.sr.srcmd.cmd != "vdi_create":
            self.path, self.vdi_type, self.exists = log, cbtutil.CBTLOG_TAG, True
            self.size = self.utilisation = os.stat(log).st_size
            return
        if not self.exists:
            if self.sr.srcmd.cmd in ("vdi_create", "vdi_delete"):
                return
            raise xs_errors.XenError("VDIUnavailable", opterr="VDI %s not found" % vdi_uuid)
        self._query()

    def _query(self):
        try:
            info = qcow2util.getInfo(self.path)
        except (OSError, util.CommandException) as error:
            raise xs_errors.XenError(
                "VDILoad", opterr="Failed load VDI information %s: %s" % (self.path, error)
            )
        self.size = info.size_virt
        self.utilisation = info.size_phys
        self._found(info)

    def update(self, sr_uuid, vdi_uuid):
        self.load(vdi_uuid)
        super(FileVDI, self).update(sr_uuid, vdi_uuid)

    def create(self, sr_uuid, vdi_uuid, size):
        asked = self.sr.srcmd.params.get("vdi_sm_config", {})
        if cowutil:
            self.vdi_type = cowutil.chosen(asked, self.sr.dconf, size)
            self.path = os.path.join(self.sr.path, "%s.%s" % (vdi_uuid, self.vdi_type))
        elif asked.get("type", self.vdi_type) != self.vdi_type:
            raise xs_errors.XenError("VDIType", opterr="Invalid VDI type %s" % asked["type"])
        if self.exists:
            raise xs_errors.XenError("VDIExists")
        qcow2util.create(self.path, self._rounded(size))
        self._query()
        self.sm_config = self._format()
        self._db_introduce()
        self.sr._update(sr_uuid, self.size)
        return self.get_params()

    def _remove(self):
        """Looks for no tapdisk that has it open, as the real one does not (FileSR.py, delete)."""
        qcow2util.delete(self.path)

    def attach(self, sr_uuid, vdi_uuid):
        self.attached = True
        self.xenstore_data["storage-type"] = "ext"
        return super(FileVDI, self).attach(sr_uuid, vdi_uuid)

    def detach(self, sr_uuid, vdi_uuid):
        self.attached = False

    def _grow(self, size):
        qcow2util.setSizeVirt(self.path, size)

    def _put_on(self, uuid):
        parent = qcow2util.pathOf(self.sr.path, uuid)
        qcow2util.setParent(self.path, parent)
        qcow2util.setHidden(parent)

    def _depth(self):
        return qcow2util.getDepth(self.path)

    def _do_snapshot(self, sr_uuid, vdi_uuid, snapType, cloneOp=False, secondary=None, cbtlog=None):
        if self.vdi_type == cbtutil.CBTLOG_TAG:
            raise xs_errors.XenError("Unimplemented")
        closed = bool(cbtlog) and not blktap2.VDI.tap_status(self.session, vdi_uuid)
        self._pause_to_snapshot()
        try:
            return self._snapshot(snapType, cbtlog, closed)
        finally:
            self.disable_leaf_on_secondary(vdi_uuid, secondary=secondary)
            blktap2.VDI.tap_unpause(self.session, sr_uuid, vdi_uuid, secondary)

    def _snapshot(self, snap_type, cbtlog=None, closed=False):
        """Fork the chain. Killed at any step this leaves the VDI as it was, and at most a base for
        the collector. `cbtlog`: its log, if it is tracked; `closed`: whether it is active nowhere.
        """
        snapshot = util.gen_uuid() if snap_type == VDI.SNAPSHOT_DOUBLE else None
        extension = os.path.splitext(self.path)[1]
        if snapshot and self.parent and qcow2util.isEmpty(self.path):
            base = None  # nothing written since the last one: the snapshot can sit beside this leaf
            parent = qcow2util.pathOf(self.sr.path, self.parent)
        else:
            base = util.gen_uuid()
            parent = os.path.join(self.sr.path, base + extension)
            qcow2util.setHidden(parent)  # first: a base must never be seen as a VDI
            os.link(self.path, parent)
            leaf = self.path + ".new"
            qcow2util.delete(leaf)
            qcow2util.snapshot(leaf, parent, self.size)
            os.rename(leaf, self.path)
        if snapshot:
            qcow2util.snapshot(os.path.join(self.sr.path, snapshot + extension), parent, self.size)
        introduced = [self.sr.vdi(uuid) for uuid in (snapshot, base) if uuid]
        if snapshot and cbtlog:
            introduced[0].cbt_enabled = True
        image_sr.introduce_fork(introduced)
        self._query()
        if snapshot and cbtlog:
            self._cbt_snapshot(snapshot, closed)
        return self._end_fork(snap_type, introduced)

    # The log of changed blocks.

    def _create_cbt_log(self):
        open(self._get_cbt_logpath(self.uuid), "w").close()
        return super(FileVDI, self)._create_cbt_log()

    def _delete_cbt_log(self):
        logpath = self._get_cbt_logpath(self.uuid)
        if os.path.exists(logpath):
            os.unlink(logpath)

    def _cbt_log_exists(self, logpath):
        return util.pathexists(logpath)

    def _rename(self, old, new):
        os.rename(old, new)


if __name__ == "__main__":  # the flat layout: this file is the driver
    SRCommand.run(FileSR, DRIVER_INFO)
else:
    SR.registerSR(FileSR)
