# SPDX-License-Identifier: LGPL-2.1-only
"""The movers of a migration, one process per disk, and what can be asked of them (docs/design.md,
3: the mover's control socket)."""

import json
import os
from typing import Any, Dict, Optional

from storage_motion import waiting
from storage_motion.dom0 import launch, root
from storage_motion.errors import ConnectionLost, MotionError, MoverFailed
from storage_motion.journal import closing, journal, secret_files
from storage_motion.migration import verified_before
from storage_motion.source import windows
from storage_motion.wire import control_socket
from storage_motion.wire.json_lines import MAX_REASON
from storage_motion.wire.mover_status import BROKEN, ENDED

MODULE = "storage_motion.source.mover"
LOG = "/var/log/sxm.log"
READY_TIMEOUT = 30.0
ANSWER_TIMEOUT = 15.0
STAND_BY_TIMEOUT = 130.0
AWAIT_TIMEOUT = 25.0  # the mover answers within 10 s
FINISH_TIMEOUT = 310.0  # the receiver closes a tapdisk meanwhile; the mover's own bound is 300 s
STALL_BOUND = 5.0  # seconds: what a guest's disk may pause unnoticed (docs/design.md, 1)
# mirrored writes; at 353 the real tapdisk loses them (docs/facts/tapdisk-and-sm.md section 4)
MAX_OUTSTANDING = 300


class MoverHandle:
    """The mover of one disk."""

    def __init__(self, migration: str, key: str, index: int, given_up: int = 0) -> None:
        """`index`: of the disk; `given_up`: how many movers of it have been. By its secondary a
        snapshot is known again, and which mirror it was taken for: that of another try lacks what
        the guest has written since."""
        directory = journal.run_directory(migration)
        self.key = key
        self._migration = migration
        self._index = index
        # Short names: an AF_UNIX path has at most 107 bytes.
        self.secondary = os.path.join(directory, "m%d-%d.nbd" % (index, given_up))
        self._control = os.path.join(directory, "m%d.ctl" % index)
        self._spec = os.path.join(directory, "m%d.json" % index)
        self._extents = os.path.join(directory, "e%d.json" % index)
        self._changed = os.path.join(directory, "c%d.json" % index)
        # what it has verified; that of the mover before is still needed when this one begins
        self.verified = os.path.join(directory, "v%d-%d.map" % (index, given_up))
        self._share = os.path.join(directory, "m%d.sent" % index)

    def start(self, size: int) -> launch.Process:
        """Start the process for a disk of `size` bytes. Returns its Process once it answers. Raises
        MoverFailed."""
        spec = {
            "migration": self._migration,
            "key": self.key,
            "size": size,
            "receiver": secret_files.get(self._migration, "receiver"),
            "secondary": self.secondary,
            "control": self._control,
            "verified": self.verified,
            "stall_bound": STALL_BOUND,
            "max_outstanding": MAX_OUTSTANDING,
            "log": root.path(LOG),
            "share": {
                "file": self._share,
                "others": os.path.join(root.path(journal.RUN), "*", "m*.sent"),
            },
        }
        journal.replace(self._spec, json.dumps(spec), sync=False)
        if os.path.exists(self._control):
            # of one that was killed: who connects there is told that nobody listens
            os.unlink(self._control)
        process = launch.start(
            "mover-%s-%d" % (self._migration, self._index), launch.python_module(MODULE, self._spec)
        )

        def ready() -> Optional[Dict[str, Any]]:
            if not process.alive():
                raise MoverFailed(self.key, "ended at once; see %s" % LOG)
            if not os.path.exists(self._control):
                return None
            status = self.status()
            if status["state"] == BROKEN:
                raise MoverFailed(self.key, str(status.get("error")))
            return status

        waiting.until(ready, READY_TIMEOUT, "mover of %s" % self.key)
        return process

    def status(self) -> Dict[str, Any]:
        """What it says of itself (docs/design.md, 3). `clean` is false of a mirror that the guest
        has ended by itself. Raises MoverFailed."""
        status = self._ask({"cmd": "status"}, ANSWER_TIMEOUT)
        # Looked for afterwards: a guest that closes its disk has had it told before
        # (journal/closing.py).
        if status["state"] == ENDED and closing.noted(self._migration):
            status["clean"] = False
        return status

    def copy(
        self,
        source: Dict[str, Any],
        extents: Dict[str, Any],
        blank: bool,
        heading: Dict[str, Any],
        compare: bool = False,
        known: Optional[verified_before.Known] = None,
        based: bool = False,
    ) -> None:
        """Have it copy `extents` ({"size", "extents"}) from `source`, what vdi_copy_open has
        answered. `blank`: the destination reads as zeros; `heading`: of the file in which it notes
        what is verified; `compare`: the destination may have some of it already; `known`: what it
        has for sure; `based`: it has all but `extents`."""
        journal.replace(self._extents, windows.listed(extents), sync=False)
        before = None
        if known is not None:
            journal.replace(self._changed, windows.listed(known.changed), sync=False)
            before = {"verified": known.verified, "changed": self._changed}
        self._order(
            {
                "cmd": "copy",
                "socket": source["socket"],
                "depth": source["depth"],
                "extents": self._extents,
                "blank": blank,
                "heading": heading,
                "compare": compare,
                "known": before,
                "based": based,
            },
            ANSWER_TIMEOUT,
        )

    def limit(self, bandwidth: float) -> None:
        """Have it send at most so many bytes per second, mirror and copy together; 0: as much as
        goes. Raises MoverFailed."""
        self._order({"cmd": "limit", "bandwidth": bandwidth}, ANSWER_TIMEOUT)

    def stand_by(self) -> None:
        """Have the destination prepared for `finish`, which is quicker then. Raises MoverFailed."""
        self._order({"cmd": "stand-by"}, STAND_BY_TIMEOUT)

    def await_end(self) -> bool:
        """Wait for some seconds for the mirror to be ended or broken. Whether it is. Raises
        MoverFailed."""
        answer = self._ask({"cmd": "await-end"}, AWAIT_TIMEOUT)
        return answer.get("over") is True

    def finish(self, mirrored: bool) -> None:
        """Have the destination closed and its gate opened. Raises MoverFailed if it will not."""
        self._order(
            {"cmd": "finish"} if mirrored else {"cmd": "finish", "unmirrored": True}, FINISH_TIMEOUT
        )

    def end(
        self,
        process: Optional[launch.Process],
        command: str,
        timeout: float = 10.0,
        why: Optional[str] = None,
    ) -> None:
        """`command` "abort" or "exit": tell it to go, and see to it that it has. Nothing to do for
        one that is gone. `why`: what the destination is told, where that can be."""
        if process is None:
            # It may have been started by a worker that died before it could note that.
            for orphan in launch.running(MODULE, self._spec):
                orphan.stop()
            return
        if not process.alive():
            return
        try:
            self._ask(dict({"cmd": command}, **({"why": why[:MAX_REASON]} if why else {})), timeout)
        except MoverFailed:
            # a mover that does not answer is ended all the same: its sockets close, and the guest
            # runs on alone
            pass
        if not process.gone(timeout):
            process.stop()

    def _order(self, message: Dict[str, Any], timeout: float) -> None:
        answer = self._ask(message, timeout)
        if answer.get("ok") is not True:
            raise MoverFailed(self.key, str(answer.get("error")))

    def _ask(self, message: Dict[str, Any], timeout: float) -> Dict[str, Any]:
        try:
            return control_socket.request(self._control, message, timeout)
        except ConnectionLost as error:
            raise MoverFailed(self.key, "no answer: %s" % error.details[0])
        except MotionError as error:
            raise MoverFailed(self.key, str(error))
