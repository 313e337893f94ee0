# SPDX-License-Identifier: LGPL-2.1-only
"""SR type `xfs`: a local device with a volume group, in it one logical volume with an XFS. XCP-ng's
alone.

Instead of the device the lab has a location, as of type `file`: a file system of its own it cannot
make everywhere."""

from sm import SR, SRCommand
from sm.drivers import FileSR

DRIVER_INFO = dict(
    FileSR.DRIVER_INFO,
    name="Local XFS QCOW2",
    capabilities=FileSR.CAPABILITIES + ["SR_PROBE"],
    description="SR plugin which represents disks as QCOW2 files on a local XFS",
)


class XFSSR(FileSR.FileSR):
    """A directory of images."""

    @staticmethod
    def handles(srtype):
        return srtype == "xfs"


if __name__ == "__main__":  # the flat layout: this file is the driver
    SRCommand.run(XFSSR, DRIVER_INFO)
else:
    SR.registerSR(XFSSR)
