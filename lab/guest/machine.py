# SPDX-License-Identifier: LGPL-2.1-only
"""The guest as a whole: its disks, its settings, and the memory with which it is moved."""

import collections
import threading
import time

from lab.guest import content
from lab.guest.disk import COUNTERS, DiskStuck, GuestDisk
from lab.guest.record import Record

STOP = 90.0
"""Seconds that a suspend waits for outstanding I/O."""

Settings = collections.namedtuple("Settings", "seed writes reads workers hot fill reach")

DEFAULTS = Settings(seed="guest", writes=100.0, reads=0.25, workers=3, hot=8, fill=0.1, reach=0)
"""writes: I/Os a second and disk; reads: the share of them that reads back; workers: I/Os
outstanding at once, at most; hot: spots that are rewritten all the time; fill: the share of an
empty disk that is filled at its first start; reach: bytes at the begin of each disk that the guest
knows of, 0: all of it."""


def settings_from(strings):
    """Settings from strings, as in a VM's other_config; unknown names are refused with
    ValueError."""
    unknown = sorted(set(strings) - set(Settings._fields))
    if unknown:
        raise ValueError("no such setting of the lab's guest: %s" % ", ".join(unknown))
    return DEFAULTS._replace(
        **{name: type(getattr(DEFAULTS, name))(value) for name, value in strings.items()}
    )


class Machine:
    """Built paused and empty; `restore` gives it the memory of another, which makes it the same
    guest, moved; then it runs from `run` until `suspend`."""

    def __init__(self, identity, settings, connect):
        """`connect`: function of a disk ({"device", "socket", "rw"}) that gives a new connection to
        it."""
        self.id = identity
        self.disks = []
        self._settings = settings
        self._connect = connect
        self._memory = {
            "started": time.time(),
            "suspended": None,
            "pauses": [],
            "moves": 0,
            "disks": [],
        }
        self._running = False
        self._check = threading.Lock()
        self._pause = threading.Lock()

    def restore(self, memory):
        """Take over what another machine's `suspend` gave."""
        self.id = memory["id"]
        self._memory = dict(memory, moves=memory["moves"] + 1)

    def run(self, disks, excluded=0.0):
        """Open these disks, learn and fill them if nothing is remembered of them, and run.
        `excluded`: seconds since the suspend that were spent on measuring, which are not part of
        the pause."""
        if self._memory["suspended"]:
            self._memory["suspended"] += excluded
        remembered = {disk["device"]: disk for disk in self._memory["disks"]}
        self.disks = [self._disk(disk, remembered.get(disk["device"])) for disk in disks]
        for disk in self.disks:
            disk.boot()
        for disk in self.disks:
            disk.start()
        self._running = True

    def _disk(self, disk, remembered):
        key = content.disk_key(self._settings.seed, disk["device"])
        if remembered:
            record, counters = Record.unpack(key, remembered["record"]), remembered["counters"]
        else:
            record, counters = Record(key, self._size(disk) // content.SECTOR), None
        return GuestDisk(
            disk["device"],
            disk["rw"],
            self._settings,
            lambda: self._connect(disk),
            record,
            counters,
        )

    def _size(self, disk):
        connection = self._connect(disk)
        try:
            return min(connection.size, self._settings.reach or connection.size)
        finally:
            connection.close()

    def suspend(self):
        """Stop with nothing outstanding; the memory, as JSON values. Raises DiskStuck, and goes on,
        if a disk does not answer."""
        self._note_pause()
        stopped = time.time()
        try:
            for disk in self.disks:
                disk.stop(STOP)
        except DiskStuck:
            for disk in self.disks:
                disk.start()
            raise
        self._running = False
        disks = [
            {"device": disk.device, "record": disk.record.pack(), "counters": disk.counters()}
            for disk in self.disks
        ]
        return dict(self._memory, id=self.id, suspended=stopped, disks=disks)

    def records(self):
        """What was acknowledged so far, of each disk: {device: a packed Record}. The guest runs on
        meanwhile."""
        return {disk.device: disk.record.pack() for disk in self.disks}

    def full_check(self):
        """Read everything that was ever acknowledged; {"missing", "seconds", "disks": {device:
        missing}}."""
        with self._check:
            begun = time.monotonic()
            missing = {disk.device: disk.full_check() for disk in self.disks}
            return {
                "missing": sum(missing.values()),
                "seconds": round(time.monotonic() - begun, 3),
                "disks": missing,
            }

    def status(self, reset=False):
        """All counters, of all disks together and of each."""
        self._note_pause()
        disks = [disk.status(reset) for disk in self.disks]
        status = {name: sum(disk[name] for disk in disks) for name in COUNTERS}
        status.update(
            id=self.id,
            running=self._running,
            moves=self._memory["moves"],
            pauses=list(self._memory["pauses"]),
            uptime=round(time.time() - self._memory["started"], 3),
            disks=disks,
            longest_write=max([disk["longest_write"] for disk in disks] or [0.0]),
        )
        return status

    def _note_pause(self):
        """The pause of a move that the guest itself saw: from its suspend to the first write that
        was safe after it."""
        writes = [disk.first_write for disk in self.disks if disk.first_write]
        with self._pause:
            if self._memory["suspended"] and writes:
                self._memory["pauses"] = self._memory["pauses"] + [
                    round(min(writes) - self._memory["suspended"], 6)
                ]
                self._memory["suspended"] = None
