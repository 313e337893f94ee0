# SPDX-License-Identifier: LGPL-2.1-only
"""The receivers of a migration: others in the place of those whose disks have broken, and their
end."""

import os
import subprocess
import sys

import pytest

from fake_destination import ID, KEYS, VM, nothing_left, open_gate, receive_renew
from full_disk import FullDisk
from storage_motion.dom0 import launch
from storage_motion.errors import (
    BadArguments,
    GateOpen,
    JournalNotWritten,
    MotionError,
    ReceiverFailed,
    TimedOut,
)
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal
from storage_motion.migration import at_destination, receivers, receiving_calls
from storage_motion.sm import marks, smapi


def test_disks_are_opened_anew_for_another_receiver(destination, tmp_path):
    first = destination.receive()
    destination.sm_calls = []
    answer = receive_renew(destination, KEYS[:1])
    assert answer["disks"][KEYS[0]]["vdi"] == first["disks"][KEYS[0]]["vdi"] and set(
        answer["disks"]
    ) == {KEYS[0]}
    assert destination.sm_calls == ["vdi_receive_abort", "vdi_receive_start"], (
        "what the old tapdisk was told cannot arrive any more"
    )
    assert answer["token"] != first["token"] and set(destination.spec["disks"]) == {KEYS[0]}
    receivers = Journal.load(ID, journal.RECEIVING).entry["receivers"]
    assert [one["keys"] for one in receivers] == [[KEYS[1]], [KEYS[0]]] and receivers[0][
        "number"
    ] != receivers[1]["number"]
    receive_renew(destination, KEYS)
    assert [one["keys"] for one in Journal.load(ID, journal.RECEIVING).entry["receivers"]] == [
        [],
        [],
        KEYS,
    ]
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert nothing_left(destination, tmp_path)


def test_contents_have_the_same_name_while_all_that_was_answered_is_there(destination):
    """By it the source knows what it need not compare."""

    def contents(answer):
        return {key: disk["contents"] for key, disk in answer["disks"].items()}

    first = contents(destination.receive())
    assert len(set(first.values())) == len(KEYS) and all(len(name) == 32 for name in first.values())
    assert contents(receive_renew(destination, KEYS)) == first
    # a tapdisk that was killed, a host that was restarted: the driver says nothing
    destination.closes = None
    second = contents(receive_renew(destination, KEYS[:1]))
    assert second[KEYS[0]] not in first.values()
    destination.closes = smapi.CLOSED_IN_ORDER
    assert contents(receive_renew(destination, KEYS)) == dict(first, **second)


def test_new_contents_are_named_before_anything_is_written_to_them(destination):
    first = destination.receive()["disks"][KEYS[0]]["contents"]
    destination.closes, destination.fails = None, "vdi_receive_start 3"
    with pytest.raises(MotionError):
        receive_renew(destination, KEYS[:1])
    destination.closes, destination.fails = smapi.CLOSED_IN_ORDER, None
    assert receive_renew(destination, KEYS[:1])["disks"][KEYS[0]]["contents"] != first


@pytest.mark.parametrize("fails", ["vdi_receive_abort 1", "vdi_receive_start 3", "receiver"])
def test_a_renewal_that_fails_may_be_repeated(destination, tmp_path, fails):
    destination.receive()
    destination.fails = fails
    with pytest.raises(MotionError):
        receive_renew(destination, KEYS[:1])
    assert len(destination.vdis()) == 2 and all(
        vdi["sm_config"]["paused"] == marks.SHUT for vdi in destination.vdis().values()
    )
    destination.fails = None
    assert receive_renew(destination, KEYS)["port"] == 4711


def test_stopping_waits_for_what_the_storage_manager_is_at(destination, tmp_path, monkeypatch):
    """As the killed receiver's `finish` would be: a process with the driver's path and the VDI in
    its command line."""
    first = destination.receive()
    driver = str(tmp_path / "opt/xensource/sm/MirrorSR")
    monkeypatch.setattr(smapi, "COMMANDS_TIMEOUT", 0.2)
    others = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", driver, "<string>another</string>"]
    )
    command = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; time.sleep(60)",
            driver,
            "<string>%s</string>" % first["disks"][KEYS[1]]["vdi"],
        ]
    )
    try:
        with pytest.raises(TimedOut):
            at_destination.receive_stop(destination.pool, {"migration": ID, "vm": VM})
        with pytest.raises(TimedOut):
            receive_renew(destination, KEYS)
        receive_renew(destination, KEYS[:1])
    finally:
        command.kill()
        command.wait()
    try:
        for _ in range(2):
            assert at_destination.receive_stop(destination.pool, {"migration": ID, "vm": VM}) == {
                "arrived": False,
                "opened": [],
            }
    finally:
        others.kill()
        others.wait()
    assert all(not one["keys"] for one in Journal.load(ID, journal.RECEIVING).entry["receivers"])
    assert receive_renew(destination, KEYS)["port"] == 4711


def test_stopping_ends_the_receivers_and_what_they_had_become(destination, monkeypatch):
    destination.receive()
    stopped, child = (
        [],
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import time; time.sleep(60)",
                receivers.MODULE,
                receivers._spec(ID, 1),
            ]
        ),
    )
    monkeypatch.setattr(
        launch.Process, "stop", lambda process, timeout=None: stopped.append(process.pid)
    )
    monkeypatch.setattr(receivers, "RETIRE_TIMEOUT", 0.2)
    try:
        with pytest.raises(ReceiverFailed):
            at_destination.receive_stop(destination.pool, {"migration": ID, "vm": VM})
    finally:
        child.kill()
        child.wait()
    at_destination.receive_stop(destination.pool, {"migration": ID, "vm": VM})
    assert set(stopped) == {os.getpid()}


@pytest.mark.parametrize("vm", [{}, {"vm": "web1"}])
def test_stopping_for_no_vm(destination, vm):
    with pytest.raises(BadArguments) as raised:
        at_destination.receive_stop(destination.pool, dict(vm, migration=ID))
    assert "vm" in str(raised.value)


def test_stopping_what_is_not_known(destination):
    assert at_destination.receive_stop(destination.pool, {"migration": ID, "vm": VM}) == {
        "arrived": False,
        "opened": [],
    }


def test_a_disk_whose_gate_is_open_is_not_renewed(destination):
    destination.receive()
    destination.sm_calls = []
    open_gate(destination)
    with pytest.raises(GateOpen):
        receive_renew(destination, KEYS[:1])
    assert destination.sm_calls == []


@pytest.mark.parametrize("left", range(7))
def test_a_journal_that_cannot_be_written_while_disks_are_renewed(
    destination, tmp_path, monkeypatch, left
):
    destination.receive()
    # each call is a process, which has ended when the next one comes
    monkeypatch.setattr(receiving_calls, "myself", lambda: {"pid": os.getpid(), "started": 1})
    disk = FullDisk(monkeypatch)
    disk.left = left
    try:
        receive_renew(destination, KEYS)
        assert left == 6
    except JournalNotWritten:
        assert left < 6
    assert (
        all(vdi["sm_config"]["paused"] == marks.SHUT for vdi in destination.vdis().values())
        and len(destination.vdis()) == 2
    )
    disk.left = None
    assert receive_renew(destination, KEYS)["port"] == 4711
    at_destination.receive_abort(destination.pool, {"migration": ID})
    assert nothing_left(destination, tmp_path)
