# SPDX-License-Identifier: LGPL-2.1-only
"""A VDI of an SR object of sm, on this host: its tags, its lock, its tapdisk."""

import contextlib
import os
import re
import time
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Tuple,
    TypeVar,
)

from storage_motion.dom0 import launch, tapctl
from storage_motion.errors import DiskInUse, DiskStuck, TapCtlError
from storage_motion.sm import marks, stock_sm

blktap2 = stock_sm.module("blktap2")

HOST_PREFIX = "host_"  # ... + the ref of a host that has it active: "RW" or "RO"
CLOSE_BOUND = 20.0  # seconds for a tapdisk to exit
OPEN_BOUND = tapctl.CREATE_TIMEOUT  # seconds for a tap-ctl whose caller was killed to end
POLL = 0.05

Found = TypeVar("Found")


def wait(condition: Callable[[], Optional[Found]], bound: float, why: str) -> Found:
    """Wait until `condition()` is true and return it. Raises DiskStuck when `bound` seconds have
    passed."""
    deadline = time.monotonic() + bound
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DiskStuck("%s for %d s" % (why, bound))
        time.sleep(POLL)


def tags(sm_config: Iterable[str]) -> List[str]:
    """The keys by which sm marks a VDI that is active, or about to be."""
    return sorted(
        key for key in sm_config if key == marks.ACTIVATING or key.startswith(HOST_PREFIX)
    )


def listed(pid: int, minor: int) -> Optional[tapctl.Vbd]:
    """The vbd as tap-ctl lists it now, or None."""
    return next((vbd for vbd in tapctl.list(pid=pid) if vbd.minor == minor), None)


def end_tapdisk(vbd: tapctl.Vbd, process: Optional[launch.Process]) -> bool:
    """End the tapdisk of a vbd, and prove it gone. `process`: it, None if it is gone already.
    Whether it has closed its image itself, in order. Raises DiskStuck, TapCtlError."""
    in_order = True
    try:
        tapctl.destroy(vbd)
    except TapCtlError:
        in_order = False
        # a command that was killed over it may have had it end just now
        if process is not None and not process.gone(CLOSE_BOUND):
            raise
    if process is not None and not process.gone(CLOSE_BOUND):
        raise DiskStuck("tapdisk %d has not exited within %d s" % (vbd.pid, CLOSE_BOUND))
    return in_order


def await_openers(uuid: str, path: str) -> None:
    """Wait for what a command that was killed has begun to have a tapdisk open the image of a VDI:
    only then does tap-ctl list all that have it open. Raises DiskStuck."""
    wait(lambda: not tapctl.opening(path), OPEN_BOUND, "VDI %s has been about to be opened" % uuid)


def close_tapdisks(uuid: str, path: str) -> List[Tuple[tapctl.Vbd, bool]]:
    """End every tapdisk on this host that has the image of a VDI open, and prove them gone. Those
    that had, each with whether it has closed the image itself, in order.

    Raises DiskStuck, DiskInUse."""
    await_openers(uuid, path)
    ended = [(vbd, end_tapdisk(vbd, launch.Process.of(vbd.pid))) for vbd in tapctl.find(path)]
    left = tapctl.find(path)
    if left:
        raise DiskInUse(uuid, "tapdisk %d still has it open" % left[0].pid)
    return ended


@contextlib.contextmanager
def locked(lock: Any) -> Iterator[None]:
    """Hold a lock of sm, which itself is no context manager."""
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Disk(object):
    """A VDI by its uuid. `api`: xapi's VDI class, `ref`: its ref, `tapped`: sm's blktap2.VDI."""

    def __init__(self, sr: Any, vdi_uuid: str) -> None:
        self.sr = sr
        self.uuid = vdi_uuid
        self.api = sr.session.xenapi.VDI
        self.ref = self.api.get_by_uuid(vdi_uuid)
        self.tapped = blktap2.VDI(vdi_uuid, sr.vdi(vdi_uuid), sr.srcmd.driver_info)
        self.host_key = HOST_PREFIX + sr.srcmd.params["host_ref"]

    @property
    def path(self) -> str:
        """The image; on LVM it is there only while attached."""
        return self.tapped.target.get_vdi_path()

    def locked(self) -> ContextManager[None]:
        """sm's lock of the VDI on this host: while we hold it sm neither activates nor pauses it
        here."""
        return locked(self.tapped.lock)

    def sm_config(self) -> Dict[str, str]:
        """As it is now."""
        return self.api.get_sm_config(self.ref)

    def link(self) -> Optional[str]:
        """The NBD socket of the tapdisk with which sm activated the disk on this host, or None."""
        try:
            return os.readlink(blktap2.VDI.NBDLink.from_uuid(self.sr.uuid, self.uuid).path())
        except FileNotFoundError:
            return None

    def running(self) -> Optional[tapctl.Vbd]:
        """The vbd with which sm activated the disk on this host, or None."""
        match = re.search(r"/nbd(\d+)\.(\d+)$", self.link() or "")
        return listed(int(match.group(1)), int(match.group(2))) if match else None

    def await_openers(self) -> None:
        """As the function. Two tapdisks may write to one image, and each writes its metadata when
        it closes. With the VDI's lock held nobody else begins one."""
        await_openers(self.uuid, self.path)

    def close_tapdisks(self) -> List[Tuple[tapctl.Vbd, bool]]:
        """As the function."""
        return close_tapdisks(self.uuid, self.path)

    def let_go(self) -> None:
        """Deactivate and detach it, as sm does, on a host where nobody uses it; even if sm was
        killed while it activated it.

        sm finds the tapdisk to end by its NBD link (blktap2.VDI._deactivate), which an activation
        makes last: one that did not come so far leaves a tapdisk of which sm knows nothing, and the
        image activated below it. Killed between the end of such a tapdisk and the deactivation
        below, this leaves a logical volume active, until the VDI is next deactivated or removed.
        """
        with self.locked():
            lost = self.running() is None and bool(self.close_tapdisks())
            if lost and self.link() is None:
                self.tapped.target.deactivate(self.sr.uuid, self.uuid)
        self.tapped.deactivate(self.sr.uuid, self.uuid, {})
        self.tapped.detach(self.sr.uuid, self.uuid)
