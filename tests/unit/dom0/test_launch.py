# SPDX-License-Identifier: LGPL-2.1-only
"""Detached processes: they outlive whoever started them, and are ended by who they are, not by a
number alone."""

import os
import subprocess
import sys
import time

import pytest

from lab.dom0 import systemd
from lab.pools.daemons import end_all_of
from storage_motion.dom0 import launch
from storage_motion.errors import LaunchFailed
from tests.eventually import eventually


@pytest.fixture(autouse=True, params=["systemd", "none"])
def root(request, tmp_path, monkeypatch):
    """A host, and a bed that is not booted with systemd."""
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    if request.param == "systemd":
        systemd.install(str(tmp_path))
    yield tmp_path
    end_all_of(str(tmp_path))


def script(text):
    return [sys.executable, "-c", text]


def test_it_is_detached_and_logs(root):
    process = launch.start(
        "one",
        script("import os, time; print(os.getsid(0), os.getppid(), flush=True); time.sleep(60)"),
    )
    try:
        log = root / "var/log/sxm.log"
        said = eventually(lambda: log.exists() and log.read_text(), "it has logged")
        session, parent = map(int, said.split())
        assert session != os.getsid(0) and parent != os.getpid()
        assert process.alive() and launch.Process.from_json(process.to_json()).alive()
    finally:
        process.stop()
    assert not process.alive()
    process.stop()


def test_one_that_does_not_want_to_go(root):
    process = launch.start(
        "one",
        script(
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, "
            "flush=True); time.sleep(60)"
        ),
    )
    eventually(lambda: (root / "var/log/sxm.log").read_text(), "it has logged")
    process.stop(timeout=0.2)
    assert not process.alive()


def test_a_pid_that_another_process_has_now_is_not_it():
    child = subprocess.Popen(script("import time; time.sleep(60)"))
    try:
        other = launch.Process(child.pid, launch.Process.of(child.pid).started - 1)
        assert not other.alive()
        other.stop()
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_what_cannot_be_started_is_told(root):
    try:
        process = launch.start("one", ["/nonexistent/program"])
        assert process.gone(10)
    except LaunchFailed:
        pass
    assert "nonexistent" in (root / "var/log/sxm.log").read_text()


def test_a_module_of_ours(root):
    assert launch.python_module("m", "a") == [sys.executable, "-m", "m", "a"]
    python = root / "usr/bin/python3"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    assert launch.python_module("m") == [str(python), "-m", "m"]


def test_those_that_run_a_program_below_a_directory_and_are_about_something(root):
    argv = script("import time; time.sleep(60)") + ["%s/sm/Driver" % root, "<of-u>"]
    child = subprocess.Popen(argv)
    try:
        for below, mentioning, found in (
            (("%s/sm/" % root,), ("of-u",), True),
            (("/nowhere/", "%s/sm/Dr" % root), ("of-u",), True),
            (("%s/sm/" % root,), ("of-v",), False),
            (("/nowhere/",), ("of-u",), False),
        ):
            assert [
                process.pid for process in launch.running(below=below, mentioning=mentioning)
            ] == ([child.pid] if found else [])
    finally:
        child.kill()
        child.wait()


def test_one_that_just_begins_its_program_is_not_overlooked(monkeypatch):
    """Inside exec(2) it has no command line for a moment."""
    read, before = launch._command_line, []

    def command_line(pid):
        if pid == child.pid and len(before) < 3:
            before.append(pid)
            return b""
        return read(pid)

    child = subprocess.Popen(["/bin/sleep", "60.25"])
    monkeypatch.setattr(launch, "_command_line", command_line)
    try:
        assert [process.pid for process in launch.running("60.25")] == [child.pid]
        assert len(before) == 3
    finally:
        child.kill()
        child.wait()


def test_who_has_no_command_line_is_not_waited_for_long():
    child = subprocess.Popen(["/bin/sleep", "60"])
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    begun = time.monotonic()
    assert launch.arguments(child.pid) == []
    assert time.monotonic() - begun < 60
    child.wait()
    assert launch.arguments(child.pid) == []
