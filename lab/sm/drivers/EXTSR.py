# SPDX-License-Identifier: LGPL-2.1-only
"""SR type `ext`: a local device with a volume group XSLocalEXT-<SR>, in it one logical volume with
an ext4 file system."""

import os

from sm import SR, SRCommand, lvutil, mounts
from sm.core import util, xs_errors
from sm.drivers import FileSR

DRIVER_INFO = dict(
    FileSR.DRIVER_INFO,
    name="Local EXT QCOW2",
    description="SR plugin which represents disks as QCOW2 files on a local ext4 file system, inside an LVM volume",  # noqa: E501
    configuration=[["device", "local device path (required) (e.g. /dev/sda3)"]],
)


class EXTSR(FileSR.FileSR):
    """A directory of images, on an ext4 file system of its own."""

    REQUIRED = (("device", "ConfigDeviceMissing"),)

    @staticmethod
    def handles(srtype):
        return srtype == "ext"

    def load(self, sr_uuid):
        self.vgname = lvutil.EXT_PREFIX + sr_uuid
        super(EXTSR, self).load(sr_uuid)
        self.devices = self.dconf["device"].split(",")

    def create(self, sr_uuid, size):
        if self._attached():
            raise xs_errors.XenError("SRExists")
        with util.failing_as("LVMCreate"):
            lvutil.createVG(self.devices, self.vgname)
            _, free = lvutil.getVGstats(self.vgname)
            lvutil.create(self.remotepath, free)
        with util.failing_as("LVMFilesystem"):
            util.pread(["mkfs.ext4", "-q", "-F", self.remotepath])

    def delete(self, sr_uuid):
        super(EXTSR, self).delete(sr_uuid)
        with util.failing_as("LVMDelete"):
            lvutil.remove(self.remotepath)
            lvutil.removeVG(self.vgname)

    def _remote_path(self):
        return os.path.join(lvutil.VG_LOCATION, self.vgname, self.uuid)

    def _attached(self):
        return mounts.mounted(self.path)

    def _mount(self):
        with util.failing_as("LVMMount"):
            lvutil.activate(self.remotepath)
            mounts.mount(self.remotepath, self.path, "ext4", "noatime")

    def _unmount(self):
        with util.failing_as("LVMUnMount"):
            mounts.unmount(self.path)
            lvutil.deactivate(self.remotepath)


if __name__ == "__main__":  # the flat layout: this file is the driver
    SRCommand.run(EXTSR, DRIVER_INFO)
else:
    SR.registerSR(EXTSR)
