"""This process's own command line, as everybody on the host reads it in /proc."""
import os

# Fields of /proc/PID/stat, counted from the one behind the name (proc(5): 48 and 49, since Linux 3.5).
ARG_START, ARG_END = 45, 46


def hide():
    """Blank the last argument in /proc/self/cmdline; `sys.argv` keeps it.

    xapi hands a plugin its call in argv[1], with all arguments: a password among them would be there to read in `ps` for as
    long as the plugin waits for a migration to end. Raises OSError where the kernel does not let us."""
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
