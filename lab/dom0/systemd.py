# SPDX-License-Identifier: LGPL-2.1-only
"""Puts the lab's systemd-run and systemctl on a host, and the product's units as its package
installs them.

What they do is in `units`, which runs them; here is what a test says about them.
"""

import os
import sys

from lab.dom0 import scripts
from lab.dom0.units import keeper, programs, states

HERE = os.path.dirname(os.path.abspath(__file__))
PLACE = "/usr/lib/systemd/system"
WORKER = "sxm-worker@.service"
HELD = "/etc/systemd/system/%s.d/held.conf" % WORKER
_PROGRAM = """#!%s -SE
import sys
sys.path.insert(0, %r)
from units import programs
sys.exit(programs.main(%r, sys.argv))
"""


def install(root):
    """Make ROOT/usr/bin/systemd-run and systemctl, and have the host booted with systemd."""
    os.makedirs(root + keeper.BOOTED, exist_ok=True)
    for name in programs.PROGRAMS:
        path = scripts.install_text(
            _PROGRAM % (sys.executable, HERE, root), root, "/usr/bin/" + name
        )
        os.chmod(path, 0o755)


def install_unit(text, root, name):
    """Install a unit file of the product; absolute paths in its commands become those of this host.
    Returns the path."""
    lines = []
    for line in text.splitlines():
        if line.startswith("Exec"):
            for absolute in ("/usr/bin/python3", "/var/log/"):
                line = line.replace(absolute, root + absolute)
        lines.append(line)
    return scripts.install_text("\n".join(lines) + "\n", root, "%s/%s" % (PLACE, name))


def hold(root):
    """Have a worker that dies on this host stay dead: what a test of `recover`, or of what it
    finds, wants. An administrator would do it so."""
    scripts.install_text("[Service]\nRestart=no\n", root, HELD)


def release(root, after=None):
    """Have a worker that dies on this host started again, as on any host; `after` so many seconds,
    where the test has no time for those of its unit."""
    if after is not None:
        scripts.install_text("[Service]\nRestartSec=%d\n" % after, root, HELD)
    elif os.path.exists(root + HELD):
        os.unlink(root + HELD)


def failed(root):
    """The units of this host that systemd keeps as failed: sentences."""
    return sorted(
        "%s has failed" % name
        for name, state in states.loaded(root).items()
        if state["ActiveState"] == "failed"
    )
