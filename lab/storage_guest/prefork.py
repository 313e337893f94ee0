# SPDX-License-Identifier: LGPL-2.1-only
"""`prefork.py ROOT`: runs the short Python programs of the host at ROOT in forks of this process,
which has done their imports.

For the storage guest, where a program's imports take seconds and its work does not. A client
(./python) writes its pid to ROOT/run/prefork/requests and waits; its command line, environment,
directory and output are read from /proc. The fork ends with its client. This process ends with
ROOT. It is no process of the host (it has no SXM_ROOT): what a host leaves running is looked for by
that.
"""

import atexit
import contextlib
import gc
import importlib
import os
import runpy
import select
import signal
import sys
import threading
import traceback

PRELOAD = (
    "XenAPI",
    "XenAPIPlugin",
    "xmlrpc.client",
    "json",
    "subprocess",
    "ssl",
    "logging",
    "socket",
    "hashlib",
    "uuid",
    "fcntl",
    "tempfile",
    "concurrent.futures",
    "select",
    "queue",
    "selectors",
    "runpy",
    "sm.SRCommand",
    "sm.blktap2",
    "sm.tapdisk",
    "sm.resetvdis",
    "sm.drivers.FileSR",
    "sm.drivers.EXTSR",
    "sm.drivers.NFSSR",
    "sm.drivers.LVHDSR",
    "sm.drivers.LVHDoISCSISR",
    "sm.drivers.LVHDoHBASR",
    "SRCommand",
    "blktap2",
    "tapdisk",
    "resetvdis",
    "FileSR",
    "EXTSR",
    "NFSSR",
    "LVMSR",
    "LVMoISCSISR",
    "LVMoHBASR",
    "mirror_lib",
    "storage_motion.api.commands",
    "storage_motion.api.migrate",
    "storage_motion.migration.at_destination",
    "storage_motion.migration.recovery",
    "lab_blktap.tap_ctl",
    "lab_blktap.listing",
    "lab_blktap.vbd",
    "lab_blktap.engine",
    "lab_blktap.chain",
    "lab_blktap.qmp",
    "lab_blktap.reply",
    "lab_blktap.stats",
    "lab_blktap.mirror",
)
"""What the programs import, in either layout of sm; one that is not there is left to them."""
VHD_INSIDE = "/usr/lib/python3/site-packages/lab_before/vhd_inside.py"
"""What a real Python would run before the driver (lab.dom0.before), going by its command line."""
UNABLE = "unable"
"""What a client is told if its program could not be begun: it becomes a real Python then."""
LOOK = 2000
"""Milliseconds between two looks whether ROOT is still there."""
LEAVE = os._exit
"""In a fork the program's own is another one (tell_at_exit)."""


def preload(root):
    """Import, as a process of the host at `root`."""
    sys.path[:1] = [root + "/usr/lib/python3/site-packages", root + "/opt/xensource/sm"]
    for name in PRELOAD:
        try:
            importlib.import_module(name)
        except ImportError:
            traceback.print_exc()
    if os.path.exists(root + VHD_INSIDE):
        runpy.run_path(root + VHD_INSIDE)["replace"]()
    # what is here is never garbage, and a fork that went through it would copy each page of it
    gc.collect()
    gc.freeze()


class Call:
    """One client and the fork that works for it."""

    def __init__(self, client, watched, fork):
        self.client = client
        self.watched = watched
        """pidfd of the client; None when it is gone. Its number may be another one's then."""
        self.fork = fork


class Server:
    """Forks for each request; one fork for each client, and both are watched."""

    def __init__(self, directory):
        self._directory = directory
        self._forks = {}  # pidfd of a fork -> its call
        self._clients = {}  # pidfd of a client that is there -> its call
        self._poll = select.poll()
        os.mkfifo(directory + "/requests.new")
        os.rename(directory + "/requests.new", directory + "/requests")
        # also for writing: without a writer it would be at its end all the time
        self._requests = os.open(directory + "/requests", os.O_RDWR)
        self._poll.register(self._requests, select.POLLIN)

    def serve(self):
        """Until the directory is gone."""
        while os.path.isdir(self._directory):
            self.turn(LOOK)

    def turn(self, milliseconds):
        """Do what has become ready within so long."""
        for ready, _ in self._poll.poll(milliseconds):
            if ready == self._requests:
                for line in os.read(self._requests, 4096).split():
                    self._begin(int(line))
            elif ready in self._forks:
                self._ended(ready)
            elif ready in self._clients:
                self._orphaned(ready)

    def watch(self, client, watched, fork):
        """Watch `client`, of the pidfd `watched`, and the child `fork`, which works for it."""
        call = Call(client, watched, fork)
        watch = os.pidfd_open(fork)
        self._forks[watch] = self._clients[watched] = call
        self._poll.register(watch, select.POLLIN)
        self._poll.register(watched, select.POLLIN)

    def _begin(self, client):
        try:
            watched = os.pidfd_open(client)
        except ProcessLookupError:  # it was killed meanwhile
            return
        fork = os.fork()
        if fork == 0:
            reply = "%s/%d" % (self._directory, client)
            try:
                arguments = become(client)
            except BaseException:
                traceback.print_exc()
                finish(UNABLE, reply)
            tell_at_exit(reply)
            finish(str(run(arguments)), reply)
        self.watch(client, watched, fork)

    def _ended(self, watch):
        call = self._forks.pop(watch)
        _, status = os.waitpid(call.fork, 0)
        if call.watched is not None:
            if os.WIFSIGNALED(status):  # so is its client, then
                with contextlib.suppress(ProcessLookupError):
                    os.kill(call.client, os.WTERMSIG(status))
            self._forget(call)
        self._poll.unregister(watch)
        os.close(watch)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("%s/%d" % (self._directory, call.client))

    def _orphaned(self, watched):
        """A client is gone. Its fork may just be ending, too: it is no other's before _ended."""
        call = self._clients[watched]
        self._forget(call)
        os.kill(call.fork, signal.SIGKILL)

    def _forget(self, call):
        del self._clients[call.watched]
        self._poll.unregister(call.watched)
        os.close(call.watched)
        call.watched = None


def become(client):
    """In the fork: become what the process `client` would be. Its arguments."""
    process = "/proc/%d/" % client
    with open(process + "cmdline", "rb") as cmdline:
        arguments = [os.fsdecode(word) for word in cmdline.read().split(b"\0")[2:-1]]
    with open(process + "environ", "rb") as environ:
        settings = dict(
            os.fsdecode(line).partition("=")[::2] for line in environ.read().split(b"\0") if line
        )
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        opened = os.open("%sfd/%d" % (process, number), flags)
        os.dup2(opened, number)
        os.close(opened)
    os.setsid()
    os.chdir(process + "cwd")
    os.environ.clear()
    os.environ.update(settings)
    if arguments[0] == "-SE":
        del arguments[0]
    sys.argv = arguments
    sys.path.insert(0, os.path.dirname(arguments[0]))
    return arguments


def run(arguments):
    """In the fork: run the program. Its exit status."""
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code & 0xFF if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def tell_at_exit(reply):
    """In the fork: have a program that ends at once (os._exit) tell its client, too; but not one of
    the processes that it has forked."""
    own = os.getpid()

    def end(status):
        if os.getpid() == own:
            tell(str(status & 0xFF), reply)
        LEAVE(status)

    os._exit = end


def finish(status, reply):
    """In the fork: end as a Python does, and tell the client."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = "120"
    tell(status, reply)
    LEAVE(0)


def tell(status, reply):
    """In the fork: tell the client how it has ended, when all that was written is out."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    with open(reply, "w") as answer:
        answer.write(status + "\n")


if __name__ == "__main__":
    os.environ["SXM_ROOT"] = sys.argv[1]
    preload(sys.argv[1])
    Server(sys.argv[1] + "/run/prefork").serve()
