# SPDX-License-Identifier: LGPL-2.1-only
"""Keeping the commands of SM away that would have a VM's disk only to read."""

import fcntl
import subprocess
import sys
import xmlrpc.client

import pytest

from storage_motion.dom0 import launch
from storage_motion.dom0.launch import Process
from storage_motion.errors import LaunchFailed
from storage_motion.sm.disks import guard
from tests.eventually import eventually

VDI, OTHER, SR = ["11111111-0000-4000-8000-00000000000%d" % number for number in (1, 2, 3)]


class Locks(object):
    """SM's. `taken`: the VDIs whose lock somebody else has; `held`: those whose lock the guard
    has."""

    def __init__(self):
        self.taken, self.held = set(), set()

    def Lock(self, name, vdi):
        assert name == "vdi"
        return Lock(self, vdi)


class Lock(object):
    def __init__(self, locks, vdi):
        self._locks, self._vdi = locks, vdi

    def acquireNoblock(self):
        if self._vdi in self._locks.taken:
            return False
        self._locks.held.add(self._vdi)
        return True

    def release(self):
        self._locks.held.remove(self._vdi)


@pytest.fixture
def locks(monkeypatch, tmp_path):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    one = Locks()
    monkeypatch.setattr(guard.stock_sm, "module", {"core.lock": one}.__getitem__)
    return one


@pytest.fixture
def commands():
    """`commands(command, vdi, *args)`: a command of SM's that runs, as xapi begins it; its
    Process."""
    begun = []

    def begin(command, vdi, *args):
        argument = xmlrpc.client.dumps(({"vdi_uuid": vdi, "args": list(args)},), command)
        begun.append(
            subprocess.Popen(
                [sys.executable, "-c", "import sys; sys.stdin.read()", argument],
                stdin=subprocess.PIPE,
            )
        )
        return Process.of(begun[-1].pid)

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def test_who_would_read_is_ended_and_nobody_else(locks, commands):
    one = guard.Guard()
    reader = commands("vdi_activate", VDI, "false")
    others = [commands("vdi_activate", OTHER, "false"), commands("vdi_attach", OTHER, "false")]
    one.look({VDI: SR})
    assert not reader.alive() and all(process.alive() for process in others)
    assert locks.held == {VDI}, "nobody is at it, and it is not active"


@pytest.mark.parametrize(
    "command", [("vdi_activate", "true"), ("vdi_deactivate",), ("vdi_receive_open_again",)]
)
def test_any_other_command_gets_the_lock(locks, commands, command):
    one = guard.Guard()
    one.look({VDI: SR})
    assert locks.held == {VDI}
    other = commands(command[0], VDI, *command[1:])
    one.look({VDI: SR})
    assert locks.held == set()
    reader = commands("vdi_activate", VDI, "false")
    one.look({VDI: SR})
    assert not reader.alive() and other.alive() and locks.held == set()


def test_who_may_be_at_the_tags_is_left_alone(locks, commands):
    one = guard.Guard()
    locks.taken.add(VDI)
    reader = commands("vdi_activate", VDI, "false")
    one.look({VDI: SR})
    assert reader.alive() and locks.held == set()


def test_a_disk_that_is_active_is_not_held(locks, tmp_path):
    one = guard.Guard()
    one.look({VDI: SR, OTHER: SR})
    assert locks.held == {VDI, OTHER}
    link = tmp_path / ("run/blktap-control/nbd/%s/%s" % (SR, VDI))
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "nbd1.0")
    one.look({VDI: SR, OTHER: SR})
    assert locks.held == {VDI, OTHER}, "a tapdisk that has died"
    (tmp_path / "nbd1.0").touch()
    one.look({VDI: SR, OTHER: SR})
    assert locks.held == {OTHER}
    one.close()
    assert locks.held == set()


def test_a_reader_that_does_not_end_keeps_the_lock_from_nobody(locks, commands, monkeypatch):
    """Its storage hangs; SIGKILL waits for it."""

    def hangs(process):
        raise LaunchFailed(str(process.pid), "does not end")

    one = guard.Guard()
    one.look({VDI: SR})
    reader = commands("vdi_activate", VDI, "false")
    writer = commands("vdi_activate", VDI, "true")
    monkeypatch.setattr(Process, "kill", hangs)
    one.look({VDI: SR})
    assert reader.alive() and writer.alive() and locks.held == set()


def test_all_disks_take_one_look_at_the_processes(locks, commands, monkeypatch):
    """SM's activations wait for the locks meanwhile, and the guest for these."""
    one, looks, running = guard.Guard(), [], launch.running
    monkeypatch.setattr(launch, "running", lambda *a, **k: looks.append(a) or running(*a, **k))
    disks = {VDI.replace("1", str(number)): SR for number in range(1, 9)}
    for _ in range(3):
        one.look(disks)
    assert len(looks) == 3 and locks.held == set(disks)
    reader = commands("vdi_activate", VDI, "false")
    one.look(disks)
    assert not reader.alive() and locks.held == set(disks)


def test_a_reader_that_comes_between_look_and_lock_waits_and_is_ended(locks, commands, monkeypatch):
    """Also where the one who writes comes with it."""
    one, came, look = guard.Guard(), [], guard.smapi.commands

    def commands_of(vdis):
        found = look(vdis)
        if not came:
            came.append(commands("vdi_activate", VDI, "false"))
        return found

    monkeypatch.setattr(guard.smapi, "commands", commands_of)
    one.look({VDI: SR})
    assert came[0].alive() and locks.held == {VDI}
    writer = commands("vdi_activate", VDI, "true")
    one.look({VDI: SR})
    assert not came[0].alive() and writer.alive() and locks.held == set()


WAITS = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX)"


def test_who_waits_for_a_lock_that_it_holds_is_told_of_until_it_was_looked(
    locks, monkeypatch, tmp_path
):
    class RecordLock(object):
        """As SM's: of fcntl(2)."""

        def __init__(self, kind, name):
            self._file = open(str(tmp_path / name), "w")

        def acquireNoblock(self):
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True

        def release(self):
            self._file.close()

    monkeypatch.setattr(locks, "Lock", RecordLock)
    one = guard.Guard()
    assert not one.holds() and not one.is_waited_for()
    one.look({VDI: SR, OTHER: SR})
    assert one.holds() and not one.is_waited_for()
    with open(str(tmp_path / "another's"), "w") as others:
        fcntl.lockf(others, fcntl.LOCK_EX)
        waiting = [
            subprocess.Popen([sys.executable, "-c", WAITS, str(tmp_path / name)])
            for name in ("another's", OTHER)
        ]
        eventually(one.is_waited_for, "it is seen that somebody waits", 30)
        one.look({VDI: SR, OTHER: SR})
        assert not one.is_waited_for(), "what could be done has been done"
        one.close()
        assert waiting[1].wait(30) == 0 and not one.is_waited_for()
    assert waiting[0].wait(30) == 0


def test_no_process_is_looked_at_while_no_gate_is_open(monkeypatch):
    monkeypatch.setattr(launch, "running", lambda *_, **__: pytest.fail("it looked"))
    watching = guard.Guard()
    watching.look({})
    watching.close()
