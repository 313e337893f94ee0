# SPDX-License-Identifier: LGPL-2.1-only
"""What the processes of a lab are doing just now, for whoever looks into a test that has waited in
vain: where the threads of each stand in the code of this checkout, by py-spy."""

import json
import os
import subprocess
import sys

from lab.pools.daemons import of_root
from lab.pools.roots import REPOSITORY

SPY = os.path.join(os.path.dirname(sys.executable), "py-spy")
BOUND = 20.0  # seconds for one process
DEEP = 4  # frames of a thread
WORDS = 110  # characters of a command line


def told(lab):
    """Of each process of each host two lines or more: its pid, what it waits for in the kernel and
    its command, then each of its threads that is in our code."""
    lines = []
    for host in lab.hosts:
        for pid, command in sorted(of_root(host.root).items()):
            short = command.replace(host.root, "")[:WORDS]
            lines.append("%s %d (%s) %s" % (host.name, pid, _waits_for(pid), short))
            lines += ["    " + thread for thread in _threads(pid)]
    return "\n".join(lines)


def _waits_for(pid):
    try:
        with open("/proc/%d/wchan" % pid) as stream:
            return stream.read() or "-"
    except OSError as error:
        return error.strerror


def _threads(pid):
    """One line each, the innermost call first; none of what is no Python."""
    try:
        dump = subprocess.run(
            [SPY, "dump", "--json", "--nonblocking", "--pid", str(pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=BOUND,
        ).stdout
        threads = json.loads(dump.decode())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    found = []
    for thread in threads:
        ours = [
            "%s:%d %s" % (frame["short_filename"], frame["line"], frame["name"])
            for frame in thread["frames"]
            if _is_ours(frame["filename"])
        ]
        if ours:
            found.append("%s: %s" % (thread["thread_name"], " < ".join(ours[:DEEP])))
    return found


def _is_ours(path):
    return (
        path.startswith(REPOSITORY + "/")
        or "/site-packages/storage_motion/" in path
        or ("/opt/xensource/" in path)
    )
