# SPDX-License-Identifier: LGPL-2.1-only
"""Puts the lab's tap-ctl into the root of a lab host, and ends the tapdisks that run below it."""

import os

from . import engine, nbd_server, records

_SCRIPT = """#!{python} -SE
import os, sys
sys.path.insert(0, {packages!r})
from lab_blktap.tap_ctl import main
code = main({root!r}, sys.argv, {device!r})
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""


def install(root, device=records.BLKTAP4, qcow2=None):
    """Make ROOT/usr/sbin/tap-ctl, which names minors by `device`; `qcow2`: see nbd_server. It runs
    with ROOT/usr/bin/python3, which somebody else puts there.

    -SE: neither `site` nor PYTHONPATH, which would cost more than all that `tap-ctl list` does; nor
    does it tidy up at its end. The real one is C, and takes 2 ms.
    """
    packages = root + "/usr/lib/python3/site-packages"
    program = root + "/usr/sbin/tap-ctl"
    for directory in (packages, os.path.dirname(program), root + "/run"):
        os.makedirs(directory, exist_ok=True)
    link = packages + "/lab_blktap"
    records.unlink_if_there(link)
    os.symlink(os.path.dirname(os.path.abspath(__file__)), link)
    with open(program, "w") as script:
        script.write(
            _SCRIPT.format(
                python=root + "/usr/bin/python3", packages=packages, root=root, device=device
            )
        )
    os.chmod(program, 0o755)
    if qcow2 is not None:
        os.makedirs(root + "/etc", exist_ok=True)
    nbd_server.choose(root, qcow2)


def stop_all(root):
    """Kill every tapdisk that runs below `root` and remove its files. Returns their pids (for
    whoever expects none)."""
    layout = records.Layout(root)
    found = records.living(layout)
    for record in found:
        engine.kill(layout, record)
    return [record.pid for record in found]
