# SPDX-License-Identifier: LGPL-2.1-only
"""systemd, the real one, as PID 1 of namespaces of its own: on a machine that is booted with
whatever it is, in a second."""

import os
import subprocess

from tests.eventually import eventually

HERE = os.path.dirname(os.path.abspath(__file__))
NAMESPACES = ("--mount", "--pid", "--cgroup", "--ipc", "--uts")
UP = 60.0  # seconds
DOWN = 30.0
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


class Booted:
    """A context: systemd runs in it, and nothing of it is left behind it."""

    def __init__(self, log):
        """`log`: the path of what it says."""
        self._log = log
        self._process, self._pid = None, None
        self._cgroup = os.path.join(_cgroup2(), "sxm-systemd-%d" % os.getpid())

    def __enter__(self):
        # in a cgroup of its own: what it makes is below it, and goes with it
        enter = 'mkdir "$0" && echo $$ >"$0/cgroup.procs" && exec unshare "$@"'
        command = (
            AS_ROOT
            + ["sh", "-c", enter, self._cgroup]
            + list(NAMESPACES)
            + ["--fork", "--kill-child", os.path.join(HERE, "boot.sh")]
        )
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            # PID 1, with which the kernel ends all that is below it; or unshare, with which PID 1
            # goes
            subprocess.run(AS_ROOT + ["kill", "-9", str(self._pid or self._process.pid)])
        self._process.wait(DOWN)
        subprocess.run(
            AS_ROOT + ["find", self._cgroup, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"],
            check=True,
        )

    def run(self, command, timeout, environment=()):
        """Run a command in there, below no unit, with nothing but PATH and `environment`: its
        CompletedProcess."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        inside = AS_ROOT + [
            "nsenter",
            "-t",
            str(self._pid),
            "-m",
            "-p",
            "-C",
            "-i",
            "-u",
            "--wd=" + os.getcwd(),
            "env",
            "-i",
            path,
        ]
        inside += ["%s=%s" % item for item in dict(environment).items()]
        return subprocess.run(
            inside + list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )

    def _wait(self):
        def said():
            with open(self._log) as log:
                return "\n" + log.read()

        def is_up():
            assert self._process.poll() is None, "systemd does not come up:" + said()
            self._pid = self._pid or self._below(self._process.pid)
            return (
                self._pid
                and self.run(["systemctl", "is-active", "--quiet", "default.target"], UP).returncode
                == 0
            )

        eventually(is_up, "systemd is up", UP, seen=said, poll=0.1)

    @staticmethod
    def _below(pid):
        """The process that unshare has forked, once it has become systemd, with whoever stands
        before it; None before that.

        Not one that is further down: systemd has children which are called so for a moment."""
        while True:
            with open("/proc/%d/comm" % pid) as source:
                if source.read() == "systemd\n":
                    return pid
            with open("/proc/%d/task/%d/children" % (pid, pid)) as source:
                children = source.read().split()
            if not children:
                return None
            pid = int(children[0])


def _cgroup2():
    """This process's directory in the cgroup2 file system."""
    with open("/proc/self/mountinfo") as source:
        mounts = [line.split() for line in source]
    place = next(fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2")
    with open("/proc/self/cgroup") as source:
        own = next(line.rstrip("\n")[len("0::") :] for line in source if line.startswith("0::"))
    return place + own.rstrip("/")
