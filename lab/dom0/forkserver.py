# SPDX-License-Identifier: LGPL-2.1-only
"""Runs drivers and plugins of a host of the lab in forks of this process, which has their imports
behind it: these are most of what such a program costs. `forks.py` asks for them, and starts this.

A fork is a process of its host's like any other: by its pid, its command line and its environment
in /proc, which the kernel lets it tell anew (PR_SET_MM_MAP). This process is none: it has no
SXM_ROOT. It ends when nobody is there to ask, and its forks have ended.

On its standard input, a socket: the host's root; then a call each, with its output, its errors and
a pipe for what becomes of it.
"""

import array
import atexit
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import types

DIRECTORIES = ("/opt/xensource/sm", "/etc/xapi.d/plugins")
MODULES = ("/usr/lib/python3/site-packages", "/opt/xensource/sm")
"""Where what they import is looked for."""
MAIN = 'if __name__ == "__main__":'
"""In a program that may be imported."""
PR_SET_MM, PR_SET_MM_MAP = 35, 14
MOST = 1 << 20  # bytes of a call
DESCRIPTORS = 3  # that come with a call

libc = ctypes.CDLL(None, use_errno=True)
libc.sbrk.restype = ctypes.c_void_p
kept = []
"""What the kernel shows of a fork in /proc lies here."""


class Map(ctypes.Structure):
    """struct prctl_mm_map of linux/prctl.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "start_code end_code start_data end_data start_brk brk start_stack "
            "arg_start arg_end env_start env_end auxv"
        ).split()
    ] + [("auxv_size", ctypes.c_uint32), ("exe_fd", ctypes.c_uint32)]


def show(arguments, environment):
    """Have /proc show this command line and this environment of this process."""
    with open("/proc/self/stat") as stat:
        # by their numbers in proc(5), where the one behind the name is the third
        fields = dict(enumerate(stat.read().rpartition(")")[2].split(), 3))
    shown = [b"".join(word + b"\0" for word in words) for words in (arguments, environment)]
    text = ctypes.create_string_buffer(b"".join(shown))
    kept.append(text)
    begin, middle = ctypes.addressof(text), ctypes.addressof(text) + len(shown[0])
    layout = Map(
        start_code=int(fields[26]),
        end_code=int(fields[27]),
        start_data=int(fields[45]),
        end_data=int(fields[46]),
        start_brk=int(fields[47]),
        brk=libc.sbrk(0),
        start_stack=int(fields[28]),
        arg_start=begin,
        arg_end=middle,
        env_start=middle,
        env_end=middle + len(shown[1]),
        exe_fd=0xFFFFFFFF,
    )
    size = ctypes.c_ulong(ctypes.sizeof(layout))
    if libc.prctl(PR_SET_MM, ctypes.c_ulong(PR_SET_MM_MAP), ctypes.byref(layout), size, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_MM_MAP")


def preload(root):
    """Import what the programs of the host at `root` import when they begin."""
    os.environ["SXM_ROOT"] = root
    for directory in DIRECTORIES:
        for name in sorted(os.listdir(root + directory)):
            path = "%s%s/%s" % (root, directory, name)
            if not os.path.isfile(path) or not os.access(path, os.X_OK):
                continue
            with open(path, errors="replace") as program:
                text = program.read()
            if text.startswith("#!%s/usr/bin/python3\n" % root) and MAIN in text:
                try:
                    runpy.run_path(path, run_name="preloaded")
                except BaseException:  # it will say so itself
                    traceback.print_exc()
    gc.collect()
    # a fork that went through all this would copy each page of it; Python 3.6 has no freeze
    getattr(gc, "freeze", gc.collect)()


def imported(root):
    """What shows whether the host's modules are still those that were imported."""
    paths = [root + directory for directory in MODULES]
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and path.startswith(root + "/"):
            paths.append(path)
    return {path: state(path) for path in paths}


def state(path):
    """Of a file or directory: changes when it is written or replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Server:
    """Forks for each call; tells each asker of the end of its fork."""

    def __init__(self, control):
        self._control = control
        self._asked = True  # somebody may still ask
        self._forks = {}  # pid -> the pipe of its asker
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake)
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)

    def serve(self, root):
        """Until nobody can ask any more, and all forks have ended."""
        modules = imported(root)
        while self._asked or self._forks:
            for ready, _ in self._poll.poll():
                if ready == self._woken:
                    os.read(self._woken, 4096)
                    self._reap()
                else:
                    self._take(modules)

    def _take(self, modules):
        try:
            call, descriptors = receive(self._control)
        except ConnectionError:
            call = None
        if not call:
            self._asked = False
            self._poll.unregister(self._control)
            return
        pipe = descriptors[-1]
        if any(state(path) != known for path, known in modules.items()):
            tell(pipe, "changed")
            os.close(pipe)
        else:
            fork = os.fork()
            if fork == 0:
                self._become(json.loads(call.decode()), descriptors)
            self._forks[fork] = pipe
        for descriptor in descriptors[:-1]:
            os.close(descriptor)

    def _reap(self):
        while self._forks:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            pipe = self._forks.pop(pid)
            tell(pipe, "ended %d" % status)
            os.close(pipe)

    def _become(self, call, descriptors):
        """In the fork: become the process that was asked for, and end as it."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            become(call, descriptors)
            # it is seen from here on: whoever has killed all of the host since will find it
            if nobody_asks(self._control):
                os._exit(1)
            tell(descriptors[-1], "pid %d" % os.getpid())
            for name in os.listdir("/proc/self/fd"):
                if int(name) > 2:
                    close(int(name))
        except BaseException:
            traceback.print_exc()
            tell(descriptors[-1], "unable")
            os._exit(1)
        finish(run(call["program"]))


def become(call, descriptors):
    """Be the program of a call in all but what it does."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    environment = dict(call["environment"], PYTHONPATH=os.environ["PYTHONPATH"])
    words = [sys.executable, call["program"], call["argument"]]
    show(
        [os.fsencode(word) for word in words],
        [os.fsencode("%s=%s" % item) for item in environment.items()],
    )
    if "LC_CTYPE" in os.environ:  # Python puts it there as it begins (PEP 538)
        environment["LC_CTYPE"] = os.environ["LC_CTYPE"]
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words[1:]
    sys.path.insert(0, os.path.dirname(os.path.realpath(call["program"])))
    for number, opened in enumerate([null] + descriptors[:2]):
        os.dup2(opened, number)


def run(program):
    """Run it as `python PROGRAM` does. Its exit status."""
    main = types.ModuleType("__main__")
    main.__file__ = program
    sys.modules["__main__"] = main
    try:
        with open(program, "rb") as source:
            code = compile(source.read(), program, "exec", dont_inherit=True)
        exec(code, main.__dict__)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        return end.code & 0xFF if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def finish(status):
    """End as a Python does."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = 120
    os._exit(status)


def receive(control):
    """A message and the descriptors that came with it."""
    fds = array.array("i")
    room = socket.CMSG_LEN(DESCRIPTORS * fds.itemsize)
    message, ancillary, _, _ = control.recvmsg(MOST, room)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data)
    return message, list(fds)


def nobody_asks(control):
    """Whether nobody will ask any more. Never waits: what is there to be received now, the server
    takes meanwhile."""
    try:
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def tell(pipe, word):
    """Tell the asker, if it is still there."""
    try:
        os.write(pipe, word.encode() + b"\n")
    except BrokenPipeError:
        pass


def close(descriptor):
    """The one that lists them is closed already."""
    try:
        os.close(descriptor)
    except OSError:
        pass


if __name__ == "__main__":
    del sys.path[0]  # of this file, which no program of a host has there
    asker = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(0))
    host, _ = receive(asker)
    if host:
        preload(host.decode())
        Server(asker).serve(host.decode())
