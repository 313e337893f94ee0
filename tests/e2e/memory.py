# SPDX-License-Identifier: LGPL-2.1-only
"""The peak memory of the product's processes on the hosts of a lab."""

import collections
import contextlib
import threading

from lab.pools.daemons import of_root

PAUSE = 0.05  # seconds between two looks; a peak is known from a process's last one
MIB = 1 << 20
ROLES = {
    "storage_motion.migration.worker": "worker",
    "storage_motion.source.mover": "mover",
    "storage_motion.migration.receiver_process": "receiver",
    "/etc/xapi.d/plugins/sxm.py": "plugin",
    "/opt/xensource/sm/MirrorSR": "command of MirrorSR",
}
BOUNDS = {
    "worker": 48 * MIB,
    "mover": 64 * MIB,
    "receiver": 64 * MIB,
    "plugin": 96 * MIB,
    "command of MirrorSR": 96 * MIB,
}
"""Bytes, whatever is moved. As measured, with one disk or 17: 24 MiB a mover, 33 the worker."""
A_DISK = {"receiver": 2 * MIB}
"""More for each disk: all are received by one process (36 MiB with one disk, 61 with 17)."""


class Peaks(threading.Thread):
    """{role: {pid: the largest resident size so far, in bytes}}"""

    def __init__(self, lab):
        super().__init__(daemon=True)
        self._lab, self._end = lab, threading.Event()
        self.found = collections.defaultdict(dict)

    def run(self):
        while not self._end.wait(PAUSE):
            for host in self._lab.hosts:
                for pid, command in of_root(host.root).items():
                    for module, role in ROLES.items():
                        if module in command:
                            self._look(role, pid)

    def _look(self, role, pid):
        with contextlib.suppress(OSError), open("/proc/%d/status" % pid) as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    self.found[role][pid] = 1024 * int(line.split()[1])

    def end(self):
        """Look no more."""
        self._end.set()
        self.join()

    def assert_bounded(self, disks):
        """None of them was larger than it may be, and there was one of each role."""
        peaks = {role: max(self.found[role].values(), default=0) for role in BOUNDS}
        bounds = {role: bound + disks * A_DISK.get(role, 0) for role, bound in BOUNDS.items()}
        assert all(0 < peaks[role] <= bounds[role] for role in bounds), (peaks, bounds)


@contextlib.contextmanager
def bounded(lab, disks):
    """No process of the product is larger than it may be, while the body moves so many disks."""
    peaks = Peaks(lab)
    peaks.start()
    try:
        yield
    finally:
        peaks.end()
    peaks.assert_bounded(disks)
