# SPDX-License-Identifier: LGPL-2.1-only
"""VMs with a disk that is not as the others: it is read-only, or not plugged."""

import os
import subprocess

from lab.pools import at_switch, vms
from tests.e2e.scene import MIB, Scene, assert_nothing_older

QEMU_IMG = 60.0
DISKS = (48 * MIB, 12 * MIB)
KIND = "1"
"""The device of the disk that is not as the others."""


class Kinds(Scene):
    """A VM with a writable disk, and one more of which it has written a part before, and which is
    of another kind now."""

    def __init__(self, lab, disks=DISKS):
        super().__init__(lab, disks)
        self.taken = self.guest.records()
        self.halt()
        self._before = os.path.join(lab.directory, "before-%s.raw" % self.uuid)
        with at_switch.image(lab.directory, self.locator) as image:
            run("convert", "-U", "-O", "raw", image, self._before)
        self.make()

    @property
    def vm(self):
        return self.pool.xapi.VM.get_by_uuid(self.uuid)

    @property
    def vbd(self):
        """The ref of that disk's VBD."""
        api = self.pool.xapi.VBD
        (found,) = [ref for ref in self.record["VBDs"] if api.get_userdevice(ref) == KIND]
        return found

    @property
    def vdi(self):
        """The record of that disk's VDI."""
        return self.pool.xapi.VDI.get_record(self.pool.xapi.VBD.get_VDI(self.vbd))

    @property
    def locator(self):
        """As xenopsd has it."""
        vdi = self.vdi
        return "%s/%s" % (self.pool.xapi.SR.get_uuid(vdi["SR"]), vdi["location"])

    def halt(self):
        self.pool.xapi.VM.clean_shutdown(self.vm)

    def start(self):
        """Where its disks are."""
        self.pool.start_vm(self.vm, self.host.name)
        self.wait_for_writes(20)

    def assert_as_before(self):
        """It runs, and the disk is of its kind, and what it was."""
        self.assert_runs()
        self.assert_disk()
        self.assert_nothing_left()

    def assert_disk(self):
        """The disk is of its kind, and what it was."""
        self.assert_kind(self.pool.xapi.VBD.get_record(self.vbd))
        with at_switch.image(self.lab.directory, self.locator) as image:
            run("compare", "-U", image, self._before)


class ReadOnly(Kinds):
    """It has it read-only."""

    plugged = True

    def make(self):
        self.pool.xapi.VBD.set_mode(self.vbd, "RO")
        self.start()

    def assert_kind(self, vbd):
        assert (vbd["mode"], vbd["currently_attached"]) == ("RO", True)
        assert_nothing_older(self.guest.records(), self.taken)


class Unplugged(Kinds):
    """It has it not plugged."""

    plugged = False

    def make(self):
        vdi = self.pool.xapi.VBD.get_VDI(self.vbd)
        self.pool.xapi.VBD.destroy(self.vbd)
        self.start()
        vms.attach_disk(self.pool.xapi, self.vm, vdi, int(KIND))

    def assert_kind(self, vbd):
        assert (vbd["mode"], vbd["currently_attached"]) == ("RW", False)


def run(*arguments):
    line = ["qemu-img"] + list(arguments)
    subprocess.run(line, stdout=subprocess.DEVNULL, check=True, timeout=QEMU_IMG)
