# SPDX-License-Identifier: LGPL-2.1-only
"""The mover: the process at the source through which one disk goes, its mirrored writes and the
copy of its snapshot.

    python3 -m storage_motion.source.mover SPEC

SPEC is a JSON file, 0600:

    {"migration", "key": source VDI uuid, "size": bytes, "receiver": {"address", "port", "fingerprint", "token"},
     "secondary": unix path on which to listen for tapdisk, "control": unix path, "log": path,
     "verified": path for the file of what is verified (verified_windows.py),
     "stall_bound": seconds a mirrored write may wait for its answer, "max_outstanding": mirrored writes,
     optional: "orphan_bound": 600.0 s, "bandwidth": bytes per second of mirror and copy, 0.0,
     "share": {"file": of what this copy has sent, "others": glob pattern of all such of the host} (fair_share.py)}

When the control socket exists, the mover is ready, or says in its status why it never will be. It
serves the guest without a control client; after `orphan_bound` seconds without one it gives up, and
tapdisk carries on alone.
"""  # noqa: E501

import logging
import ssl
import sys
import threading
from typing import Any, Dict, Optional

from storage_motion.errors import DataPathError, NotFinished
from storage_motion.source import copier, fair_share
from storage_motion.source.merge import Merge
from storage_motion.source.mirror import Mirror
from storage_motion.source.mirrored_writes import MirroredWrites
from storage_motion.source.ranges import RangeSet
from storage_motion.source.verified_windows import VerifiedWindows, known
from storage_motion.source.windows import read_extents
from storage_motion.wire import channel, nbd, nbd_client, service
from storage_motion.wire.control_link import HEARTBEAT_BOUND, ControlLink
from storage_motion.wire.control_socket import ControlSocket, Handler

STAND_BY_BOUND = 120.0  # seconds for the receiver to begin a command of SM's
AWAIT_BOUND = 10.0  # seconds for which `await-end` is not answered
FINISH_BOUND = 300.0  # seconds for the receiver's SM to close its tapdisk and open the gate
LEAVE_BOUND = 0.5  # seconds for the receiver to hear why: the guest's writes wait for it meanwhile

NOTHING_MIRRORED: Dict[str, Any] = {
    "state": "broken",
    "clean": False,
    "attachments": 0,
    "mirrored_bytes": 0,
    "mirrored_writes": 0,
    "outstanding": 0,
    "held": 0,
    "oldest_wait": 0.0,
    "longest_stall": 0.0,
    "waited": 0.0,
    "recent_stall": 0.0,
}
NOTHING_COPIED: Dict[str, Any] = {
    "state": "idle",
    "to_copy": None,
    "copied": 0,
    "sent": 0,
    "skipped": 0,
    "verified": 0,
    "zeros": 0,
    "same": 0,
    "saved": 0,
    "error": None,
}

log = logging.getLogger(__name__)


class Mover(object):
    """One disk's way from the source to the receiver, and the commands of its control socket."""

    def __init__(self, spec: Dict[str, Any], life: service.Life) -> None:
        self._spec = spec
        self._life = life
        self._lock = threading.Lock()  # one copy, one finish
        self._mirror: Optional[Mirror] = None
        self._link: Optional[ControlLink] = None
        self._copier: Optional[copier.Copier] = None
        self._windows: Optional[VerifiedWindows] = None
        self._error: Optional[str] = None
        self._bandwidth: float = spec.get("bandwidth", 0.0)
        self._finished = False
        self._why: Optional[str] = None  # it is given up, in the worker's words
        self.handlers = {
            name: self._heard(handler)
            for name, handler in (
                ("status", self._status),
                ("copy", self._copy),
                ("limit", self._limit),
                ("stand-by", self._stand_by),
                ("await-end", self._await_end),
                ("finish", self._finish),
                ("abort", self._abort),
                ("exit", self._abort),
            )
        }

    def connect(self) -> None:
        """Open the roles at the receiver, and listen for tapdisk. A failure goes into the status:
        the worker asks there."""
        size = self._spec["size"]
        try:
            if not isinstance(size, int) or size <= 0 or size % nbd.SECTOR:
                raise DataPathError("a disk of %r bytes" % (size,))
            control = self._open_role("control")
            self._link = ControlLink(control, self._link_lost)
            mirror = self._open_role("mirror")
            sectors = size // nbd.SECTOR
            self._windows = VerifiedWindows(self._spec["verified"], sectors)
            writes = MirroredWrites(
                Merge(sectors), size, self._spec["max_outstanding"], self._windows.wrote
            )
            self._mirror = Mirror(
                self._spec["secondary"], mirror, size, writes, self._spec["stall_bound"]
            )
            self._mirror.start()
            log.info("ready for disk %s", self._spec["key"])
        except DataPathError as error:
            log.error("never ready: %s", error)
            self._error = str(error)

    def close(self) -> None:
        """End everything; a tapdisk that is attached carries on alone."""
        self._take_leave()
        if self._mirror is not None:
            self._mirror.close()
        if self._copier is not None:
            self._copier.stop(self._why or "the mover was told to end")
        if self._link is not None:
            self._link.close()

    def _take_leave(self) -> None:
        """Have the receiver know why all its connections with us are about to be closed: else it
        could only say that they were lost. It need not hear it."""
        if self._why is None or self._link is None or self._finished:
            return
        pending = self._link.submit({"cmd": "abort", "error": self._why}, HEARTBEAT_BOUND)
        if not pending.await_it(LEAVE_BOUND):
            log.warning("the receiver was not reached with why: %s", self._why)

    def _open_role(self, role: str) -> ssl.SSLSocket:
        receiver = self._spec["receiver"]
        tls, size = channel.connect(
            receiver["address"],
            receiver["port"],
            receiver["fingerprint"],
            receiver["token"],
            role,
            self._spec["key"],
        )
        if size != self._spec["size"]:
            tls.close()
            raise DataPathError(
                "the destination's disk has %d bytes, not %d" % (size, self._spec["size"])
            )
        return tls

    def _link_lost(self, reason: str) -> None:
        """Without the receiver there is no handing over any more; so the guest need not wait for
        its mirror either."""
        if not self._finished and self._mirror is not None:
            self._mirror.break_off(reason)

    def _heard(self, handler: Handler) -> Handler:
        def answer(message: Dict[str, Any]) -> Dict[str, Any]:
            self._life.heard()
            return handler(message)

        return answer

    def _status(self, _: Optional[Dict[str, Any]]) -> Dict[str, Any]:
        status = (
            dict(self._mirror.status())
            if self._mirror
            else dict(NOTHING_MIRRORED, error=self._error)
        )
        status["copy"] = self._copier.status() if self._copier else NOTHING_COPIED
        return status

    def _copy(self, message: Dict[str, Any]) -> Dict[str, Any]:
        with self._lock:
            if self._mirror is None:
                raise NotFinished("the mover is not ready: %s" % self._error)
            if self._copier is not None:
                raise NotFinished("this disk has been copied, or is being copied")
            assert self._link is not None and self._windows is not None
            data = read_extents(message["extents"], self._spec["size"])
            before = self._known(message.get("known"))
            source = nbd_client.connect(message["socket"], depth=message["depth"])
            if source.size != self._spec["size"]:
                source.close()
                raise DataPathError(
                    "the snapshot has %d bytes, not %d" % (source.size, self._spec["size"])
                )
            destination = nbd_client.Client(self._open_role("copy"), source.size, copier.COPY_DEPTH)
            self._copier = copier.Copier(
                source,
                destination,
                self._link,
                self._mirror,
                data,
                bool(message["blank"]),
                self._windows,
                message["heading"],
                message.get("compare") is True,
                before,
                self._bandwidth,
                self._fair_share(),
                message.get("based") is True,
            )
        return {"ok": True}

    def _known(self, before: Optional[Dict[str, str]]) -> RangeSet:
        """The sectors that the destination has already. `before`: {"verified": path of the file
        that another mover of this disk has left, "changed": path of the extents in which this
        snapshot may differ from that mover's}, or None. Nothing, where that cannot be read: then
        all is compared."""
        if before is None:
            return RangeSet()
        try:
            changed = read_extents(before["changed"], self._spec["size"])
            return known(before["verified"], self._spec["size"] // nbd.SECTOR, changed)
        except DataPathError as error:
            log.warning("what is known is not used: %s", error)
            return RangeSet()

    def _fair_share(self) -> Optional[fair_share.FairShare]:
        """None where it is not told of the others, or cannot tell them."""
        share = self._spec.get("share")
        if share is None:
            return None
        address = self._spec["receiver"]["address"]
        try:
            return fair_share.FairShare(share["file"], share["others"], address)
        except OSError as error:
            log.warning("the others will not know how much this copy has sent: %s", error)
            return None

    def _limit(self, message: Dict[str, Any]) -> Dict[str, Any]:
        bandwidth = message.get("bandwidth")
        if isinstance(bandwidth, bool) or not isinstance(bandwidth, (int, float)) or bandwidth < 0:
            raise NotFinished("a bandwidth of %r" % (bandwidth,))
        with self._lock:
            self._bandwidth = float(bandwidth)
            if self._copier is not None:
                self._copier.limit(self._bandwidth)
        return {"ok": True}

    def _stand_by(self, _: Dict[str, Any]) -> Dict[str, Any]:
        """The guest is about to be suspended: what will open the gate begins at the destination."""
        if self._link is None:
            raise NotFinished("the mover is not ready: %s" % self._error)
        self._link.request({"cmd": "stand-by"}, STAND_BY_BOUND)
        return {"ok": True}

    def _await_end(self, message: Dict[str, Any]) -> Dict[str, Any]:
        """Answers when the mirror is over, after AWAIT_BOUND at the latest."""
        if self._mirror is None:
            raise NotFinished("the mover is not ready: %s" % self._error)
        return {"ok": True, "over": self._mirror.await_end(AWAIT_BOUND)}

    def _finish(self, message: Dict[str, Any]) -> Dict[str, Any]:
        with self._lock:
            if self._finished:
                return {"ok": True}
            if self._copier is None or self._copier.status()["state"] != "done":
                raise NotFinished("the copy is %s" % self._status(None)["copy"]["state"])
            assert self._mirror is not None and self._link is not None
            unmirrored = message.get("unmirrored") is True
            self._mirror.require_handover(unmirrored)
            self._link.request({"cmd": "finish", "unmirrored": unmirrored}, FINISH_BOUND)
            self._finished = True
            log.info("finished: the gate is open")
        return {"ok": True}

    def _abort(self, message: Dict[str, Any]) -> Dict[str, Any]:
        """`why`, if that is given: what the receiver is told."""
        if isinstance(message.get("why"), str):
            self._why = message["why"]
            log.info("told to end: %s", self._why)
        self._life.end()
        return {"ok": True}


def run(path: str) -> int:
    """The process, with the spec in the file `path`; its exit code. Raises DataPathError if it
    cannot even begin."""
    required = ("key", "size", "receiver", "secondary", "control", "log", "verified")
    spec = service.load_spec(path, required + ("stall_bound", "max_outstanding"))
    service.start_log(spec["log"], "mover", spec.get("migration", ""))
    service.switch_threads_often()
    life = service.Life(spec.get("orphan_bound", service.ORPHAN_BOUND))
    mover = Mover(spec, life)
    mover.connect()
    control = ControlSocket(spec["control"], mover.handlers)
    try:
        asked = life.wait()
        if not asked:
            log.error(
                "nobody has asked for anything for %s s: giving up",
                spec.get("orphan_bound", service.ORPHAN_BOUND),
            )
    finally:
        mover.close()
        control.close()
    return 0 if asked else 3


if __name__ == "__main__":
    sys.exit(service.main(run, "mover"))
