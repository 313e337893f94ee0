# SPDX-License-Identifier: LGPL-2.1-only
"""Has drivers and plugins of a host run by forks of a Python that has imported what they import
(forkserver.py): starting one anew takes ten times as long as what it does then."""

import array
import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading

from lab.dom0 import before, scripts

_SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "forkserver.py")

LONG = 100000
"""Characters of a call that does not go through its socket."""

log = logging.getLogger("forks")


class Fork:
    """A program that runs; as subprocess.Popen, as far as that goes."""

    def __init__(self, pid, program, pipe):
        self.pid = pid
        self._program = program
        self._pipe = pipe

    def wait(self, timeout=None):
        """Its exit status, or the negative number of the signal that it died of. Raises
        subprocess.TimeoutExpired."""
        ready = select.poll()
        ready.register(self._pipe, select.POLLIN)
        if not ready.poll(None if timeout is None else 1000 * timeout):
            raise subprocess.TimeoutExpired(self._program, timeout)
        with self._pipe:
            word, _, status = self._pipe.readline().partition(b" ")
        if word != b"ended":
            raise OSError("the server of forks has died")
        if os.WIFSIGNALED(int(status)):
            return -os.WTERMSIG(int(status))
        return os.WEXITSTATUS(int(status))

    def kill(self):
        """SIGKILL."""
        try:
            os.kill(self.pid, 9)
        except ProcessLookupError:
            pass


class Forks:
    """Of the host at `root`, whose programs get this `environment`."""

    def __init__(self, root, environment):
        self._root = root
        self._environment = environment
        self._lock = threading.Lock()
        self._server = None
        self._possible = True

    def start(self, program, argument, stdout, stderr):
        """Run `program argument`, in a session of its own, with these files as its outputs: a
        Fork. None if it is to be started as a process of its own: it would not be run by the same
        Python, or something is to run before it."""
        if not self._can_be_forked(program, argument):
            return None
        for _ in range(2):  # a server whose modules have changed is followed by a new one
            server = self._running()
            begun = self._ask(server, program, argument, stdout, stderr)
            if begun or not self._possible:
                return begun
            with self._lock:
                if self._server is server:
                    self._server = None  # closed with the last who asks it
        return None

    def _can_be_forked(self, program, argument):
        if not self._possible or len(argument) > LONG:
            return False
        python = scripts.interpreter(self._root, sys.executable)
        try:
            with open(program, "rb") as script, open(self._root + scripts.PYTHON) as installed:
                first = script.readline()
                return (
                    first == b"#!%s\n" % os.fsencode(self._root + scripts.PYTHON)
                    and installed.read() == python
                    and os.access(program, os.X_OK)
                    and not before.modules(self._root)
                )
        except OSError:
            return False

    def _running(self):
        with self._lock:
            if self._server is None:
                self._server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                environment = dict(self._environment, PYTHONPATH=scripts.module_path(self._root))
                del environment["SXM_ROOT"]
                with theirs:
                    subprocess.Popen(
                        [sys.executable, _SERVER],
                        stdin=theirs,
                        stdout=subprocess.DEVNULL,
                        env=environment,
                        cwd="/",
                        start_new_session=True,
                    )
                self._server.sendall(self._root.encode())
            return self._server

    def _ask(self, server, program, argument, stdout, stderr):
        call = {"program": program, "argument": argument, "environment": self._environment}
        ours, theirs = os.pipe()
        pipe = os.fdopen(ours, "rb", 0)
        given = array.array("i", [stdout.fileno(), stderr.fileno(), theirs])
        try:
            server.sendmsg(
                [json.dumps(call).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, given)]
            )
        except ConnectionError:  # it is gone
            return pipe.close()
        finally:
            os.close(theirs)
        word, _, pid = pipe.readline().strip().partition(b" ")
        if word == b"unable":
            log.warning("this machine's kernel lets no fork look like a program of its own")
            self._possible = False
        if word != b"pid":
            return pipe.close()
        return Fork(int(pid), program, pipe)
