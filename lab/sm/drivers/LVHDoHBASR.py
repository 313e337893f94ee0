# SPDX-License-Identifier: LGPL-2.1-only
"""SR type `lvmohba`: as `lvm`, on a LUN that a host bus adapter (Fibre Channel) reaches."""

import os

from sm import SR, SRCommand, scsi
from sm.core import util, xs_errors
from sm.drivers import LVHDSR

FC_HOSTS = "/sys/class/fc_host"
APPEAR = 30.0  # seconds for a disk to appear after the rescan

DRIVER_INFO = dict(
    LVHDSR.DRIVER_INFO,
    name="QCOW2 over FC",
    description="SR plugin which represents disks as logical volumes within a volume group on an HBA LUN",  # noqa: E501
    configuration=[["SCSIid", "The scsi_id of the destination LUN"]],
)


def adapters():
    """The Fibre Channel adapters that are online: {"host3": port name}."""
    found = {}
    for host in sorted(os.listdir(FC_HOSTS)) if os.path.isdir(FC_HOSTS) else []:
        if _read(host, "port_state") == "Online":
            found[host] = _read(host, "port_name")
    return found


def rescan():
    """Have every adapter look for its LUNs."""
    for host in adapters():
        with open("/sys/class/scsi_host/%s/scan" % host, "w") as scan:
            scan.write("- - -\n")


def _read(host, attribute):
    with open(os.path.join(FC_HOSTS, host, attribute)) as value:
        return value.read().strip()


class LVHDoHBASR(LVHDSR.LVHDSR):
    """A volume group on a LUN of a host bus adapter."""

    @staticmethod
    def handles(srtype):
        return srtype == "lvmohba"

    def load(self, sr_uuid):
        self.SCSIid = self.dconf.get("SCSIid")
        if not self.SCSIid:
            reached = [scsi_id for scsi_id in scsi.ids() if self._reached(scsi_id)]
            raise xs_errors.XenError(
                "ConfigSCSIid", opterr="reached by an adapter: %s" % ", ".join(reached)
            )
        super(LVHDoHBASR, self).load(sr_uuid)

    @staticmethod
    def _reached(scsi_id):
        """Whether an adapter reaches the disk."""
        found = adapters()
        return any(scsi.host_of(path) in found for path in scsi.paths(scsi_id))

    def devices(self):
        return [scsi.device(self.SCSIid)]

    def create(self, sr_uuid, size):
        self._discover()
        super(LVHDoHBASR, self).create(sr_uuid, size)

    def delete(self, sr_uuid):
        super(LVHDoHBASR, self).delete(sr_uuid)
        scsi.remove(self.SCSIid)

    def attach(self, sr_uuid):
        self._discover()
        super(LVHDoHBASR, self).attach(sr_uuid)

    def _discover(self):
        """Make sure that an adapter reaches the disk. Raises InvalidDev."""
        if not self._reached(self.SCSIid):
            rescan()
            scsi.wait_for(self.SCSIid, APPEAR)
        if not self._reached(self.SCSIid):
            raise xs_errors.XenError(
                "InvalidDev",
                opterr="no adapter of %s reaches %s"
                % (", ".join(sorted(adapters())) or "none", self.SCSIid),
            )
        util.SMlog("%s is %s" % (self.SCSIid, scsi.device(self.SCSIid)))


if __name__ == "__main__":  # the flat layout: this file is the driver
    SRCommand.run(LVHDoHBASR, DRIVER_INFO)
else:
    SR.registerSR(LVHDoHBASR)
