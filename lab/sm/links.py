# SPDX-License-Identifier: LGPL-2.1-only
"""The well-known names of an attached VDI's image, and of an active one's NBD socket: upstream has
them in blktap2."""

import os
import re

import lab_dom0


class Link(object):
    """A symbolic link under a name that follows from the VDI, to what is only known once it is
    attached."""

    BASEDIR = None

    def __init__(self, path):
        self._path = path

    @classmethod
    def from_uuid(cls, sr_uuid, vdi_uuid):
        """The link of a VDI."""
        return cls(os.path.join(cls.BASEDIR, sr_uuid, vdi_uuid))

    def path(self):
        """Where the link is."""
        return self._path

    def readlink(self):
        """Where it leads. Raises OSError if it is not there."""
        return os.readlink(self._path)

    def mklink(self, target):
        """Make the link. It may be there already, but must not lead elsewhere."""
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        try:
            os.symlink(target, self._path)
        except FileExistsError:
            assert self.readlink() == target, "%s does not lead to %s" % (self._path, target)

    def unlink(self):
        """Remove the link, if it is there."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass


class PhyLink(Link):
    """To the image of an attached VDI."""

    BASEDIR = lab_dom0.path("/dev/sm/phy")


class NBDLink(Link):
    """To the NBD socket of an active VDI's tapdisk."""

    BASEDIR = lab_dom0.path("/run/blktap-control/nbd")

    def read_minor_from_path(self):
        """The minor of the tapdisk whose socket it leads to."""
        match = re.search(r"/nbd\d+\.(\d+)$", os.path.realpath(self._path))
        if not match:
            raise Exception("Failed to parse minor from %s" % self._path)
        return int(match.group(1))
