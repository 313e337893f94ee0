# SPDX-License-Identifier: LGPL-2.1-only
"""What each tapdisk is at, kept in files below /run/blktap-control: everything `tap-ctl list` has
to read.

    ctl<pid>              control socket (one of the two monitors of the qemu-storage-daemon)
    nbd<pid>.<minor>      NBD socket of an open vbd
    tapdisk/tapdisk-<n>   marker of an allocated minor, as on the real one
    lab/<pid>             the record: lines of key=value, replaced atomically
    lab/<pid>.*           lock, log, second monitor, held NBD socket, FIFO of a withheld reply; and
    what nbd_server has

Imports nothing but `os`, `fcntl` and `errno`: `tap-ctl list` runs every 20 ms while a pause is
poked.
"""

import errno
import fcntl
import os

DEAD, CLOSED, QUIESCE_REQUESTED, QUIESCED, PAUSE_REQUESTED, PAUSED = (
    0x01,
    0x02,
    0x04,
    0x08,
    0x10,
    0x20,
)
RESUME_FAILED = 0x200
RUNNING = 0
PAUSING_STATE = QUIESCE_REQUESTED | PAUSE_REQUESTED  # 0x14
PAUSED_STATE = CLOSED | QUIESCED | PAUSED  # 0x2a

MAX_MINORS = 16384

BLKTAP4 = "/run/blktap-control/tapdisk/tapdisk-%d"
"""How `tap-ctl create` and `allocate` name a minor since blktap 4: the marker that it is taken
(tap-ctl-allocate.c)."""
BLKTAP2 = "/dev/xen/blktap-2/tapdev%d"
"""The same of blktap 3, which has a device of the kernel's blktap2 for it."""


class Layout(object):
    """The paths of blktap below one root directory (`""` is the machine's own)."""

    def __init__(self, root, device=BLKTAP4):
        self.root = root
        self._device = root + device
        self.kernels = device == BLKTAP2  # whether the kernel has a device for each minor
        self.control = root + "/run/blktap-control"
        self.markers = self.control + "/tapdisk"
        self.lab = self.control + "/lab"

    def prepare(self):
        """Make the directories, for their owner alone, as tap-ctl does."""
        for directory in (self.control, self.markers, self.lab):
            os.makedirs(directory, mode=0o700, exist_ok=True)

    def marker(self, minor):
        return "%s/tapdisk-%d" % (self.markers, minor)

    def device(self, minor):
        """What tap-ctl prints for a minor."""
        return self._device % minor

    def ctl(self, pid):
        return "%s/ctl%d" % (self.control, pid)

    def nbd(self, pid, minor):
        return "%s/nbd%d.%d" % (self.control, pid, minor)

    def ring(self, pid):
        """Where the guest has QEMU's server of a vbd with a NBD server of its own (nbd_server)."""
        return "%s/%d.ring" % (self.lab, pid)

    def held_ring(self, pid):
        """Where that is while the vbd is paused."""
        return "%s/%d.held-ring" % (self.lab, pid)

    def server(self, pid):
        """The note of that NBD server: its pid and when it started."""
        return "%s/%d.server" % (self.lab, pid)

    def servers(self):
        """The paths of those that there are."""
        names = [name for name in _names(self.lab) if name.endswith(".server")]
        return ["%s/%s" % (self.lab, name) for name in sorted(names)]

    def wake(self, pid):
        """The FIFO by which it is woken."""
        return "%s/%d.wake" % (self.lab, pid)

    def stuck(self, pid):
        """There if the vbd cannot be paused any more."""
        return "%s/%d.stuck" % (self.lab, pid)

    def commit(self, pid):
        """What a merge below the disk is at (commit)."""
        return "%s/%d.commit" % (self.lab, pid)

    def unflushed(self, pid):
        """What it has merged, and not yet written."""
        return "%s/%d.unflushed" % (self.lab, pid)

    def held_nbd(self, pid):
        """Where the NBD socket is while the vbd is paused."""
        return "%s/%d.held" % (self.lab, pid)

    def record(self, pid):
        return "%s/%d" % (self.lab, pid)

    def stats_monitor(self, pid):
        return "%s/%d.stats" % (self.lab, pid)

    def reply_fifo(self, pid):
        return "%s/%d.reply" % (self.lab, pid)

    def log(self, pid):
        return "%s/%d.log" % (self.lab, pid)

    def lock(self, pid):
        return "%s/%d.lock" % (self.lab, pid)


class Record(object):
    """One tapdisk and, once attached, its vbd.

    `minor` and `state` are None until a vbd is attached; `args` ("type:path") is None while no
    image is open; `images` are the "type:path" of the open chain, leaf first; `secondary` is the
    target that an unpause attaches again (None, or what followed `nbd:`); `size` is in bytes; `log`
    is the file of the layer that tracks changed blocks, if there is that layer.
    """

    def __init__(self, pid, start):
        self.pid = pid
        self.start = start
        self.minor = None
        self.state = None
        self.args = None
        self.readonly = False
        self.size = 0
        self.images = []
        self.secondary = None
        self.mirror_attached = False
        self.mirror_failed = False
        self.log = None

    def alive(self):
        """Whether the process that the record was written for still runs."""
        return start_time(self.pid) == self.start


# name in the file, how to write it, how to read it
_FIELDS = (
    ("minor", str, int),
    ("state", str, int),
    ("args", str, str),
    ("readonly", lambda value: str(int(value)), lambda text: text == "1"),
    ("size", str, int),
    ("images", "\t".join, lambda text: text.split("\t")),
    ("secondary", str, str),
    ("mirror_attached", lambda value: str(int(value)), lambda text: text == "1"),
    ("mirror_failed", lambda value: str(int(value)), lambda text: text == "1"),
    ("log", str, str),
)


def start_time(pid):
    """When process `pid` started, in clock ticks since boot, as text; None if there is none, or
    only a zombie."""
    try:
        with open("/proc/%d/stat" % pid) as stat:
            fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def load(layout, pid):
    """The record of tapdisk `pid`, dead or alive; None if there is none."""
    try:
        with open(layout.record(pid)) as stored:
            values = dict(line.rstrip("\n").split("=", 1) for line in stored)
    except FileNotFoundError:
        return None
    record = Record(pid, values["start"])
    for name, _, parse in _FIELDS:
        if name in values:
            setattr(record, name, parse(values[name]))
    return record


def store(layout, record):
    """Replace the record's file atomically."""
    lines = ["start=%s\n" % record.start]
    for name, render, _ in _FIELDS:
        value = getattr(record, name)
        if value is not None and value != []:
            lines.append("%s=%s\n" % (name, render(value)))
    temporary = layout.record(record.pid) + ".new"
    with open(temporary, "w") as stored:
        stored.writelines(lines)
    os.rename(temporary, layout.record(record.pid))


def remove(layout, record):
    """Remove every file of a tapdisk that ended. The markers of minors stay."""
    paths = [
        layout.ctl(record.pid),
        layout.held_nbd(record.pid),
        layout.stats_monitor(record.pid),
        layout.reply_fifo(record.pid),
        layout.log(record.pid),
        layout.record(record.pid),
        layout.lock(record.pid),
        layout.ring(record.pid),
        layout.held_ring(record.pid),
        layout.stuck(record.pid),
        layout.commit(record.pid),
        layout.unflushed(record.pid),
    ]
    if record.minor is not None:
        paths.append(layout.nbd(record.pid, record.minor))
    for path in paths:
        unlink_if_there(path)


def unlink_if_there(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def require(layout, pid):
    """The record of the running tapdisk `pid`. Raises OSError as connecting to its control socket
    would: ENOENT if it was never there (or ended in order), ECONNREFUSED if it was killed."""
    record = load(layout, pid)
    if record is None:
        raise failure(errno.ENOENT)
    if not record.alive():
        raise failure(errno.ECONNREFUSED)
    return record


def failure(code):
    """The OSError of an errno."""
    return OSError(code, os.strerror(code))


def not_imitated(what):
    """The OSError for something that the real tapdisk can do and this one cannot."""
    return OSError(errno.ENOTSUP, "%s is not imitated" % what)


def pids(layout):
    """The pids that have a control socket, in the order of tap-ctl's glob, which is that of their
    names."""
    return [
        int(name[3:])
        for name in sorted(_names(layout.control))
        if name.startswith("ctl") and name[3:].isdigit()
    ]


def minors(layout):
    """The allocated minors, in the order of their markers' names."""
    prefix = "tapdisk-"
    return [
        int(name[len(prefix) :])
        for name in sorted(_names(layout.markers))
        if name.startswith(prefix) and name[len(prefix) :].isdigit()
    ]


def _names(directory):
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


class Locked(object):
    """Holds an exclusive flock on `path` (a directory, or a file that is made), also against other
    processes."""

    def __init__(self, path):
        self._path = path
        self._fd = None

    def __enter__(self):
        flags = os.O_RDONLY if os.path.isdir(self._path) else os.O_RDWR | os.O_CREAT
        self._fd = os.open(self._path, flags | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        return self

    def __exit__(self, *exc_info):
        os.close(self._fd)


class LockedTapdisk(Locked):
    """The same over a tapdisk; gives its record. OSError, and no lock file is left, if there is no
    such tapdisk (any more)."""

    def __init__(self, layout, pid):
        super(LockedTapdisk, self).__init__(layout.lock(pid))
        self._layout, self._pid = layout, pid

    def __enter__(self):
        super(LockedTapdisk, self).__enter__()
        try:
            return require(self._layout, self._pid)
        except OSError:
            unlink_if_there(self._path)
            self.__exit__()
            raise


def allocate(layout):
    """Mark the lowest free minor as taken and return it."""
    layout.prepare()
    with Locked(layout.markers):
        for minor in range(MAX_MINORS):
            try:
                os.close(os.open(layout.marker(minor), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                return minor
            except FileExistsError:
                continue
    raise failure(errno.ENOSPC)


def free(layout, minor):
    """Give `minor` back. OSError: ENOENT if it is not allocated, EAGAIN if a running tapdisk has
    it."""
    with Locked(layout.markers):
        os.stat(layout.marker(minor))
        if any(record.minor == minor for record in living(layout)):
            raise failure(errno.EAGAIN)
        os.unlink(layout.marker(minor))


def living(layout):
    """The records of all running tapdisks, in the order of their control sockets' names."""
    records = (load(layout, pid) for pid in pids(layout))
    return [record for record in records if record is not None and record.alive()]
