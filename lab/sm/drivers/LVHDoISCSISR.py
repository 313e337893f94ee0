# SPDX-License-Identifier: LGPL-2.1-only
"""SR type `lvmoiscsi`: as `lvm`, on a LUN of an iSCSI target, which this host is logged in to while
the SR is attached."""

from sm import SR, SRCommand, iscsilib, scsi
from sm.core import util, xs_errors
from sm.drivers import LVHDSR

DEFAULT_PORT = "3260"
APPEAR = 30.0  # seconds for a disk to appear after the login

DRIVER_INFO = dict(
    LVHDSR.DRIVER_INFO,
    name="QCOW2 over iSCSI",
    description="SR plugin which represents disks as logical volumes within a volume group on an iSCSI LUN",  # noqa: E501
    configuration=[
        ["SCSIid", "The scsi_id of the destination LUN"],
        [
            "target",
            "IP address or hostname of the iSCSI target; several, with commas, for multipath",
        ],
        ["targetIQN", "The IQN of the target LUN group to be attached"],
        ["port", "The network port number on which to query the target (default: 3260)"],
    ],
)


class LVHDoISCSISR(LVHDSR.LVHDSR):
    """A volume group on an iSCSI LUN."""

    REQUIRED = (
        ("target", "ConfigTargetMissing"),
        ("targetIQN", "ConfigTargetIQNMissing"),
        ("SCSIid", "ConfigSCSIid"),
    )

    @staticmethod
    def handles(srtype):
        return srtype == "lvmoiscsi"

    def load(self, sr_uuid):
        super(LVHDoISCSISR, self).load(sr_uuid)
        self.targetIQN = self.dconf["targetIQN"]
        self.SCSIid = self.dconf["SCSIid"]

    def devices(self):
        return [scsi.device(self.SCSIid)]

    def create(self, sr_uuid, size):
        self._login()
        try:
            super(LVHDoISCSISR, self).create(sr_uuid, size)
        finally:
            self._logout()

    def delete(self, sr_uuid):
        super(LVHDoISCSISR, self).delete(sr_uuid)
        self._logout()

    def attach(self, sr_uuid):
        self._login()
        try:
            super(LVHDoISCSISR, self).attach(sr_uuid)
        except BaseException:
            self._logout()
            raise

    def detach(self, sr_uuid):
        super(LVHDoISCSISR, self).detach(sr_uuid)
        self._logout()

    def _login(self):
        """Log in at every portal of the target, and wait for the disk. Raises ISCSITarget,
        ISCSILogin, ISCSIDevice."""
        found = []
        for target in self.dconf["target"].split(","):
            try:
                found += iscsilib.discovery(target, self.dconf.get("port", DEFAULT_PORT))
            except util.CommandException as error:
                util.SMlog("Discovery at %s: %s" % (target, error))
        portals = sorted({portal for portal, iqn in found if iqn == self.targetIQN})
        if not portals:
            raise xs_errors.XenError(
                "ISCSITarget", opterr="%s at %s" % (self.targetIQN, self.dconf["target"])
            )
        failed = []
        for portal in portals:
            try:
                iscsilib.login(portal, self.targetIQN)
            except util.CommandException as error:
                failed.append(str(error))
        if len(failed) == len(portals):
            raise xs_errors.XenError("ISCSILogin", opterr="; ".join(failed))
        if scsi.wait_for(self.SCSIid, APPEAR) is None:
            self._logout()
            raise xs_errors.XenError(
                "ISCSIDevice", opterr="no disk %s at %s" % (self.SCSIid, self.targetIQN)
            )

    def _logout(self):
        with util.failing_as("ISCSILogout"):
            iscsilib.logout(self.targetIQN)


if __name__ == "__main__":  # the flat layout: this file is the driver
    SRCommand.run(LVHDoISCSISR, DRIVER_INFO)
else:
    SR.registerSR(LVHDoISCSISR)
