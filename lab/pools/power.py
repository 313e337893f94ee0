# SPDX-License-Identifier: LGPL-2.1-only
"""Power failure of a host of the lab, and its boot.

All processes of the host die at once, and what a real host keeps in memory only is gone: /run
(xenopsd's state too, which xcp-ng keeps in /run/nonpersistent), /var/lock, /dev/sm. At boot xapi
finds that its host has booted (lab.xapi.startup): VMs that were resident are halted, PBDs are
plugged anew, with sm's own reset of the marks in sm_config.

What it is not: the page cache of this machine survives, so a write that was never synced is NOT
lost here.
"""

import contextlib
import os
import shutil
import signal

from lab.pools import roots
from lab.pools.daemons import end_all_of, of_root

VOLATILE = ("run", "var/lock", "dev/sm", "var/lib/xenopsd")
DAEMONS = ("xapi", "xenopsd")


def fail(lab, host):
    """Cut the power of `host`; the command lines of what ran there."""
    running = of_root(host.root)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    late = end_all_of(host.root)  # what was just being started
    for daemon in DAEMONS:
        if "%s/%s" % (host.name, daemon) in lab.daemons.names():
            host.kill(daemon)
    for directory in VOLATILE:
        shutil.rmtree(os.path.join(host.root, directory))
    for pool in lab.pools:
        pool.forget_session()
    return list(running.values()) + list(late.values())


def boot(lab, host):
    """Switch it on again, and wait until xapi and xenopsd serve."""
    roots.make_directories(host.root)
    host.start_xenopsd()
    host.start_xapi()
    for pool in lab.pools:
        pool.forget_session()
