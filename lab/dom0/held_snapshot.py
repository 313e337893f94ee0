# SPDX-License-Identifier: LGPL-2.1-only
"""Has the next `vdi_snapshot` of a host, or another command that pauses a disk, stand still at a
moment, until the test lets it go on.

Runs before sm's drivers on a host (lab.dom0.before) while a test asks for it.
`/etc/lab-held-snapshot` says at which of MOMENTS, and which command; the one that stands still
writes its pid there instead.
"""

import contextlib
import os
import signal
import time

PLACE = "/etc/lab-held-snapshot"
PAUSED, MADE, GOING = "paused", "made", "going"
MOMENTS = (PAUSED, MADE, GOING)
"""The tapdisk is paused, and nothing else done; the images are made, and xapi not told; the tapdisk
goes on, and SM's mark is still there."""
POLL = 0.02  # seconds


def arm(root, moment, command="vdi_snapshot"):
    """The next one at `root` will stand still there. (Only a snapshot comes to MADE.)"""
    from lab.dom0 import before

    before.install(root, __file__, PLACE, "%s %s" % (moment, command))


def held(root, bound):
    """Wait until it stands still; its pid. Raises AssertionError after `bound` seconds."""
    deadline = time.monotonic() + bound
    while True:
        with open(root + PLACE) as stream:
            pid = stream.read()
        if pid.isdigit() and _stands_still(pid):
            return int(pid)
        assert time.monotonic() < deadline, "no snapshot is taken"
        time.sleep(POLL)


def let_go(root):
    """It goes on, and no other stands still."""
    from lab.dom0 import before

    pid = before.remove(root, __file__, PLACE)
    if pid and pid.isdigit():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGCONT)


def _stands_still(pid):
    with contextlib.suppress(FileNotFoundError):
        with open("/proc/%s/stat" % pid) as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"
    return False


def _stand_still(place):
    with open(place) as stream:
        if stream.read().partition(" ")[0] not in MOMENTS:
            return  # it has happened
    with open(place + ".new", "w") as stream:
        stream.write(str(os.getpid()))
    os.rename(place + ".new", place)
    os.kill(os.getpid(), signal.SIGSTOP)


def _hold_at(moment, place):
    from storage_motion.sm import stock_sm

    if moment == MADE:
        stock = stock_sm.module("VDI").VDI
        introduce = stock._db_introduce

        def introduced(vdi):
            _stand_still(place)
            return introduce(vdi)

        stock._db_introduce = introduced
        return
    tapped = stock_sm.module("blktap2").VDI
    call, wanted = tapped.call_pluginhandler, "pause" if moment == PAUSED else "unpause"

    def called(session, host_ref, sr_uuid, vdi_uuid, action, *args, **kwargs):
        done = call(session, host_ref, sr_uuid, vdi_uuid, action, *args, **kwargs)
        if action == wanted:
            _stand_still(place)
        return done

    tapped.call_pluginhandler = called


if __name__.startswith("lab_before."):
    from sitecustomize import setting

    _moment, _, _command = (setting(PLACE) or "").partition(" ")
    if _moment in MOMENTS:
        with open("/proc/self/cmdline") as _stream:  # sys.argv is not there yet
            _is_one = "<methodName>%s<" % _command in _stream.read()
        if _is_one:
            _hold_at(_moment, os.environ.get("SXM_ROOT", "") + PLACE)
