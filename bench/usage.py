# SPDX-License-Identifier: LGPL-2.1-only
"""What processes cost: processor time and peak memory, by the kernel's own accounting."""

import os
import subprocess
import time

LOOK = 0.01  # seconds between two looks at a tool that runs
TICK = os.sysconf("SC_CLK_TCK")


def cpu_of(pid):
    """Seconds of processor time, user and system, that process `pid` has used."""
    with open("/proc/%d/stat" % pid) as source:
        fields = source.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def peak_of(pid):
    """The largest resident size of process `pid` so far, KiB; 0 once it has ended.

    Not ru_maxrss of the ended one: what a fork begins with counts there, which is our own size.
    """
    try:
        with open("/proc/%d/status" % pid) as source:
            for line in source:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


class Meter(object):
    """Processor time and memory by role ("mover", "destination"...); of one role there may be
    several processes."""

    def __init__(self):
        self._standing = []  # (role, pid)
        self._before = []
        self._ended = []  # (role, seconds, KiB)

    def stand(self, role, pid):
        """A process that is there before and behind what is measured."""
        self._standing.append((role, pid))

    def begin(self):
        """What is measured begins now."""
        self._before = [cpu_of(pid) for _, pid in self._standing]

    def run(self, role, commands, bound, **options):
        """Run `commands` side by side; raises CalledProcessError, or TimeoutExpired behind `bound`
        seconds. `options`: those of Popen, and `codes`, the exit codes that are well."""
        self.start(role, commands, **options)(bound)

    def start(self, role, commands, codes=(0,), **options):
        """Start `commands` side by side, as `run` does; the function that waits for them, whose
        argument is the bound."""
        quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        running = {}
        for command in commands:
            process = subprocess.Popen(command, **dict(quiet, **options))
            running[process.pid] = (process, command)

        def wait(bound):
            try:
                self._await(role, running, codes, bound)
            finally:
                for process, _ in running.values():
                    process.kill()
                    process.wait()

        return wait

    def _await(self, role, running, codes, bound):
        deadline = time.monotonic() + bound
        peaks = dict.fromkeys(running, 0)
        while running:
            for pid in list(running):
                peaks[pid] = max(peaks[pid], peak_of(pid))
                found, status, used = os.wait4(pid, os.WNOHANG)
                if not found:
                    continue
                process, command = running.pop(pid)
                process.returncode = os.waitstatus_to_exitcode(status)
                self._ended.append((role, used.ru_utime + used.ru_stime, peaks[pid]))
                if process.returncode not in codes:
                    raise subprocess.CalledProcessError(process.returncode, command)
            if running and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired([c for _, c in running.values()][0], bound)
            time.sleep(LOOK if running else 0)

    def end(self):
        """{role: {"cpu": seconds since `begin`, of all its processes; "rss": KiB of each}}"""
        found = {}
        used = [
            (role, cpu_of(pid) - before, peak_of(pid))
            for (role, pid), before in zip(self._standing, self._before)
        ]
        for role, seconds, peak in used + self._ended:
            one = found.setdefault(role, {"cpu": 0.0, "rss": []})
            one["cpu"] += seconds
            one["rss"].append(peak)
        return found
