# SPDX-License-Identifier: LGPL-2.1-only
"""Drivers and plugins that xapi runs are forks of a Python that has their imports behind it, and
processes of their host like any other."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading

import pytest

from lab.dom0 import before, forks, forkserver, scripts
from lab.pools.daemons import of_root
from lab.xapi.host_work import HostWork
from tests.eventually import eventually

MODULE = "WORD = 'first'\n"
PROGRAM = """#!/usr/bin/python3
import json, os, sys, threading, time
import shown

def main(call):
    print(json.dumps({
        "pid": os.getpid(), "argv": sys.argv, "root": os.environ["SXM_ROOT"], "word": shown.WORD,
        "cmdline": open("/proc/self/cmdline").read(), "comm": open("/proc/self/comm").read(),
        "environ": open("/proc/self/environ").read(), "cwd": os.getcwd(),
        "settings": dict(os.environ), "path": sys.path, "main": sys.modules["__main__"].__file__,
        "session": os.getsid(0) == os.getpid(), "fds": len(os.listdir("/proc/self/fd")),
        "loaded": "preloaded" in shown.SEEN, "streams": [sys.stdout.encoding, sys.stderr.encoding],
    }))
    print("complaint", file=sys.stderr)
    if call == "sleep":
        sys.stdout.flush()
        time.sleep(120)
    if call == "raise":
        raise ValueError("of the program")
    threading.Thread(target=lambda: (time.sleep(0.1), print("the last"))).start()
    sys.exit(int(call))

shown.SEEN = getattr(shown, "SEEN", []) + [__name__]
if __name__ == "__main__":
    main(sys.argv[1])
"""
BOUND = 30.0


@pytest.fixture
def root(tmp_path):
    """A host with one driver, TestSR, and one module, `shown`. Nothing of it is left running."""
    root = str(tmp_path)
    os.makedirs(root + "/etc/xapi.d/plugins")
    scripts.write_interpreter(root, sys.executable)
    scripts.install_script(PROGRAM, root, "/opt/xensource/sm/TestSR")
    scripts.install_text(MODULE, root, scripts.SITE_PACKAGES + "/shown.py")
    os.makedirs(root + "/opt/xensource/sm/__pycache__")
    yield root
    assert of_root(root) == {}


def said(answer):
    return json.loads(answer["stdout"].splitlines()[0])


def servers():
    """The pids of servers that this process has started and that have not ended."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open("/proc/%s/stat" % name) as stat:
                parent = stat.read().rpartition(")")[2].split()[1]
            with open("/proc/%s/cmdline" % name) as cmdline:
                if "forkserver.py" in cmdline.read() and int(parent) == os.getpid():
                    found.add(int(name))
    return found


def test_a_fork_is_seen_as_what_a_start_would_have_made(root):
    work = HostWork(root)
    forked = work.run_driver("Test", "0")
    before.install(root, __file__)  # now it is started
    scripts.install_text("", root, scripts.SITE_PACKAGES + "/lab_before/test_forks.py")
    started = work.run_driver("Test", "0")
    assert said(forked)["loaded"] and not said(started)["loaded"]
    for answer in (forked, started):
        assert answer["stdout"].endswith("\nthe last\n")
        assert (answer["exit"], answer["signal"], answer["stderr"]) == (0, None, "complaint\n")
    one, other = said(forked), said(started)
    for seen in (one, other):
        for what in ("pid", "loaded"):
            del seen[what]
        # a shell tells its directory
        seen["settings"] = {k: v for k, v in seen["settings"].items() if k != "PWD"}
        seen["environ"] = sorted(e for e in seen["environ"].split("\0") if e[:4] != "PWD=")
    assert one == other


def test_what_it_does_is_answered_as_of_a_start(root):
    work = HostWork(root)
    assert work.run_driver("Test", "3")["exit"] == 3
    raised = work.run_driver("Test", "raise")
    assert raised["exit"] == 1
    assert raised["stderr"].endswith("ValueError: of the program\n")


def test_a_fork_is_killed_by_its_pid_and_found_by_its_host(root):
    work, answers = HostWork(root), []
    caller = threading.Thread(target=lambda: answers.append(work.run_driver("Test", "sleep")))
    caller.start()
    running = eventually(lambda: of_root(root), "the driver runs")
    ((pid, command),) = running.items()
    assert command == "%s %s/opt/xensource/sm/TestSR sleep" % (sys.executable, root)
    os.kill(pid, signal.SIGKILL)
    caller.join(BOUND)
    assert (answers[0]["exit"], answers[0]["signal"]) == (None, "SIGKILL")


def test_a_call_that_takes_too_long_is_ended(root, monkeypatch):
    monkeypatch.setattr("lab.xapi.host_work.DRIVER_TIMEOUT", 0.5)
    assert HostWork(root).run_driver("Test", "sleep")["signal"] == "SIGKILL"


def test_a_module_that_has_changed_is_imported_anew(root):
    work = HostWork(root)
    assert said(work.run_driver("Test", "0"))["word"] == "first"
    scripts.install_text("WORD = 'another'\n", root, scripts.SITE_PACKAGES + "/shown.py")
    found = said(work.run_driver("Test", "0"))
    assert found["word"] == "another" and found["loaded"]


def test_a_server_ends_with_who_asks_it_and_its_last_fork(root, tmp_path):
    earlier, asker = servers(), forks.Forks(root, {"SXM_ROOT": root, "PATH": os.environ["PATH"]})
    with open(str(tmp_path / "out"), "wb") as out:
        fork = asker.start(root + "/opt/xensource/sm/TestSR", "sleep", out, out)
    (server,) = servers() - earlier
    del asker
    assert list(of_root(root)) == [fork.pid], "the server is no process of the host"
    assert server in servers()
    fork.kill()
    assert fork.wait(BOUND) == -signal.SIGKILL
    eventually(lambda: server not in servers(), "the server ends")


def test_whether_anybody_asks_is_known_without_waiting():
    """A fork looks at the socket of its server, which takes the next call from it meanwhile: what
    was there may be gone. One that waited for it stood still for good (seen with two disks, which
    are closed at a time)."""
    asker, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    looked = []
    look = threading.Thread(
        target=lambda: looked.append(forkserver.nobody_asks(server)), daemon=True
    )
    look.start()
    look.join(BOUND)
    assert looked == [False], "nothing is there to be received"
    asker.sendall(b"call")
    assert not forkserver.nobody_asks(server) and server.recv(9) == b"call"
    asker.close()
    assert forkserver.nobody_asks(server)
    server.close()


@pytest.mark.parametrize("first", ["#!/bin/sh", "#!/usr/bin/env python3"])
def test_what_another_interpreter_runs_is_no_fork(root, first):
    path = scripts.install_text(first + "\necho $1\n", root, "/opt/xensource/sm/OtherSR")
    os.chmod(path, 0o755)
    assert forks.Forks(root, {"SXM_ROOT": root}).start(path, "0", None, None) is None


def test_a_host_with_another_python_has_no_forks(root):
    scripts.write_interpreter(root, "/usr/bin/false")
    assert HostWork(root).run_driver("Test", "0")["exit"] == 1


def test_a_long_call_is_started(root):
    found = said(HostWork(root).run_driver("Test", "0" * (forks.LONG + 1)))
    assert not found["loaded"]
