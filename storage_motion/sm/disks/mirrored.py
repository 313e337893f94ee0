# SPDX-License-Identifier: LGPL-2.1-only
"""A disk in use: the mirror of its tapdisk."""

import contextlib
import json
import time
from typing import Any, Dict, Iterator, List, Optional

import XenAPI

from storage_motion.dom0 import tapctl
from storage_motion.errors import (
    AlreadyMirrored,
    DiskPaused,
    DiskTracked,
    MirrorNotProven,
    MotionError,
    NotActive,
    Unreachable,
)
from storage_motion.sm import marks, stock_sm
from storage_motion.sm.disks import pauses, tracking
from storage_motion.sm.disks.disk import POLL, Disk, listed, wait
from storage_motion.sm.smapi import MIRROR_MARK

util = stock_sm.module("core.util")

# sm sets it to "false" for a mirrored leaf, and never takes it away
LEAF_COALESCE = "leaf-coalesce"
# the secondary that makes a tapdisk forget its target; without one it reattaches it
NO_MIRROR = "null"

# Bounds, in seconds.
SNAPSHOT_BOUND = 300.0  # for a snapshot that a killed call left running
PAUSED_BOUND = 60.0  # for somebody else's pause
# for a tapdisk that sm has paused to refresh it: sm's own unpause would fail after ours
REFRESH_BOUND = 2.0
MASTER_POLL = 1.0  # between two questions to the SR's master
RESUME_BOUND = 30.0  # for a tapdisk to finish pausing, and to go on
STATS_BOUND = 30.0  # for a tapdisk to show its images again after a pause


def mirror_of(stats: Dict[str, Any]) -> Optional[str]:
    """The target of the mirror that a tapdisk's statistics show, or None."""
    return next(
        (image["name"] for image in stats["images"] if image["driver"]["name"] == "nbd"), None
    )


class MirroredDisk(Disk):
    """A VDI that a guest uses on this host."""

    def start(self, target: str) -> str:
        """Snapshot it with the unix socket `target` as its mirror. Returns the snapshot's uuid.

        xapi takes the snapshot, so no lock may be held here. Raises NotActive, AlreadyMirrored,
        DiskTracked, MirrorNotProven; Unreachable, if xapi ends meanwhile: the guest goes on then.
        """
        try:
            return self._start(target)
        except Unreachable:
            with self._poked():
                self._go_on()
            raise

    def _start(self, target: str) -> str:
        vbd = self._active()
        if tracking.is_tracked(self):
            raise DiskTracked(self.uuid)
        with tapctl.poked(vbd.pid):
            interrupted = self._mark()
            if interrupted:
                self._wait_for_snapshot()
            if interrupted not in (None, target):
                self._undo(interrupted)
            stats = self._stats(vbd)
            if tracking.kept_by(stats):
                raise DiskTracked(self.uuid)
            attached = mirror_of(stats)
            if attached not in (None, target):
                raise AlreadyMirrored(self.uuid, attached)
            snapshots = self._snapshots(target)
            if not (attached and snapshots):
                self._undo(target)
                snapshots = [self._snapshot(target)]
        self.api.remove_from_other_config(self.ref, MIRROR_MARK)
        return self.api.get_uuid(snapshots[0])

    def stat(self) -> Dict[str, Any]:
        """{"state": "mirroring", "broken" or "none", "outstanding": requests that tapdisk has not
        answered yet}"""
        vbd = self.running()
        if vbd is None:
            return {"state": "none", "outstanding": 0}
        stats = self._stats(vbd)
        broken = "broken" if stats["nbd_mirror_failed"] else "none"
        return {
            "state": "mirroring" if mirror_of(stats) else broken,
            "outstanding": stats["reqs_outstanding"],
        }

    def stop(self) -> None:
        """Detach the mirror, if the disk is active here; the guest's I/O goes on. No snapshot of
        ours runs after it."""
        vbd = self.running()
        if self._mark():
            if vbd is None:
                self._wait_for_snapshot()
            else:
                with tapctl.poked(vbd.pid):
                    self._wait_for_snapshot()
        self._detach()
        self._unmark()

    def go_on(self) -> None:
        """Of a disk without a mirror: if sm has left it paused, its guest goes on."""
        vbd = self.running()
        if marks.PAUSED in self.sm_config() or vbd is not None and vbd.state & tapctl.PAUSED:
            self._detach()

    def _active(self) -> tapctl.Vbd:
        vbd = self.running()
        if vbd is None:
            raise NotActive(self.uuid)
        return vbd

    def _mark(self) -> Optional[str]:
        return self.api.get_other_config(self.ref).get(MIRROR_MARK)

    def _wait_for_snapshot(self) -> None:
        """A call that was killed may have left xapi at it."""
        wait(
            lambda: "snapshot" not in self.api.get_current_operations(self.ref).values(),
            SNAPSHOT_BOUND,
            "a snapshot of VDI %s has been running" % self.uuid,
        )

    def _snapshots(self, target: str) -> List[str]:
        """The snapshots that were taken for this target: refs."""
        return [
            ref
            for ref in self.api.get_snapshots(self.ref)
            if self.api.get_other_config(ref).get(MIRROR_MARK) == target
        ]

    def _snapshot(self, target: str) -> str:
        """Take it, and prove the mirror from the tapdisk's statistics; else undo it. Returns its
        ref."""
        self.api.add_to_other_config(self.ref, MIRROR_MARK, target)
        try:
            if tracking.is_tracked(self):  # the last look: much may have been waited for since
                raise DiskTracked(self.uuid)
            snapshot = self.api.snapshot(self.ref, {"mirror": "nbd:" + target})
            stats = self._stats(self._active())
            if mirror_of(stats) != target or tracking.kept_by(stats):
                raise MirrorNotProven(self.uuid, target, json.dumps(stats))
        except Unreachable:
            raise  # what it has come to is seen when xapi is back
        except (XenAPI.Failure, MotionError):
            util.logException("vdi_mirror_start")
            # sm does not look whether its unpause worked: that is seen to in there, too
            self._undo(target)
            raise
        return snapshot

    def _undo(self, target: str) -> None:
        """Take back what `_snapshot` did, all of it or a part."""
        snapshots = self._snapshots(target)
        if snapshots or self._mark():
            self._detach()
            for ref in snapshots:
                self.api.destroy(ref)
            self._unmark()

    def _unmark(self) -> None:
        """The mark goes last: while it is there, there may be more to undo."""
        if self.api.get_other_config(self.ref).get(LEAF_COALESCE) == "false":
            self.api.remove_from_other_config(self.ref, LEAF_COALESCE)
        self.api.remove_from_other_config(self.ref, MIRROR_MARK)

    def _stats(self, vbd: tapctl.Vbd) -> Dict[str, Any]:
        """A tapdisk's statistics; while it is paused it shows no images, so they are waited for."""

        def shown() -> Optional[Dict[str, Any]]:
            stats = tapctl.stats(vbd)
            return stats if stats["images"] else None

        return wait(
            shown, STATS_BOUND, "tapdisk %d of VDI %s has had no image open" % (vbd.pid, self.uuid)
        )

    def _detach(self) -> None:
        """Pause and unpause with no mirror.

        Not by sm's tap_pause, which takes ten times as long, but with the VDI's lock held: sm marks
        a VDI `paused` before it asks for that lock to pause it, so without the mark nobody has it
        paused; but for sm's refresh (drivers/tapdisk-pause), which marks nothing and lets go of the
        lock between its pause and its unpause, and for a mark that a crash of xapi has taken back.
        That is waited for, though not for long: sm may have been killed in it, and the guest waits.
        A mark that sm has left for good is taken away (pauses).
        """
        with self._poked():
            self._detach_poked()

    @contextlib.contextmanager
    def _poked(self) -> Iterator[None]:
        """Sm, which may be at it, does not poke what it pauses."""
        with contextlib.ExitStack() as meanwhile:
            vbd = self.running()
            if vbd is not None:
                meanwhile.enter_context(tapctl.poked(vbd.pid))
            yield

    def _detach_poked(self) -> None:
        began = time.monotonic()
        scanned = False
        nobody = here = pauses.is_master(self.sr)
        while True:
            with pauses.sr_locked(self.sr) as sr_locked, self.locked():
                config = self.sm_config()
                vbd = self.running()
                left = sr_locked and pauses.is_left(self, config, self.host_key)
                paused = vbd is not None and vbd.state & tapctl.PAUSED
                half_done = left and paused and pauses.half_done(self)
                if (
                    left
                    and not half_done
                    or marks.PAUSED not in config
                    and not (paused and self._is_sms(began, nobody))
                ):
                    if vbd is not None:
                        self._cycle(vbd)
                    if left:
                        util.SMlog("%s: `paused`, which sm has left, is taken away" % self.uuid)
                        self.api.remove_from_sm_config(self.ref, marks.PAUSED)
                    return
            if half_done and not scanned:
                scanned = True
                self.sr.session.xenapi.SR.scan(self.sr.sr_ref)
            if (
                not here
                and config.get(marks.PAUSED, marks.PAUSED_BY_SM) == marks.PAUSED_BY_SM
                and not pauses.at_it(self.uuid)
            ):
                nobody = pauses.ask_master(self)
            if time.monotonic() > began + PAUSED_BOUND:
                raise DiskPaused(self.uuid, "for %d s" % PAUSED_BOUND)
            time.sleep(POLL if here else MASTER_POLL)

    def _is_sms(self, began: float, nobody: bool) -> bool:
        """Whether a pause that is marked by nothing, and has been seen since `began`, may yet be
        ended by sm. `nobody`: whether the SR's master has said that it is not by anybody there."""
        return not nobody or time.monotonic() < began + REFRESH_BOUND or pauses.at_it(self.uuid)

    def _go_on(self) -> None:
        """With no xapi there: if sm's command has left the guest's tapdisk paused, it goes on,
        without a mirror.

        sm's command itself ends as it meets no xapi either. What it was for, and its mark, is seen
        to when xapi is back; so is all of it where another host is the SR's master, since only that
        can see whether sm is at the images still.
        """
        began = time.monotonic()
        while time.monotonic() < began + PAUSED_BOUND and pauses.is_master(self.sr):
            with pauses.sr_locked(self.sr) as sr_locked, self.locked():
                if sr_locked and not pauses.at_it(self.uuid):
                    vbd = self.running()
                    if vbd is not None and vbd.state & tapctl.PAUSED and not pauses.half_done(self):
                        util.SMlog("%s: goes on, as sm has left it paused" % self.uuid)
                        self._cycle(vbd)
                    return
            time.sleep(POLL)

    def _cycle(self, vbd: tapctl.Vbd) -> None:
        with tapctl.poked(vbd.pid):
            changes = tracking.log_to_keep(self, vbd)
            try:
                if not vbd.state & tapctl.PAUSED:
                    tapctl.pause(vbd)
            finally:  # the guest must not stay paused, whatever became of tap-ctl
                wait(
                    lambda: self._resumed(vbd, changes),
                    RESUME_BOUND,
                    "tapdisk %d of VDI %s has been pausing (end its mirror's target, then stop the "
                    "mirror again)" % (vbd.pid, self.uuid),
                )

    @staticmethod
    def _resumed(vbd: tapctl.Vbd, changes: Optional[str]) -> bool:
        """Unpause it, if it is paused, with the log `changes`. Returns whether it runs, or is no
        more."""
        now = listed(vbd.pid, vbd.minor)
        if now is not None and now.state & tapctl.PAUSED:
            try:
                tapctl.unpause(now, secondary=NO_MIRROR, log=changes)
            except MotionError:
                # a second try recovers (facts); the bound is the caller's
                util.logException("unpause")
            now = listed(vbd.pid, vbd.minor)
        return now is None or not now.state & (tapctl.PAUSED | tapctl.PAUSE_REQUESTED)
