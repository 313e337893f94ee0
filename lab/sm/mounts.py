# SPDX-License-Identifier: LGPL-2.1-only
"""Mounting the file system of an SR at its mount point."""

import os

from sm.core import util


def mounted(path):
    """Whether a file system is mounted at `path`."""
    with open("/proc/self/mounts") as mounts:
        return any(line.split(" ")[1] == path for line in mounts)


def mount(source, path, kind, options):
    """Mount `source` at `path`, which is made. Raises CommandException."""
    os.makedirs(path, exist_ok=True)
    try:
        util.pread(["mount", "-t", kind, "-o", options, source, path])
    except util.CommandException:
        os.rmdir(path)
        raise


def unmount(path):
    """Unmount what is mounted at `path`, and remove the mount point. Raises CommandException if it
    is in use."""
    util.pread(["umount", path])
    os.rmdir(path)
