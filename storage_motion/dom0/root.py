# SPDX-License-Identifier: LGPL-2.1-only
"""Where dom0's file system begins: `/` on a host, `$SXM_ROOT` for a host of the lab
(docs/design.md, 4)."""

import os
import stat


def root() -> str:
    """The root directory of this host, without a trailing slash: `""` on a real one."""
    return os.environ.get("SXM_ROOT", "/").rstrip("/")


def path(absolute: str) -> str:
    """The path on this machine of dom0's `absolute` (a path that begins with `/`)."""
    if not absolute.startswith("/"):
        raise ValueError("not an absolute path: %r" % absolute)
    return root() + absolute


def private_directory(absolute: str) -> str:
    """Make dom0's directory `absolute`, for root alone (0700), where it is missing, and return its
    path here.

    One that somebody made, and left open to others, is closed to them."""
    here = path(absolute)
    os.makedirs(here, mode=0o700, exist_ok=True)
    if stat.S_IMODE(os.stat(here).st_mode) != 0o700:
        os.chmod(here, 0o700)
    return here


def private_file(absolute: str) -> str:
    """The same for an empty file (0600), and the directory that it is in, which is as it is. Its
    path here."""
    here = path(absolute)
    os.makedirs(os.path.dirname(here), exist_ok=True)
    descriptor = os.open(here, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return here


def free_bytes(here: str) -> int:
    """What root may still write to the file system of a path of this machine."""
    found = os.statvfs(here)
    return found.f_bavail * found.f_frsize
