"""The movers of a migration, one process per disk, and what can be asked of them (contract: the mover's control socket)."""
import errno
import json
import os

from storage_motion.control import closing, journal, secrets, waiting
from storage_motion.data import control_socket
from storage_motion.dom0 import launch
from storage_motion.errors import ConnectionLost, DestinationFull, MirrorBroken, MotionError, MoverFailed

MODULE = "storage_motion.data.mover"
LOG = "/var/log/sxm.log"
READY_TIMEOUT = 30.0
ANSWER_TIMEOUT = 15.0
FINISH_TIMEOUT = 310.0     # the receiver closes a tapdisk meanwhile; the mover's own bound is 300 s
STALL_BOUND = 5.0          # seconds (DESIGN section 1)
MAX_OUTSTANDING = 300      # mirrored writes; at 353 the real tapdisk loses them (facts/tapdisk-and-sm.md section 4)
READY, MIRRORING, BROKEN, ENDED = "ready", "mirroring", "broken", "ended"


def fault_of(key, status, why):
    """The error that says what has broken a disk: its mover's `status`, `why` in words."""
    if errno.ENOSPC in (status.get("errno"), (status.get("copy") or {}).get("errno")):
        return DestinationFull(key, why)
    return MirrorBroken(key, why)


class Mover:
    """The mover of one disk."""

    def __init__(self, migration, key, index, given_up=0):
        """`index`: of the disk; `given_up`: how many movers of it have been. By its secondary a snapshot is known again, and
        which mirror it was taken for: that of another try lacks what the guest has written since."""
        directory = journal.run_directory(migration)
        self.key = key
        self._migration = migration
        self._index = index
        # Short names: an AF_UNIX path has at most 107 bytes.
        self.secondary = os.path.join(directory, "m%d-%d.nbd" % (index, given_up))
        self._control = os.path.join(directory, "m%d.ctl" % index)
        self._spec = os.path.join(directory, "m%d.json" % index)
        self._extents = os.path.join(directory, "e%d.json" % index)

    def start(self, size):
        """Start the process for a disk of `size` bytes. Returns its Process once it answers. Raises MoverFailed."""
        spec = {"migration": self._migration, "key": self.key, "size": size,
                "receiver": secrets.get(self._migration, "receiver"), "secondary": self.secondary,
                "control": self._control, "stall_bound": STALL_BOUND, "max_outstanding": MAX_OUTSTANDING,
                "log": launch.root.path(LOG)}
        journal.replace(self._spec, json.dumps(spec), sync=False)
        if os.path.exists(self._control):
            os.unlink(self._control)    # of one that was killed: who connects there is told that nobody listens
        process = launch.start("mover-%s-%d" % (self._migration, self._index), launch.python_module(MODULE, self._spec))

        def ready():
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

    def status(self):
        """Its status: see the contract. `clean` is false of a mirror that the guest has ended by itself. Raises MoverFailed."""
        status = self._ask({"cmd": "status"}, ANSWER_TIMEOUT)
        # Looked for afterwards: a guest that closes its disk has had it told before (control/closing.py).
        if status["state"] == ENDED and closing.noted(self._migration):
            status["clean"] = False
        return status

    def copy(self, source, extents, blank, compare=False):
        """Have it copy `extents` ({"size", "extents"}) from `source`, what vdi_copy_open has
        answered. `blank`: the destination reads as zeros;
        `compare`: it may have some of it already."""
        journal.replace(self._extents, json.dumps(extents), sync=False)
        self._order({"cmd": "copy", "socket": source["socket"], "depth": source["depth"],
                     "extents": self._extents, "blank": blank, "compare": compare},
                    ANSWER_TIMEOUT)

    def finish(self, mirrored):
        """Have the destination closed and its gate opened. Raises MoverFailed if it will not."""
        self._order({"cmd": "finish"} if mirrored else {"cmd": "finish", "unmirrored": True}, FINISH_TIMEOUT)

    def end(self, process, command, timeout=10.0):
        """`command` "abort" or "exit": tell it to go, and see to it that it has. Nothing to do for one that is gone."""
        if process is None:
            # It may have been started by a worker that died before it could note that.
            for orphan in launch.running(MODULE, self._spec):
                orphan.stop()
            return
        if not process.alive():
            return
        try:
            self._ask({"cmd": command}, timeout)
        except MoverFailed:
            pass  # a mover that does not answer is ended all the same: its sockets close, and the guest runs on alone
        if not process.gone(timeout):
            process.stop()

    def _order(self, message, timeout):
        answer = self._ask(message, timeout)
        if answer.get("ok") is not True:
            raise MoverFailed(self.key, str(answer.get("error")))

    def _ask(self, message, timeout):
        try:
            return control_socket.request(self._control, message, timeout)
        except ConnectionLost as error:
            raise MoverFailed(self.key, "no answer: %s" % error.details[0])
        except MotionError as error:
            raise MoverFailed(self.key, str(error))
