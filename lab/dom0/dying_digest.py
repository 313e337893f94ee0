# SPDX-License-Identifier: LGPL-2.1-only
"""Has the next `selftest-digest` of a host die by kill -9 while it reads the disk.

Runs before the product's plugin on a host (lab.dom0.before) while a test asks for it: as long as
`/etc/lab-dying-digest` is there, which the one that dies takes away.
"""

import os
import signal

PLACE = "/etc/lab-dying-digest"


def arm(root):
    """The next digest at `root` dies."""
    from lab.dom0 import before

    before.install(root, __file__, PLACE)


def disarm(root):
    """Take it away again. Whether one has died."""
    from lab.dom0 import before

    return before.remove(root, __file__, PLACE) is None


def _die_in(place):
    from storage_motion.api import selftest

    def die(socket, depth):
        os.unlink(place)
        os.kill(os.getpid(), signal.SIGKILL)

    selftest._sha256 = die


if __name__.startswith("lab_before."):
    _place = os.environ.get("SXM_ROOT", "") + PLACE
    if os.path.exists(_place):
        with open("/proc/self/cmdline") as _stream:  # sys.argv is not there yet
            if "sxm.py" in _stream.read():
                _die_in(_place)
