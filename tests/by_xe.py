# SPDX-License-Identifier: LGPL-2.1-only
"""The plugin as an administrator calls it: by xe, in dom0."""

import subprocess

from lab.pools.daemons import environment


def call(host, function, arguments, bound):
    """`xe host-call-plugin` of sxm.py in dom0 of `host`, for `bound` seconds at most: a
    CompletedProcess, with what it printed as text."""
    words = ["host-uuid=" + host.uuid, "plugin=sxm.py", "fn=" + function]
    return subprocess.run(
        [host.root + "/usr/bin/xe", "host-call-plugin"]
        + words
        + ["args:%s=%s" % item for item in arguments.items()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=bound,
        env=environment(host.root),
    )
