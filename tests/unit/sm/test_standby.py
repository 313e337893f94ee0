# SPDX-License-Identifier: LGPL-2.1-only
"""Both ends of a command that stands by, over a real process."""

import os
import signal
import sys

import pytest

from storage_motion.errors import SmFault
from storage_motion.sm import smapi, standby
from test_smapi import Session, host  # noqa: F401
from tests.eventually import eventually

DRIVER = """
standby_process, vdi = sys.argv[1:]
sys.path[:0] = %r
from storage_motion.sm import standby

def note(what):
    with open(%r, "a") as told:
        told.write(what + "\\n")

argument = standby.argument_of_call()
if argument is None:
    sys.exit(0)
(given,), name = xmlrpc.client.loads(argument)
note("%%s %%s %%s" %% (name, vdi, given["vdi_uuid"]))
if standby.told_to_close():
    note("closes")
    if standby.told_to_open():
        note("opens")
        while os.path.exists(%r):
            select.select([], [], [], 0.01)
        print(xmlrpc.client.dumps(("opened",), "", True))
from storage_motion.xapi import session
session.joined = lambda reference, timeout: reference
session.end = lambda joined, reference: note("logs out of " + reference)
standby.finish(given["session_ref"])
"""
PROGRAM = "#!%s\nimport os, select, sys, xmlrpc.client\n%s"


class Known(Session):
    """A pool that knows the UUID of its VDI."""

    def __init__(self):
        super(Known, self).__init__()
        self.xenapi.VDI.get_uuid = lambda ref: ref + "-uuid"


@pytest.fixture
def told(host, tmp_path):
    """What the process has noted by now: a list."""
    path = tmp_path / "told"
    program = tmp_path / "opt/xensource/sm/MirrorSR"
    driver = DRIVER % (sys.path, str(path), str(tmp_path / "slow"))
    program.write_text(PROGRAM % (sys.executable, driver))
    os.chmod(str(program), 0o700)
    return lambda: path.read_text().splitlines() if path.exists() else []


BEGUN = "vdi_receive_finish v-uuid v-uuid"


@pytest.fixture
def one(told):
    found = standby.Standby(Known(), "s", "vdi_receive_finish", "v", [standby.WHEN_TOLD])
    eventually(lambda: told() == [BEGUN], "it has made its disk", 30)
    yield found
    found.end()


def test_it_does_each_thing_when_it_is_told(one, told):
    one.close_disk()
    eventually(lambda: told() == [BEGUN, "closes"], "it closes the disk", 30)
    assert one.open() == "opened" and told() == [BEGUN, "closes", "opens"]


def test_who_was_not_told_to_close_the_disk_does_so_before_it_opens(one, told):
    assert one.open() == "opened" and told() == [BEGUN, "closes", "opens"]


@pytest.mark.parametrize("closed", [False, True])
def test_the_end_of_who_began_it_opens_nothing(one, told, closed):
    if closed:
        one.close_disk()
        eventually(lambda: told()[1:] == ["closes"], "it closes the disk", 30)
    one.end()
    assert "opens" not in told() and ("closes" in told()) == closed


def test_one_that_was_killed_says_so(one):
    os.kill(one._process.pid, signal.SIGKILL)
    one._process.wait(30)
    with pytest.raises(SmFault):
        one.close_disk()
    with pytest.raises(SmFault):
        one.open()


def test_it_is_waited_for_where_its_vdi_is_meant_and_not_with_a_dead_workers_commands(one):
    smapi.await_commands(timeout=0.0)
    with pytest.raises(smapi.TimedOut):
        smapi.await_commands(["v-uuid"], timeout=0.0)
    one.end()
    smapi.await_commands(["v-uuid"], timeout=10.0)


def test_a_word_that_does_not_come_is_not_waited_for_for_ever(monkeypatch):
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(standby.sys, "stdin", stdin)
        monkeypatch.setattr(standby, "OPEN_BOUND", 0.01)
        assert not standby.told_to_open()
        os.close(writing)
        assert not standby.told_to_close()


def test_one_whose_receiver_was_killed_ends_the_session_that_it_was_given(host, told, tmp_path):
    """Nobody else knows of it. What is told to end leaves it to who tells."""
    receiver = os.fork()
    if not receiver:
        begun = standby.Standby(Known(), "s", "vdi_receive_finish", "v", [standby.WHEN_TOLD])
        signal.pause()
        begun.end()
    try:
        eventually(lambda: told() == [BEGUN], "it has made its disk", 30)
    finally:
        os.kill(receiver, signal.SIGKILL)
        os.waitpid(receiver, 0)
    eventually(lambda: told() == [BEGUN, "logs out of OpaqueRef:session"], "it logs out", 30)


def test_so_does_one_whose_receiver_is_killed_while_it_opens(host, told, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # as in dom0
    slow = tmp_path / "slow"
    slow.touch()
    receiver = os.fork()
    if not receiver:
        begun = standby.Standby(Known(), "s", "vdi_receive_finish", "v", [standby.WHEN_TOLD])
        begun.open()
        os._exit(0)
    try:
        eventually(lambda: told()[1:] == ["closes", "opens"], "it opens", 30)
    finally:
        os.kill(receiver, signal.SIGKILL)
        os.waitpid(receiver, 0)
        slow.unlink()
    eventually(lambda: told()[3:] == ["logs out of OpaqueRef:session"], "it logs out", 30)


@pytest.mark.parametrize("word", ["end", "open"])
def test_else_it_is_left_to_who_began_it(one, told, word):
    getattr(one, word)()
    assert one._process.returncode == 0 and "logs out of OpaqueRef:session" not in told()
