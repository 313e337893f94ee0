# SPDX-License-Identifier: LGPL-2.1-only
"""What a lab leaves behind for whoever looks into a failure: it is gone once the lab is down."""

import os
import shutil

from lab.xapi.on_disk import STATE

KEPT = ("var/log", "var/lib/sxm", "var/lib/xenopsd")


def keep(lab, directory):
    """Copy each host's logs, journals and domains, and each pool's database as it is on disk, into
    `directory`, in the place of what is there."""
    shutil.rmtree(directory, ignore_errors=True)
    for host in lab.hosts:
        for kept in KEPT:
            if os.path.isdir(os.path.join(host.root, kept)):
                shutil.copytree(
                    os.path.join(host.root, kept),
                    os.path.join(directory, host.name, kept),
                    ignore=_sockets,
                )
    for pool in lab.pools:
        state = pool.master.root + STATE
        if os.path.exists(state):
            shutil.copyfile(state, os.path.join(directory, "database-%s.json" % pool.name))


def _sockets(directory, names):
    paths = {name: os.path.join(directory, name) for name in names}
    return [
        name for name, path in paths.items() if not (os.path.isfile(path) or os.path.isdir(path))
    ]
