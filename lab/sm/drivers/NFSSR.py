# SPDX-License-Identifier: LGPL-2.1-only
"""SR type `nfs`: the directory <serverpath>/<SR> of an NFS server."""

import os

from sm import SR, SRCommand, mounts
from sm.core import util, xs_errors
from sm.drivers import FileSR

DRIVER_INFO = dict(
    FileSR.DRIVER_INFO,
    name="NFS QCOW2",
    description="SR plugin which stores disks as QCOW2 files on a remote NFS filesystem",
    configuration=[
        ["server", "hostname or IP address of NFS server (required)"],
        ["serverpath", "path on remote server (required)"],
        ["nfsversion", "for protocol version, 3, 4, 4.0, 4.1 (default: 3)"],
        ["options", "options for mount, after sm's own"],
    ],
)
# Soft mounts, as upstream: an I/O error instead of a host that hangs. Its caching options, too.
OPTIONS = "soft,proto=tcp,vers=%s,acdirmin=0,acdirmax=0,nolock"


class NFSSR(FileSR.FileSR):
    """A directory of images, on an NFS server."""

    REQUIRED = (("server", "ConfigServerMissing"), ("serverpath", "ConfigServerPathMissing"))

    @staticmethod
    def handles(srtype):
        return srtype == "nfs"

    def load(self, sr_uuid):
        super(NFSSR, self).load(sr_uuid)
        self.options = OPTIONS % self.dconf.get("nfsversion", "3")
        if self.dconf.get("options"):
            self.options += "," + self.dconf["options"]

    def create(self, sr_uuid, size):
        self._at_the_top(os.makedirs)
        # the server's directory is there now, and nothing is mounted

    def delete(self, sr_uuid):
        super(NFSSR, self).delete(sr_uuid)
        self._at_the_top(os.rmdir)

    def _at_the_top(self, change):
        """Mount the server's own directory for as long as `change` makes or removes the SR's
        directory in it."""
        if self._attached():
            raise xs_errors.XenError("NFSAttached")
        self._mount_path(self.dconf["serverpath"])
        try:
            change(os.path.join(self.path, self.uuid))
        except OSError as error:
            raise xs_errors.XenError("NFSCreate", opterr=str(error))
        finally:
            self._unmount()

    def _remote_path(self):
        return os.path.join(self.dconf["serverpath"], self.uuid)

    def _attached(self):
        return mounts.mounted(self.path)

    def _mount(self):
        self._mount_path(self.remotepath)

    def _mount_path(self, remote):
        with util.failing_as("NFSMount"):
            mounts.mount("%s:%s" % (self.dconf["server"], remote), self.path, "nfs", self.options)

    def _unmount(self):
        with util.failing_as("NFSUnMount"):
            mounts.unmount(self.path)


if __name__ == "__main__":  # the flat layout: this file is the driver
    SRCommand.run(NFSSR, DRIVER_INFO)
else:
    SR.registerSR(NFSSR)
