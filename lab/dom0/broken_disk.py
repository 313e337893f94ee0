# SPDX-License-Identifier: LGPL-2.1-only
"""Has the file system of a host's journals, /var/lib/sxm, take nothing: full, read-only or failing,
for as long as a test wants it.

Runs before the product on a host (lab.dom0.before), in every Python process of it: in a worker as
in a call of the plugin. While `/etc/lab-broken-disk` is there, it names what happens below that
directory to whoever writes:

    ENOSPC    a file can be made, and takes no byte (it is /dev/full)
    EROFS     none can be made, renamed or removed
    EIO       all of that can be done, and not be synced

It is NOT a file system: what was removed makes no room on it, and other programs and paths see
nothing of it.
"""

import errno
import os

PLACE = "/etc/lab-broken-disk"
JOURNALS = "/var/lib/sxm"
FAULTS = ("ENOSPC", "EROFS", "EIO")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def install(root):
    """Have each Python process that starts from now on at `root` look whether it is broken."""
    from lab.dom0 import before

    before.install(root, __file__)


def break_it(root, fault):
    """From now on nothing can be written. `fault`: one of FAULTS."""
    with open(root + PLACE + ".new", "w") as stream:
        stream.write(fault)
    os.rename(root + PLACE + ".new", root + PLACE)


def mend(root):
    """From now on all can be written."""
    if os.path.exists(root + PLACE):
        os.unlink(root + PLACE)


def end(root):
    """Mend it; processes that start from now on do not look any more."""
    from lab.dom0 import before

    mend(root)
    before.remove(root, __file__)


class _Disk(object):
    def __init__(self, root):
        self._place, self._directory = root + PLACE, root + JOURNALS
        self._open, self._fsync, self._rename, self._unlink = (
            os.open,
            os.fsync,
            os.rename,
            os.unlink,
        )
        os.open, os.fsync, os.rename, os.unlink = self.open, self.fsync, self.rename, self.unlink

    def open(self, path, flags, *args, **kwargs):
        if flags & WRITING:
            fault = self._fault_of(path)
            if fault == "ENOSPC":
                return self._open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
            self._fail(fault, "EROFS")
        return self._open(path, flags, *args, **kwargs)

    def fsync(self, descriptor):
        self._fail(self._fault_of(os.readlink("/proc/self/fd/%d" % descriptor)), "EIO")
        self._fsync(descriptor)

    def rename(self, source, target, **kwargs):
        self._fail(self._fault_of(target), "EROFS")
        self._rename(source, target, **kwargs)

    def unlink(self, path, **kwargs):
        self._fail(self._fault_of(path), "EROFS")
        self._unlink(path, **kwargs)

    def _fault_of(self, path):
        """What happens to whoever writes to a path, or None."""
        if not isinstance(path, str) or not (path + "/").startswith(self._directory + "/"):
            return None
        try:
            with open(self._place) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    @staticmethod
    def _fail(fault, of):
        if fault == of:
            raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))


if __name__.startswith("lab_before."):
    _Disk(os.environ.get("SXM_ROOT", ""))
