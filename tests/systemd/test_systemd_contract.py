# SPDX-License-Identifier: LGPL-2.1-only
"""What the product relies on in systemd, and what it must not forget: held against the lab's
stand-in here, and by test_real_systemd.py against a systemd (SYSTEMD=real), so that the stand-in is
as strict."""

import os
import subprocess
import sys

import pytest

from lab.dom0 import systemd
from lab.dom0.units import states
from tests.eventually import eventually

REAL = os.environ.get("SYSTEMD") == "real"
BOUND = 60.0
UNIT = "sxm-test-1"
WORKER = """[Service]
KillMode=process
Restart=on-abnormal
RestartSec=1
ExecStart=/bin/sh -c 'echo "$$0" >>%s; exec sleep 600' %%i
"""


class Manager:
    """systemctl and systemd-run, of the lab or real."""

    def __init__(self, root):
        self.root = root
        self._bin = "/usr/bin/" if REAL else root + "/usr/bin/"
        if not REAL:
            systemd.install(root)

    def call(self, program, *arguments):
        """The CompletedProcess."""
        return subprocess.run(
            [self._bin + program] + list(arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BOUND,
            env={"PATH": "/usr/bin:/bin", "SXM_ROOT": self.root, "INHERITED": "yes"},
        )

    def run(self, *command, unit=UNIT, options=()):
        """Whether systemd-run takes it."""
        done = self.call(
            "systemd-run",
            "--quiet",
            "--slice=sxm.slice",
            "--unit=" + unit,
            *(list(options) + list(command)),
        )
        assert done.returncode == 0 or b"already loaded" in done.stdout, done.stdout
        return done.returncode == 0

    def show(self, unit=UNIT):
        """Its LoadState, ActiveState and MainPID."""
        said = self.call(
            "systemctl", "show", "-p", "LoadState,ActiveState,MainPID", unit + ".service"
        ).stdout.decode()
        return dict(line.split("=", 1) for line in said.splitlines())

    def pid(self, unit=UNIT):
        """Its main process, once there is one."""
        return self.until(lambda: int(self.show(unit)["MainPID"]))

    def becomes(self, load, active, unit=UNIT):
        """Wait until it is so."""
        self.until(
            lambda: (self.show(unit)["LoadState"], self.show(unit)["ActiveState"]) == (load, active)
        )

    def until(self, ask):
        """Wait until it is so; the answer."""
        return eventually(ask, "what is asked of %s" % UNIT, BOUND, seen=self.show, poll=0.05)

    def install(self, name, text):
        """A unit file."""
        path = ("/run/systemd/system/" if REAL else self.root + "/usr/lib/systemd/system/") + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as out:
            out.write(text)
        assert self.call("systemctl", "daemon-reload").returncode == 0


@pytest.fixture
def manager(tmp_path):
    manager = Manager(str(tmp_path))
    yield manager
    manager.call("systemctl", "stop", "sxm-worker@11-22.service")
    for name in states.loaded(manager.root):
        manager.call("systemctl", "stop", name)
    manager.call("systemctl", "stop", UNIT)
    manager.call("systemctl", "reset-failed", "sxm-*")


def script(text):
    return [sys.executable, "-c", text]


@pytest.mark.parametrize("command, signal", [(["/bin/sleep", "600"], 9), (["/bin/false"], None)])
def test_what_has_failed_stays_and_keeps_its_name(manager, command, signal):
    assert manager.run(*command)
    if signal:
        os.kill(manager.pid(), signal)
    manager.becomes("loaded", "failed")
    assert not manager.run("/bin/true")
    assert manager.call("systemctl", "reset-failed", "sxm-*test*").returncode == 0
    assert manager.show()["LoadState"] == "not-found"
    assert manager.run("/bin/sleep", "600")


@pytest.mark.parametrize("command, signal", [(["/bin/true"], None), (["/bin/sleep", "600"], 15)])
def test_what_has_ended_well_is_forgotten(manager, command, signal):
    assert manager.run(*command)
    if signal:
        os.kill(manager.pid(), signal)
    manager.becomes("not-found", "inactive")
    assert manager.show()["MainPID"] == "0"
    assert manager.run("/bin/sleep", "600")


def test_one_that_runs_keeps_its_name(manager):
    assert manager.run("/bin/sleep", "600")
    assert not manager.run("/bin/true")


BEGINS_ANOTHER = """
import subprocess, sys, time
child = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
with open(%r, "w") as out:
    out.write(str(child.pid))
time.sleep(600)
"""


@pytest.mark.parametrize("mode, lives", [(None, False), ("process", True)])
def test_what_a_unit_has_begun_is_ended_with_it(manager, mode, lives):
    """A session of its own is no way out. With KillMode=process it stays, and the unit with it."""
    noted = manager.root + "/child"
    assert manager.run(
        *script(BEGINS_ANOTHER % noted), options=["--property=KillMode=" + mode] if mode else []
    )
    main = manager.pid()
    child = int(manager.until(lambda: os.path.exists(noted) and open(noted).read()))
    os.kill(main, 9)
    manager.becomes("loaded", "failed")
    try:
        if lives:
            os.kill(child, 0)
            manager.call("systemctl", "reset-failed", UNIT)
            assert not manager.run("/bin/true"), "a process of it is left"
        else:
            manager.until(lambda: _gone(child))
    finally:
        if lives:
            os.kill(child, 9)


def _gone(pid):
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_nothing_is_inherited(manager):
    noted = manager.root + "/environment"
    assert manager.run(
        "/bin/sh", "-c", 'env >"$0.new"; mv "$0.new" "$0"', noted, options=["--setenv=OURS=here"]
    )
    manager.until(lambda: os.path.exists(noted))
    with open(noted) as source:
        found = dict(line.rstrip("\n").partition("=")[::2] for line in source)
    # the real one has what its PID 1 found in locale.conf, and the shell adds PWD and the like
    assert not {"INHERITED", "SXM_ROOT", "HOME", "PYTHONPATH"} & set(found)
    assert found["OURS"] == "here" and "/usr/bin" in found["PATH"].split(":")


def test_the_end_of_what_is_not_there(manager):
    assert manager.call("systemctl", "reset-failed", "sxm-none.service").returncode != 0
    assert manager.call("systemctl", "reset-failed", "sxm-*none*").returncode == 0
    assert manager.call("systemctl", "start", "sxm-none.service").returncode == 5
    assert manager.show("sxm-none") == {
        "LoadState": "not-found",
        "ActiveState": "inactive",
        "MainPID": "0",
    }


@pytest.mark.parametrize("signal, again", [(9, True), (6, True), (15, False)])
def test_a_worker_is_started_again_when_it_was_killed(manager, signal, again):
    """Its instance is told as it is written; one that was told to end does not come back."""
    noted, unit = manager.root + "/instances", "sxm-worker@11-22"
    manager.install("sxm-worker@.service", WORKER % noted)
    for _ in range(2):  # of one that runs already a start is none
        assert manager.call("systemctl", "start", unit + ".service").returncode == 0
    pid = manager.pid(unit)
    manager.until(lambda: os.path.exists(noted) and open(noted).read() == "11-22\n")
    os.kill(pid, signal)
    if again:
        assert manager.until(lambda: manager.show(unit)["MainPID"] not in ("0", str(pid)))
        manager.until(lambda: open(noted).read() == "11-22\n" * 2)
    else:
        manager.until(lambda: manager.show(unit)["ActiveState"] == "inactive")
        assert open(noted).read() == "11-22\n"


def test_a_worker_that_ends_by_a_status_has_failed(manager):
    manager.install(
        "sxm-worker@.service",
        "[Service]\nRestart=on-abnormal\nRestartSec=1\nExecStart=/bin/false\n",
    )
    manager.call("systemctl", "start", "sxm-worker@11-22.service")
    manager.until(lambda: manager.show("sxm-worker@11-22")["ActiveState"] == "failed")
