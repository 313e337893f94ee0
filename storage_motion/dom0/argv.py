# SPDX-License-Identifier: LGPL-2.1-only
"""This process's own command line, as everybody on the host reads it in /proc; and its streams."""

import io
import os
import sys

# Fields of /proc/PID/stat, counted from the one behind the name (proc(5): 48 and 49, since Linux
# 3.5).
ARG_START, ARG_END = 45, 46


def hide() -> None:
    """Blank the last argument in /proc/self/cmdline; `sys.argv` keeps it.

    xapi hands a plugin its call in argv[1], with all arguments: a password among them would be
    there to read in `ps` for as long as the plugin waits for a migration to end. Raises OSError
    where the kernel does not let us."""
    with open("/proc/self/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    with open("/proc/self/cmdline", "rb") as cmdline:
        last = cmdline.read().rstrip(b"\0").rpartition(b"\0")[2]
    end = int(fields[ARG_END])
    memory = os.open("/proc/self/mem", os.O_RDWR)
    try:
        # Backwards from the end: arguments may be followed by NULs only.
        found = os.pread(memory, end - int(fields[ARG_START]), int(fields[ARG_START]))
        at = found.rstrip(b"\0").rindex(last)
        os.pwrite(memory, bytes(len(last)), int(fields[ARG_START]) + at)
    finally:
        os.close(memory)


def speak_utf8() -> None:
    """Take the arguments for UTF-8, and write it. xapi runs a plugin with nothing but PATH in its
    environment (`default_path_env_pair`, forkhelpers.ml), and without a LANG Python 3.6 takes both
    for ASCII: a name or a password that is not would end the plugin."""
    sys.argv[:] = [os.fsencode(argument).decode("utf-8", "replace") for argument in sys.argv]
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                stream.detach(), encoding="utf-8", errors="backslashreplace", line_buffering=True
            ),
        )
