# SPDX-License-Identifier: LGPL-2.1-only
"""SR type `zfs`: a directory of a ZFS, which somebody else has made and mounted. XCP-ng's alone.

What the real one asks of ZFS itself, that it is there and has the location, is left out: the lab
has none."""

from sm import SR, SRCommand
from sm.drivers import FileSR

DRIVER_INFO = dict(
    FileSR.DRIVER_INFO,
    name="Local ZFS QCOW2",
    capabilities=[name for name in FileSR.CAPABILITIES if name != "VDI_UPDATE"],
    description="SR plugin which represents disks as QCOW2 files stored on a ZFS disk",
)


class ZFSSR(FileSR.FileSR):
    """A directory of images."""

    @staticmethod
    def handles(srtype):
        return srtype == "zfs"


if __name__ == "__main__":  # the flat layout: this file is the driver
    SRCommand.run(ZFSSR, DRIVER_INFO)
else:
    SR.registerSR(ZFSSR)
