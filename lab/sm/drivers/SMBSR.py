# SPDX-License-Identifier: LGPL-2.1-only
"""SR type `smb`: the directory <SR> at the top of a share of an SMB server.

The real one mounts the share at /run/sr-mount/SMB/<server>/<share>/<SR>, and /run/sr-mount/<SR> is
a link to the directory in it. In the lab the share is a directory of this machine, `location`, and
the link goes there."""

import os

from sm import SR, SRCommand
from sm.drivers import FileSR

DRIVER_INFO = dict(
    FileSR.DRIVER_INFO,
    name="SMB QCOW2",
    capabilities=FileSR.CAPABILITIES + ["SR_PROBE"],
    description="SR plugin which stores disks as QCOW2 files on a remote SMB share",
)


class SMBSR(FileSR.FileSR):
    """A directory of images, on a share."""

    @staticmethod
    def handles(srtype):
        return srtype == "smb"

    def _remote_path(self):
        return os.path.join(self.dconf["location"], self.uuid)


if __name__ == "__main__":  # the flat layout: this file is the driver
    SRCommand.run(SMBSR, DRIVER_INFO)
else:
    SR.registerSR(SMBSR)
