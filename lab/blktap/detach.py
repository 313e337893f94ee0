# SPDX-License-Identifier: LGPL-2.1-only
"""Lets go of what a forked process has from whoever ran tap-ctl."""

import os


def keep_only(kept, log=None):
    """Close every open file but `kept` (an fd, or a tuple of them): locks and pipes of the caller
    must not live on, and a caller that waits for the end of tap-ctl's output must not wait for this
    process. Standard output and error go to the file `log`, or nowhere."""
    null = os.open("/dev/null", os.O_RDWR)
    output = null if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, standard in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, standard)
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in (kept if isinstance(kept, tuple) else (kept,)):
            _close(fd)


def _close(fd):
    try:
        os.close(fd)
    except OSError:
        pass  # the listing's own
