# SPDX-License-Identifier: LGPL-2.1-only
"""A receiver whose gates are files: what `storage_motion.destination.receiver` is, without SM and
xapi."""

import os
import sys

from storage_motion.destination import receiver
from storage_motion.errors import MotionError
from storage_motion.wire import service


class FileGates:
    """`gate-<vdi>`: the gate is open. `gate-is-stuck`: nothing can be done about any.
    `opened-again`: the VDIs whose gates were shut again. `standing-by`: what was told to stand by
    and since, a line each."""

    def __init__(self, directory):
        self._directory = directory

    def open(self, sr, vdi):
        if os.path.exists(self._path("gate-is-stuck")):
            raise MotionError("the gate is stuck")
        with open(self._path("gate-" + vdi), "w") as gate:
            gate.write(sr)

    def stand_by(self, sr, vdi):
        self._tell("stand by %s %s" % (sr, vdi))

    def close_disk(self, vdi):
        self._tell("close %s" % vdi)

    def stand_down(self, vdi):
        self._tell("stand down %s" % vdi)

    def _tell(self, line):
        with open(self._path("standing-by"), "a") as told:
            told.write(line + "\n")

    def hold_open(self, sr, vdi):
        if not os.path.exists(self._path("gate-" + vdi)):
            self.open(sr, vdi)
            with open(self._path("opened-again"), "a") as told:
                told.write(vdi + "\n")

    def keep_writable(self, places):
        if places:
            with open(self._path("kept-writable"), "w") as told:
                told.write(repr(places))

    def keeps_out(self):
        return False

    def end_guard(self):
        pass

    def close(self):
        pass

    def _path(self, name):
        return os.path.join(self._directory, name)


if __name__ == "__main__":
    receiver.LOOK = receiver.GUARD = 0.02
    sys.exit(
        service.main(lambda path: receiver.run(path, FileGates(os.path.dirname(path))), "receiver")
    )
