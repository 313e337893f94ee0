# SPDX-License-Identifier: LGPL-2.1-only
"""The garbage collector of a host's SM (lab/sm/cleanup.py), run as an administrator does."""

import subprocess

BOUND = 240.0  # seconds for one run


def start(host, *arguments):
    """Start it."""
    return subprocess.Popen(
        (host.root + "/opt/xensource/sm/cleanup.py",) + arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def ended(process):
    """(exit status, what it said of errors)"""
    try:
        _, said = process.communicate(timeout=BOUND)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, said


def run(host, *arguments):
    """Both."""
    return ended(start(host, *arguments))


def start_collecting(host):
    """Start it on the fast SR."""
    return start(host, "-g", "-u", host.xapi.SR.get_uuid(host.fast))


def collect(host):
    """Run it on the fast SR. Fails if it does."""
    assert ended(start_collecting(host)) == (0, "")


def log_of(host):
    with open(host.root + "/var/log/SMlog") as log:
        return log.read()
