# SPDX-License-Identifier: LGPL-2.1-only
"""Doing harm to one migration: what is hit, how, and how all of it is put right again."""

import concurrent.futures
import contextlib
import http.client
import os
import re
import resource
import signal
import time

import XenAPI

from lab.dom0 import broken_disk
from lab.pools import leftovers, power
from storage_motion.dom0.launch import Process, running
from tests.faults import cases

# seconds for which a process is stopped; the last one is more than the mirror's bound
STOPPED = (0.3, 2.0, 7.0)
DOWN = (0.2, 2.0)  # seconds until what was killed, or a host, is there again
RATES = (0, 32768, 262144)  # bytes a second of a slow link
SLOW = (1.0, 4.0, 8.0)  # seconds for which it is slow
# seconds after its begin at which somebody else has the database of a run written, if at all
SYNCED = (None, None, 0.5, 2.0, 5.0)
SIDES = ("source", "destination")


class Injection:
    """The harm done in one run. `settle` puts everything right that was not put right by its
    time."""

    def __init__(self, scene, link, chance):
        """`link`: the Link, or None if no case of the run needs one."""
        self.scene = scene
        self.hosts = {"source": scene.host, "destination": scene.there}
        self.migration = None
        self._link = link
        self._chance = chance
        self._due = []  # [(when, what to do, the Host that it is done to or None)]
        # [((Host, daemon) or None, Future)]: daemons that come back, one may wait for another that
        # is stopped; syncs
        self._starting = []
        self._hunts = []  # [(case, paths of the programs)]
        self.killed_tapdisks = []  # [(side, pid)]
        self.killed_commands = []  # [(side, pid)], of SM
        self.stopped = set()  # pids
        self.log = []
        self.power_failed = []  # sides
        self.before_power = lambda: None

    # -- in the course of the run

    def inject(self, case):
        """Do it, now or as soon as its process is seen. Whether it is done."""
        side = next((side for side in SIDES if case.process.endswith(side)), None)
        how = {
            "kill": self._kill,
            "stop": self._stop,
            "cut": self._cut,
            "slow": self._slow,
            "disk full": self._fill,
            cases.GOES_BACK: self._kill,
        }
        if case.fault == "unwritable":
            return self._break_disk(case, self.hosts[side].root)
        if case.fault == "power failure":
            return self._power(case, side)
        if case.fault in ("cut", "slow"):
            return how[case.fault](case, None)
        programs = _PROGRAMS.get(case.process)
        if programs:
            self._hunts.append((case, [self.hosts[side].root + program for program in programs]))
            return False
        process = self._find(case.process, side)
        return bool(process) and how[case.fault](case, process)

    def turn(self):
        """Do what is due, and hit what is waited for. The cases that have been injected by that."""
        now = time.monotonic()
        for entry in [entry for entry in self._due if entry[0] <= now]:
            self._due.remove(entry)
            entry[1]()
        for entry in [entry for entry in self._starting if entry[1].done()]:
            self._starting.remove(entry)
            entry[1].result()
        hit = []
        for hunt in list(self._hunts):
            case, programs = hunt
            process = next((process for program in programs for process in running(program)), None)
            if process:
                self._hunts.remove(hunt)
                (self._kill if case.fault == "kill" else self._stop)(case, process)
                hit.append(case)
        return hit

    def database_goes_back(self):
        """A xapi that is killed forgets what was not synced since now: by the product, or by
        somebody else at some moment, or not at all."""
        for side in self.hosts:
            self._sync(side)
            seconds = self._chance.choice(SYNCED)
            if seconds is not None:
                self._later(
                    seconds,
                    lambda side=side: self._starting.append(
                        (None, _starter.submit(self._sync, side))
                    ),
                )

    def _sync(self, side):
        pool = next(pool for pool in self.scene.lab.pools if self.hosts[side] in pool.hosts)
        # its xapi is away, or just started
        with contextlib.suppress(OSError, http.client.HTTPException, XenAPI.Failure):
            pool.session().xenapi.pool.sync_database()
            self.log.append("the database of the %s's pool is synced" % side)

    def settle(self):
        """Everything that was harmed is sound again."""
        self._hunts = []
        while self._due:
            self._due.pop(0)[1]()
        if self._link:
            self._link.heal()
        while self._starting:
            self._starting.pop()[1].result()

    def remove_what_the_dead_left(self):
        """A tapdisk that was killed cannot take its files away, neither the real one nor the
        lab's; nor a command of SM the leaf that it was making. The paths of such leaves."""
        for side, pid in self.killed_tapdisks:
            for directory, _, names in os.walk(self.hosts[side].root + "/run/blktap-control"):
                for name in names:
                    if re.match(r"(ctl|nbd|nbd-old|)%d(\.|$)" % pid, name):
                        os.unlink(os.path.join(directory, name))
        leaves = [
            path
            for side, pid in self.killed_commands
            for path in unfinished_leaves(self.hosts[side].root, pid)
        ]
        for path in leaves:
            os.unlink(path)
        return leaves

    # -- the faults

    def _kill(self, case, process):
        daemon = _daemon(case.process)
        if daemon:
            host = self.hosts[case.process.rsplit(" ", 1)[1]]
            host.kill(daemon)
            self._forget_starts(host, daemon)  # one of those that came up it may be
            self._later(self._chance.choice(DOWN), lambda: self._start(host, daemon), host)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            if not process.gone(10.0):
                raise AssertionError("%s does not die" % case.process)
            if case.process.startswith("SM command"):
                self.killed_commands.append((case.process.rsplit(" ", 1)[1], process.pid))
            if case.process.startswith("tapdisk"):
                self.killed_tapdisks.append((case.process.rsplit(" ", 1)[1], process.pid))
        return self._note(case, "")

    def _stop(self, case, process):
        seconds = self._chance.choice(STOPPED)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)

        self.stopped.add(process.pid)

        def go_on():
            self.stopped.discard(process.pid)
            if process.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)

        self._later(seconds, go_on)
        return self._note(case, "for %g s" % seconds)

    def _cut(self, case, _):
        seconds = self._chance.choice((0.0,) + STOPPED)
        self._link.cut(refuse=seconds > 0)
        self._later(seconds, self._link.heal)
        return self._note(case, "for %g s" % seconds)

    def _slow(self, case, _):
        rate, seconds = self._chance.choice(RATES), self._chance.choice(SLOW)
        self._link.limit(rate)
        self._later(seconds, self._link.heal)
        return self._note(case, "to %d bytes/s for %g s" % (rate, seconds))

    def _fill(self, case, process):
        """The image cannot grow beyond where it is: EFBIG, which qemu's NBD server answers as it
        does ENOSPC. It works without root, and it is NOT a full file system: other files still
        grow."""
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        room = self._chance.choice((0, 1 << 20))
        size = max(
            [
                os.stat("/proc/%d/fd/%s" % (process.pid, fd)).st_size
                for fd in os.listdir("/proc/%d/fd" % process.pid)
                if _is_image("/proc/%d/fd/%s" % (process.pid, fd))
            ]
            or [0]
        )
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + room, hard))
        return self._note(case, "%d bytes from now" % room)

    def _break_disk(self, case, root):
        """Nothing can be noted there any more (lab.dom0.broken_disk, which the run has
        installed)."""
        fault, seconds = self._chance.choice(broken_disk.FAULTS), self._chance.choice(STOPPED)
        broken_disk.break_it(root, fault)
        self._later(seconds, lambda: broken_disk.mend(root))
        return self._note(case, "%s for %g s" % (fault, seconds))

    def _power(self, case, side):
        host = self.hosts[side]
        self.before_power()
        self._due = [entry for entry in self._due if entry[2] is not host]
        self.killed_commands += [
            (side, process.pid) for name in _SM for process in running(host.root + name)
        ]
        power.fail(self.scene.lab, host)
        self._forget_starts(host, "xapi", "xenopsd")  # the host's boot starts them
        self.power_failed.append(side)
        self._later(self._chance.choice(DOWN), lambda: power.boot(self.scene.lab, host), host)
        return self._note(case, "")

    def _start(self, host, daemon):
        def start():
            {"xapi": host.start_xapi, "xenopsd": host.start_xenopsd}[daemon]()
            for pool in self.scene.lab.pools:
                pool.forget_session()

        self._starting.append(((host, daemon), _starter.submit(start)))

    def _forget_starts(self, host, *daemons):
        """They were killed while they came up, and are started again by whoever has killed them."""
        for entry in [
            entry for entry in self._starting if entry[0] in [(host, daemon) for daemon in daemons]
        ]:
            self._starting.remove(entry)
            entry[1].exception()

    def _later(self, seconds, what, host=None):
        self._due.append((time.monotonic() + seconds, what, host))

    def _note(self, case, details):
        self.log.append(("%s %s" % (case, details)).strip())
        return True

    # -- the processes

    def _one(self, processes):
        """One of those that there are, which are of several disks; or None."""
        found = [process for process in processes if process]
        return self._chance.choice(found) if found else None

    def _find(self, kind, side):
        entry = self.scene.journal(self.migration, self.hosts["source"])
        disks = list(entry["disks"].values())
        if kind == "worker":
            return _alive(entry["worker"])
        if kind == "mover":
            return self._one(_alive(disk.get("mover")) for disk in disks)
        if kind == "receiver":
            with contextlib.suppress(FileNotFoundError):
                receivers = self.scene.journal(
                    "receive-" + self.migration, self.hosts["destination"]
                )["receivers"]
                return _alive(receivers[-1]["process"]) if receivers else None
            return None
        if kind.startswith("tapdisk"):
            vdis = (
                [disk.get("destination_vdi") for disk in disks]
                if side == "destination"
                else list(entry["disks"])
            )
            return self._one(
                Process.of(one["pid"])
                for one in leftovers.tapdisks(self.hosts[side])
                if any(vdi and vdi in one["args"] for vdi in vdis)
            )
        host = self.hosts[side]
        pid = self.scene.lab.daemons.pids().get("%s/%s" % (host.name, _daemon(kind)))
        return pid and Process.of(pid)


_starter = concurrent.futures.ThreadPoolExecutor()
_SM = ("/opt/xensource/sm/MirrorSR", "/opt/xensource/sm/FileSR")
_PROGRAMS = {
    "SM command at the source": _SM,
    "SM command at the destination": _SM,
    "plugin at the destination": ("/etc/xapi.d/plugins/sxm.py",),
}


def unfinished_leaves(root, pid):
    """The images that a command of SM of this host, which is dead, was making beside a VDI's, and
    did not rename to it any more: FileSR.py, _snapshot, calls the new leaf <image>.new, and takes
    none of a killed command away, nor does its collector, whose names end otherwise."""
    with open(root + "/var/log/SMlog") as log:
        made = re.findall(r" SM: \[%d\] \[.*'(/[^']*\.new)'" % pid, log.read())
    return [path for path in made if os.path.exists(path)]


def _daemon(kind):
    return next((name for name in ("xapi", "xenopsd") if kind.startswith(name + " ")), None)


def _alive(process):
    found = Process.from_json(process)
    return found if found and found.alive() else None


def _is_image(path):
    target = os.readlink(path)
    return "/srs/" in target and not target.endswith(" (deleted)")
