# SPDX-License-Identifier: LGPL-2.1-only
"""A frozen disk, to be read: a snapshot, or the disk of a VM that does not run.

Frozen is what it reads as. The images below it sm's collector may merge, QCOW2 images by whichever
tapdisk has them open, as long as that is one alone (qcow2util.py of XCP-ng 3.2.12-21, _getTapdisk;
blktap's block-qcow2.c): beside the guest's ours keeps them from it; ours alone is asked itself.
"""

import contextlib
import time
from typing import Any, Dict, Iterator

import XenAPI

from storage_motion.dom0 import blktap, images, tapctl
from storage_motion.errors import DiskInUse, DiskPaused, MotionError, NotActive
from storage_motion.sm import marks, stock_sm
from storage_motion.sm.disks.disk import Disk, close_tapdisks, listed, locked, wait
from storage_motion.sm.disks.record import COPY, Record

blktap2 = stock_sm.module("blktap2")
util = stock_sm.module("core.util")

QCOW2 = "qcow2"
READ_ONLY = "RO"  # value of sm's key of a host that has it active so
NULL = "OpaqueRef:NULL"
PAUSED_BOUND = 60.0  # seconds for sm's pause of the disk to end
RESUME_BOUND = 60.0  # seconds for our tapdisk to go on
LOCKED_BOUND = 30.0  # seconds for a tapdisk that merges below the disk to let go of the images
POLL = 1.0
LINKS = ("PhyLink", "BackendLink", "NBDLink")  # those that blktap2 has of a VDI, as far as it has


class CopiedDisk(Disk):
    """A VDI that nothing writes to."""

    def open(self) -> Dict[str, Any]:
        """Activate it read-only, as sm does: {"socket": NBD unix socket, "depth": requests in
        flight that it bears}. Raises DiskInUse if it is active here already."""
        record = Record(COPY, self.uuid)
        with self.locked():
            if record.read() is None:
                if self.host_key in self.sm_config():
                    raise DiskInUse(self.uuid, "active on this host already")
                record.write({"path": self.path})
            elif self.running() is not None:
                return self._opened()
            else:  # of a call that was killed, or whose tapdisk was
                self.await_openers()
                self.tapped.deactivate(self.sr.uuid, self.uuid, {})
                self.api.remove_from_sm_config(self.ref, marks.ACTIVATING)
        self.tapped.attach(self.sr.uuid, self.uuid, False)
        self._activate()
        return self._opened()

    def open_beside_reader(self) -> Dict[str, Any]:
        """A disk that a guest on this host has open read-only: as `open`, through the guest's own
        tapdisk. Nothing is opened, so there is nothing to close. Raises NotActive if it is not open
        just now, or to be written to.

        A tapdisk of ours beside it would be unknown to sm, which relinks images below a disk while
        those that it knows of are paused; and could not stay if the guest opens the disk anew."""
        with self.locked():
            if self.sm_config().get(self.host_key) != READ_ONLY or self.running() is None:
                raise NotActive(self.uuid)
            return self._opened()

    def _activate(self) -> None:
        """sm has a merge below the disk given up first. One that ends just then it does not see,
        and QEMU's lock of the images keeps the tapdisk from opening them for a moment."""
        end = time.monotonic() + LOCKED_BOUND
        while True:
            try:
                self.tapped.activate(self.sr.uuid, self.uuid, False, {})
                return
            except blktap2.TapdiskFailed:
                if time.monotonic() > end:
                    raise
                util.logException("vdi_copy_open")
                time.sleep(POLL)

    def _opened(self) -> Dict[str, Any]:
        return {"socket": self.link(), "depth": blktap.most_requests(self.tapped.get_tap_type())}

    def close(self) -> None:
        """Undo open; nothing to do if this host did not open it."""
        record = Record(COPY, self.uuid)
        if record.read() is None:
            return
        self.let_go()
        record.remove()

    def extents(self, base_uuid: str) -> Dict[str, Any]:
        """{"size": bytes, "extents": [[offset, length], ...]}: where the data is; with a base, what
        may differ.

        The images have to be accessible: on LVM that is between open and close. Raises DiskPaused,
        DiskStuck.
        """
        if self._is_open_by_guest() and self.tapped.get_tap_type() == QCOW2:
            # whose tapdisk may be merging, and is not to be paused for this
            size = int(self.api.get_virtual_size(self.ref))
            return {"size": size, "extents": [[0, size]]}
        with contextlib.ExitStack() as still:
            base = None
            if base_uuid:
                below = CopiedDisk(self.sr, base_uuid)
                still.enter_context(below._still())
                base = below.path
            still.enter_context(self._still())
            size, found = images.extents(self.tapped.get_tap_type(), self.path, base)
        return {"size": size, "extents": found}

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """Nothing is merged below the disk meanwhile that could not be seen whole.

        sm pauses and refreshes no disk whose lock it does not get. What our tapdisk merges itself
        is, at the end, for a moment in its memory only, while the image above names its new parent
        on the disk already. A paused one has its images closed, and is asked for nothing. Killed
        in here, this leaves it paused; the next call, and `close`, go on from there.
        """
        end = time.monotonic() + PAUSED_BOUND
        while True:
            with self.locked():
                if marks.PAUSED not in self.sm_config():
                    with self._closed():
                        yield
                    return
            if time.monotonic() > end:
                raise DiskPaused(self.uuid, "for %d s" % PAUSED_BOUND)
            time.sleep(POLL)

    @contextlib.contextmanager
    def _closed(self) -> Iterator[None]:
        vbd = self.running()
        if vbd is None or self.tapped.get_tap_type() != QCOW2 or self._is_beside_the_guest():
            yield
            return
        with tapctl.poked(vbd.pid):
            if not vbd.state & tapctl.PAUSED:
                tapctl.pause(vbd)
        try:
            yield
        finally:
            wait(
                lambda: self._goes_on(vbd),
                RESUME_BOUND,
                "tapdisk %d of VDI %s could not open its images again" % (vbd.pid, self.uuid),
            )

    def _is_open_by_guest(self) -> bool:
        return Record(COPY, self.uuid).read() is None and self.host_key in self.sm_config()

    def _is_beside_the_guest(self) -> bool:
        """Whether the guest's tapdisk has the images below the disk open, too."""
        of = self.api.get_snapshot_of(self.ref)
        if of == NULL:
            return False
        try:
            elsewhere = self.api.get_SR(of) != self.api.get_SR(self.ref)
            uuid = self.api.get_uuid(of)
        except XenAPI.Failure as failure:
            if failure.details[0] != "HANDLE_INVALID":
                raise
            return False  # that disk has been destroyed
        return not elsewhere and Disk(self.sr, uuid).running() is not None

    @staticmethod
    def _goes_on(vbd: tapctl.Vbd) -> bool:
        try:
            tapctl.unpause(vbd)
        except MotionError:
            util.logException("unpause")
        now = listed(vbd.pid, vbd.minor)
        return now is None or not now.state & tapctl.PAUSED


def close_lost(sr: Any, vdi_uuid: str) -> None:
    """Undo `open` of a disk of the SR object `sr` that xapi does not know any more: somebody has
    destroyed it, which xapi refuses only of one that a VM has. Nothing to do if this host did not
    open it. Raises DiskStuck, DiskInUse, TapCtlError.

    On LVM sm could not remove a volume that was open here (LVHDSR.py, delete); its collector does,
    once it is closed. The images below stay active here as a killed `let_go` leaves them."""
    record = Record(COPY, vdi_uuid)
    opened = record.read()
    if opened is None:
        return
    with locked(stock_sm.module("core.lock").Lock("vdi", vdi_uuid)):
        if "path" in opened:
            close_tapdisks(vdi_uuid, opened["path"])
        else:  # of a version before this one
            util.SMlog(
                "VDI %s is lost, and which image a copy of it has open is not known: a tapdisk may "
                "be left that has" % vdi_uuid
            )
        for name in LINKS:
            link = getattr(blktap2.VDI, name, None)
            if link is not None:
                link.from_uuid(sr.uuid, vdi_uuid).unlink()
        record.remove()
