"""A frozen disk, to be read: a snapshot, or the disk of a VM that does not run."""
from storage_motion.dom0 import blktap, images
from storage_motion.dom0.disks.disk import Disk
from storage_motion.dom0.disks.record import Record
from storage_motion.dom0.smapi import ACTIVATING
from storage_motion.errors import DiskInUse


class CopySource(Disk):
    """A VDI that nothing writes to."""

    def open(self):
        """Activate it read-only, as sm does: {"socket": NBD unix socket, "depth": requests in
        flight that it bears}. Raises DiskInUse if it is active here already."""
        record = Record("copy", self.uuid)
        with self.locked():
            if record.read() is None:
                if self.host_key in self.sm_config():
                    raise DiskInUse(self.uuid, "active on this host already")
                record.write({})
            elif self.running() is not None:
                return self._opened()
            else:  # of a call that was killed, or whose tapdisk was
                self.tapped.deactivate(self.sr.uuid, self.uuid, {})
                self.api.remove_from_sm_config(self.ref, ACTIVATING)
        self.tapped.attach(self.sr.uuid, self.uuid, False)
        self.tapped.activate(self.sr.uuid, self.uuid, False, {})
        return self._opened()

    def _opened(self):
        return {"socket": self.link(), "depth": blktap.most_requests(self.tapped.get_tap_type())}

    def close(self):
        """Undo open; nothing to do if this host did not open it."""
        record = Record("copy", self.uuid)
        if record.read() is None:
            return
        self.let_go()
        record.remove()

    def extents(self, base_uuid):
        """{"size": bytes, "extents": [[offset, length], ...]}: where the data is; with a base, what may differ.

        The images have to be accessible: on LVM that is between open and close.
        """
        base = self.sr.vdi(base_uuid).path if base_uuid else None
        size, found = images.extents(self.tapped.get_tap_type(), self.path, base)
        return {"size": size, "extents": found}
