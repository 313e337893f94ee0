# SPDX-License-Identifier: LGPL-2.1-only
"""Has the next `vdi_create` of a host, or `vdi_clone`, die by kill -9 when the image is made, and
before xapi is told of it.

Runs before sm's drivers on a host (lab.dom0.before) while a test asks for it: as long as
`/etc/lab-dying-create` is there, which the one that dies takes away.
"""

import os
import signal

PLACE = "/etc/lab-dying-create"


def arm(root, command="vdi_create"):
    """The next such command at `root` dies."""
    from lab.dom0 import before

    before.install(root, __file__, PLACE, command)


def disarm(root):
    """Take it away again. Whether one has died."""
    from lab.dom0 import before

    return before.remove(root, __file__, PLACE) is None


def _die_in(place):
    from storage_motion.sm import stock_sm

    def introduce(vdi):
        os.unlink(place)
        os.kill(os.getpid(), signal.SIGKILL)

    stock_sm.module("VDI").VDI._db_introduce = introduce


if __name__.startswith("lab_before."):
    _place = os.environ.get("SXM_ROOT", "") + PLACE
    if os.path.exists(_place):
        with open("/proc/self/cmdline") as _stream:  # sys.argv is not there yet
            with open(_place) as _command:
                _dies = "<methodName>%s<" % _command.read() in _stream.read()
        if _dies:
            _die_in(_place)
