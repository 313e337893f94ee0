# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that receives: behind the gate, with a tapdisk of ours beside sm's activation.

The gate is a key in sm_config that keeps sm from activating the VDI, on every host, and a second
one that sm does not clear when a master plugs the SR again. Exactly while it is shut may our
tapdisk have the image open.
"""

from typing import Any, Callable, Dict, List, Optional, Tuple

import XenAPI

from storage_motion.dom0 import blktap, gate_notes, images, launch, tapctl
from storage_motion.errors import DiskInUse, DiskPaused, DiskStuck, NotFinished, TapCtlError
from storage_motion.sm import marks, smapi
from storage_motion.sm.disks import guard
from storage_motion.sm.disks.disk import Disk, end_tapdisk, tags, wait
from storage_motion.sm.disks.record import Record

BACK_OUT_BOUND = 30.0  # seconds for an activation that met the gate to take its tags away
FREE_BOUND = 5.0  # seconds from a tapdisk's end in order to that of its minor
# In the record: a command of ours has told its tapdisk to close, while that still lived.
CLOSING = "closing"


class FilledDisk(Disk):
    """A VDI that nobody else uses."""

    def __init__(self, sr: Any, vdi_uuid: str, read_only: bool = False) -> None:
        """`read_only`: the VM will have it so."""
        super(FilledDisk, self).__init__(sr, vdi_uuid)
        self._read_only = read_only
        self._record = Record("receive", vdi_uuid)
        # what the record tells of the one tapdisk that has the image open, once that is known
        self._only: Optional[Dict[str, int]] = None

    def start(self) -> Dict[str, Any]:
        """Shut the gate and open the disk: {"socket": NBD unix socket, "depth": requests in flight
        that it bears, "blank": bool}.

        "blank" tells of the image as it was when it was first opened. Raises DiskInUse, DiskPaused.
        """
        with self.locked():
            self._shut_gate()
            gate_notes.forget(self.uuid)
            self.await_openers()
            vbd = next(iter(tapctl.find(self.path)), None)
            if vbd is None:
                self.tapped.target.attach(self.sr.uuid, self.uuid)
                self.tapped.target.activate(self.sr.uuid, self.uuid)
                kind = self.tapped.get_tap_type()
                # Looked at now: once the tapdisk has written to it, its metadata on disk may lag
                # behind.
                self._record.write({"blank": images.is_blank(kind, self.path)})
                vbd = tapctl.create("%s:%s" % (kind, self.path))
            remembered = self._record.read() or {"blank": False}
            process = launch.Process.of(vbd.pid)
            if process is not None:
                tapdisk = dict(process.to_json(), minor=vbd.minor)
                # only this: that an earlier call has told a tapdisk to close says nothing of it
                self._record.write({"blank": remembered["blank"], "tapdisk": tapdisk})
        return {
            "socket": tapctl.nbd_socket(vbd),
            "blank": remembered["blank"],
            "depth": blktap.most_requests(self.tapped.get_tap_type()),
        }

    def expect_finish(self) -> None:
        """Look now at what `finish` would look at while a guest is suspended: whether the tapdisk
        that `start` has noted is the only one that has the image open. tap-ctl asks every tapdisk
        of the host, and waits for one that does not answer."""
        with self.locked():
            noted = self._noted_tapdisk()
            try:
                found = tapctl.find(self.path) if noted else []
            except TapCtlError:
                return  # `finish` looks then
            if noted and [(vbd.pid, vbd.minor) for vbd in found] == [
                (noted["pid"], noted["minor"])
            ]:
                self._only = noted

    def _noted_tapdisk(self) -> Optional[Dict[str, int]]:
        """{"pid", "started", "minor"} of the tapdisk that `start` has opened the image with."""
        return (self._record.read() or {}).get("tapdisk")

    def finish(self, may_open: Callable[[], bool] = lambda: True) -> None:
        """Close the disk, then open the gate. `may_open()`, asked in between, waits until it may be
        opened; an activation of SM's waits for the lock meanwhile, and finds an open gate. Raises
        DiskPaused if the gate is not ours, NotFinished if it may not be opened, or if the image may
        lack what was written to it."""
        with self.locked():
            # In this order: what is noted has no tapdisk of ours any more, and what is not noted is
            # shut, whatever xapi forgets.
            if not gate_notes.noted(self.uuid):
                self._close_whole()
            if not may_open():
                raise NotFinished("nobody has said that the gate may be opened")
            gate_notes.note(self.uuid)
            # Those that are there already, whatever is killed now; and last those that came
            # meanwhile: the next one is not there before the guard (guard.py) looks again.
            self._end_readers()
            self._open_gate()
            self._record.remove()
            self._end_readers()

    def open_again(self) -> bool:
        """Open a gate that this host has noted as opened, and that xapi, with an older database,
        has shut again; no other, and only if somebody waits there who will have the disk as
        the VM has it. Whether it was opened.

        An `activating` of a command of SM's that has died goes, too: with the VDI's lock held
        nobody is at it, and the next one would fail by it."""
        with self.locked():
            if not gate_notes.noted(self.uuid):
                return False
            if marks.ACTIVATING in self.sm_config():
                self.api.remove_from_sm_config(self.ref, marks.ACTIVATING)
            waits = any(
                guard.would_have(command, args, self._read_only)
                for _, _, command, args in smapi.commands([self.uuid])
            )
            if waits:
                self._open_gate()
            self._end_readers()  # last, as in `finish`
            return waits

    def abort(self) -> bool:
        """Close the disk and leave the gate shut. Whether the tapdisk that `start` has noted, and
        no other, had it open until now, and has closed it in order: so all that it has answered is
        in the image. Never of QCOW2: what its tapdisk has in memory of the image's tables it writes
        when it closes, and tells nobody if that fails. Raises DiskPaused if the gate is not
        ours."""
        with self.locked():
            answers_late = self._answers_late()
            in_order = self._closed_in_order()
            self._record.remove()
        return in_order and not answers_late

    def _answers_late(self) -> bool:
        """Whether its tapdisk answers writes before all that they change is in the image."""
        return self.tapped.get_tap_type() in images.CACHED

    def _close_whole(self) -> None:
        """Close it for the VM. Raises NotFinished where its tapdisk may have ended by itself, with
        what it had answered and not written yet.

        One that an earlier command, which was killed, has told to close has done so since, if its
        minor is free."""
        told = (self._record.read() or {}).get(CLOSING, False)
        if self._closed_in_order() or not self._answers_late() or told and self._is_minor_free():
            return
        noted = self._record.read()
        if noted:  # what comes again must not take it for closed either
            self._record.write({"blank": noted["blank"]})
        raise NotFinished(
            "the tapdisk that filled VDI %s has ended by itself, or has been ended by others: the "
            "image may lack what it had in memory" % self.uuid
        )

    def _is_minor_free(self) -> bool:
        """Whether the minor of the tapdisk that `start` has noted was given back, as tap-ctl does
        once that has closed its image and ended, and at no other time (tap-ctl-destroy.c)."""
        minor = (self._noted_tapdisk() or {}).get("minor")
        try:
            # one with a process is another's by now
            wait(
                lambda: all(vbd.pid is not None for vbd in tapctl.list(minor=minor)),
                FREE_BOUND,
                "minor %s has had no tapdisk" % minor,
            )
        except DiskStuck:
            return False
        return True

    def _closed_in_order(self) -> bool:
        """Close it. Whether the tapdisk that `start` has noted, and no other, had it open until
        now, and has closed it in order."""
        noted = self._noted_tapdisk()
        process = launch.Process.from_json(noted)
        lived = process is not None and process.alive()
        ended = [(vbd.pid, vbd.minor, in_order) for vbd, in_order in self._close()]
        return noted is not None and lived and ended == [(noted["pid"], noted["minor"], True)]

    def _end_readers(self) -> None:
        if not self._read_only:
            guard.end_readers(self.uuid)

    def _open_gate(self) -> None:
        config = self.sm_config()
        for key in (marks.RELINKING, marks.PAUSED):
            if config.get(key) == marks.SHUT:
                self.api.remove_from_sm_config(self.ref, key)

    def _shut_gate(self) -> None:
        """sm tags the VDI, then looks for `paused` and backs out; this does it the other way round,
        so that one of the two sees the other. An activation that waits for the gate has no tag."""
        config = self.sm_config()
        if tags(config):
            raise DiskInUse(self.uuid, ", ".join(tags(config)))
        if config.get(marks.PAUSED) != marks.SHUT:
            self._mark(marks.PAUSED)
            try:
                wait(
                    lambda: not tags(self.sm_config()),
                    BACK_OUT_BOUND,
                    "VDI %s has been activated" % self.uuid,
                )
            except DiskStuck:
                self.api.remove_from_sm_config(self.ref, marks.PAUSED)
                raise
        if config.get(marks.RELINKING) != marks.SHUT:
            self._mark(marks.RELINKING)

    def _mark(self, key: str) -> None:
        try:
            self.api.add_to_sm_config(self.ref, key, marks.SHUT)
        except XenAPI.Failure as failure:
            if failure.details[0] != "MAP_DUPLICATE_KEY":
                raise
            raise DiskPaused(self.uuid, "by another operation")

    def _close(self) -> List[Tuple[tapctl.Vbd, bool]]:
        """End our tapdisk, if there is one: what Disk.close_tapdisks tells.

        With the VDI's lock held, a tapdisk on this host is sm's exactly if sm's tag of this host is
        there: once the gate was open the guest may run on it, and a repeated call must not touch
        it.
        """
        config = self.sm_config()
        if config.get(marks.PAUSED) not in (None, marks.SHUT):
            raise DiskPaused(self.uuid, "by another operation")
        ours = (
            marks.SHUT in (config.get(marks.PAUSED), config.get(marks.RELINKING))
            or self._record.read() is not None
        )
        ended: List[Tuple[tapctl.Vbd, bool]] = []
        if ours and self.host_key not in config:
            self._note_closing()
            # `start` forgets it before it opens the image with another one
            only = self._only if self._noted_tapdisk() == self._only else None
            process = launch.Process.from_json(only)
            if only is not None and process is not None and process.alive():
                vbd = tapctl.Vbd(only["pid"], only["minor"], None, None)
                ended = [(vbd, end_tapdisk(vbd, process))]
            else:
                ended = self.close_tapdisks()
            self.tapped.target.deactivate(self.sr.uuid, self.uuid)
            self.tapped.target.detach(self.sr.uuid, self.uuid)
        return ended

    def _note_closing(self) -> None:
        """That the tapdisk which `start` has noted is told to close, if it lives still: a command
        that is killed over that leaves one that closes, and not one that has died."""
        known = self._record.read() or {}
        process = launch.Process.from_json(known.get("tapdisk"))
        if process is not None and process.alive():
            self._record.write(dict(known, **{CLOSING: True}))
