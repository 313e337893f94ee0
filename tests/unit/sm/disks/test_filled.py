# SPDX-License-Identifier: LGPL-2.1-only
"""What is done, in what order, when a gate is opened."""

import contextlib
import errno
import importlib
import os
import sys

import mock
import pytest

from storage_motion.dom0 import tapctl
from storage_motion.dom0.launch import Process
from storage_motion.errors import NotFinished, TapCtlError
from storage_motion.sm import marks, stock_sm

DISKS = "storage_motion.sm.disks."


@pytest.fixture
def filled(monkeypatch):
    """The module, as it is imported where there is an SM; of which nothing is asked here."""
    monkeypatch.setattr(stock_sm, "module", mock.Mock())
    for name in ("disk", "filled"):
        monkeypatch.delitem(sys.modules, DISKS + name, raising=False)
    yield importlib.import_module(DISKS + "filled")
    for name in ("disk", "filled"):
        del sys.modules[DISKS + name]


@pytest.fixture
def disk(filled, monkeypatch):
    """One whose gate is shut; its `log`: what was done."""

    class Disk(filled.FilledDisk):
        def __init__(self):
            self.uuid, self.ref, self.api, self._record = "vdi", "ref", self, self
            self._only, self.record, self._read_only = None, None, False
            self.tapped = mock.Mock()
            self.log, self.config = [], {marks.PAUSED: marks.SHUT, marks.RELINKING: marks.SHUT}

        @contextlib.contextmanager
        def locked(self):
            self.log.append("locked")
            yield
            self.log.append("unlocked")

        def _close(self):
            self.log.append("closed")
            return []

        def sm_config(self):
            return self.config

        def remove_from_sm_config(self, ref, key):
            del self.config[key]
            self.log.append("no %s of %s" % (key, ref))

        def read(self):
            return self.record

        def write(self, value):
            self.record = value

        def remove(self):
            self.log.append("no record")

    one = Disk()
    monkeypatch.setattr(filled.gate_notes, "noted", lambda vdi: False)
    monkeypatch.setattr(filled.gate_notes, "note", lambda vdi: one.log.append("noted"))
    monkeypatch.setattr(filled.guard, "end_readers", lambda vdi: one.log.append("readers ended"))
    return one


def test_who_would_only_read_is_ended_before_the_gate_opens_and_before_the_lock_is_let_go(disk):
    """One that begins while it is opened waits for the lock, and would find an open gate; those
    before are gone whatever is killed in between."""
    disk.finish(lambda: not disk.log.append("asked"))
    marks_taken = ["no %s of ref" % key for key in (marks.RELINKING, marks.PAUSED)]
    assert disk.log == (
        ["locked", "closed", "asked", "noted", "readers ended"]
        + marks_taken
        + ["no record", "readers ended", "unlocked"]
    )


def test_nothing_is_noted_that_may_not_be_opened(disk):
    with pytest.raises(NotFinished):
        disk.finish(lambda: False)
    assert disk.log == ["locked", "closed"]
    assert set(disk.config.values()) == {marks.SHUT}


def test_what_a_killed_command_has_begun_is_waited_for_before_tapdisks_are_looked_for(
    disk, filled, monkeypatch
):
    """Its tap-ctl goes on after it, and `tap-ctl list` tells nothing of it before its end."""
    log, under_way = [], [["process"], ["process"], []]
    monkeypatch.setattr(filled.FilledDisk, "path", "/image")
    monkeypatch.setattr(filled.tapctl, "opening", lambda path: log.append(path) or under_way.pop(0))
    monkeypatch.setattr(filled.tapctl, "find", lambda path: log.append("found") or [])
    assert disk.close_tapdisks() == []
    assert log == ["/image"] * 3 + ["found"] * 2


def test_where_tap_ctl_fails_before_the_pause_it_is_asked_again_in_it(disk, filled, monkeypatch):
    def find(path):
        raise TapCtlError("list", errno.ETIMEDOUT, "no answer")

    monkeypatch.setattr(filled.tapctl, "find", find)
    monkeypatch.setattr(filled.FilledDisk, "path", "/image")
    disk.record = {"blank": True, "tapdisk": ONLY}
    disk.expect_finish()
    assert disk._only is None


ONLY = {"pid": os.getpid(), "started": Process.of(os.getpid()).started, "minor": 3}


@pytest.mark.parametrize(
    "noted, found, then, quick",
    [
        (ONLY, [(ONLY["pid"], 3)], ONLY, True),
        (ONLY, [(ONLY["pid"], 3), (5, 4)], ONLY, False),
        (ONLY, [], ONLY, False),
        (None, [(ONLY["pid"], 3)], ONLY, False),
        (ONLY, [(ONLY["pid"], 3)], dict(ONLY, minor=4), False),
        (ONLY, [(ONLY["pid"], 3)], None, False),
        (dict(ONLY, started=1), [(ONLY["pid"], 3)], dict(ONLY, started=1), False),
    ],
    ids=["only", "another", "none", "not noted", "opened anew", "being opened", "pid is another's"],
)
def test_what_is_known_before_the_pause_is_used_exactly_if_it_still_holds(
    disk, filled, monkeypatch, noted, found, then, quick
):
    closed = []
    monkeypatch.setattr(filled.FilledDisk, "path", "/image")
    monkeypatch.setattr(
        filled.tapctl, "find", lambda path: [tapctl.Vbd(*one + (0, "vhd:/image")) for one in found]
    )
    monkeypatch.setattr(
        filled, "end_tapdisk", lambda vbd, process: closed.append((vbd.pid, vbd.minor))
    )
    disk.close_tapdisks = lambda: closed.append("all that there are") or []
    disk.host_key, disk.tapped, disk.sr = "host_x", mock.Mock(), mock.Mock()
    disk.record = {"blank": True, "tapdisk": noted}
    disk.expect_finish()
    disk.record = {"blank": True, "tapdisk": then}
    filled.FilledDisk._close(disk)
    assert closed == ([(ONLY["pid"], 3)] if quick else ["all that there are"])


OURS = tapctl.Vbd(ONLY["pid"], 3, None, None)
OTHER = tapctl.Vbd(5, 4, None, None)


@pytest.mark.parametrize(
    "noted, ended, in_order",
    [
        (ONLY, [(OURS, True)], True),
        (ONLY, [(OURS, False)], False),
        (ONLY, [(OURS, True), (OTHER, True)], False),
        (ONLY, [(OTHER, True)], False),
        (ONLY, [], False),
        (None, [(OURS, True)], False),
        (dict(ONLY, started=1), [(OURS, True)], False),
        (dict(ONLY, minor=4), [(OURS, True)], False),
    ],
    ids=[
        "ours",
        "it did not close",
        "another as well",
        "another",
        "dead before",
        "not noted",
        "pid is another's",
        "minor is another's",
    ],
)
def test_what_is_closed_in_order_is_the_one_tapdisk_that_was_noted(disk, noted, ended, in_order):
    disk.record, disk.tapped = {"blank": True, "tapdisk": noted}, mock.Mock()
    disk.tapped.get_tap_type.return_value = "vhd"
    disk._close = lambda: ended
    assert disk.abort() is in_order
    assert disk.log == ["locked", "no record", "unlocked"]


def test_a_qcow2_image_is_never_proven_whole(disk):
    """Its tapdisk tells nobody that it could not write what it had in memory of the tables."""
    disk.record, disk.tapped = {"blank": True, "tapdisk": ONLY}, mock.Mock()
    disk.tapped.get_tap_type.return_value = "qcow2"
    disk._close = lambda: [(OURS, True)]
    assert disk.abort() is False


@pytest.mark.parametrize("refused, gone, in_order", [(False, True, True), (True, True, False)])
def test_a_tapdisk_that_ends_without_a_word_has_not_closed_in_order(
    filled, monkeypatch, refused, gone, in_order
):
    def destroy(vbd):
        if refused:
            raise TapCtlError("destroy", errno.ENOENT, "no such tapdisk")

    monkeypatch.setattr(filled.tapctl, "destroy", destroy)
    process = mock.Mock()
    process.gone.return_value = gone
    assert filled.end_tapdisk(OURS, process) is in_order


class Qcow2:
    """What a QCOW2 tapdisk that fills `disk` does as it is closed, and what is remembered of it.
    `ended`: what closing it comes to."""

    def __init__(self, filled, disk, ended):
        self.disk, self.ended = disk, ended
        disk.tapped, disk.sr, disk.host_key = mock.Mock(), mock.Mock(), "host_x"
        disk.tapped.get_tap_type.return_value = "qcow2"
        disk.record = {"blank": True, "tapdisk": ONLY}
        disk._close = lambda: filled.FilledDisk._close(disk)
        disk.close_tapdisks = self.close

    def close(self):
        if isinstance(self.ended, BaseException):
            raise self.ended
        return self.ended


def test_a_gate_opens_behind_a_qcow2_tapdisk_that_has_closed_in_order(disk, filled):
    Qcow2(filled, disk, [(OURS, True)])
    disk.finish()
    assert disk.config == {} and "noted" in disk.log


@pytest.mark.parametrize(
    "noted, ended",
    [(dict(ONLY, started=1), []), (ONLY, [(OURS, False)]), (ONLY, []), (None, [])],
    ids=["it died before", "it died as it closed", "it died in between", "never noted"],
)
def test_no_gate_opens_behind_one_that_has_died(disk, filled, noted, ended):
    """What it had answered was in its memory: the VM would run on an image that lacks it, and the
    source would be deleted. However often it is asked."""
    tapdisk = Qcow2(filled, disk, ended)
    disk.record["tapdisk"] = noted
    for _ in range(2):
        with pytest.raises(NotFinished, match="ended by itself"):
            disk.finish()
        tapdisk.ended = []
    assert set(disk.config.values()) == {marks.SHUT} and "noted" not in disk.log


def test_one_that_died_loses_nothing_of_a_vhd(disk, filled):
    """Whose tapdisk answers when all is in the image."""
    Qcow2(filled, disk, [])
    disk.tapped.get_tap_type.return_value = "vhd"
    disk.finish()
    assert disk.config == {}


class Killed(BaseException):
    """What a command ends with as it has told its tapdisk to close."""


@pytest.fixture
def told_to_close(disk, filled, monkeypatch):
    """A disk whose tapdisk a command that was killed has told to close, and that has ended since.
    `minors`: what tap-ctl tells of its minor, each time it is asked; the last one for good."""
    tapdisk = Qcow2(filled, disk, Killed())
    with pytest.raises(Killed):
        disk.finish()
    disk.record["tapdisk"] = dict(ONLY, started=1)
    tapdisk.ended = []
    disk.minors = [[]]

    def rows(minor):
        assert minor == ONLY["minor"]
        return disk.minors.pop(0) if len(disk.minors) > 1 else disk.minors[0]

    monkeypatch.setattr(filled.tapctl, "list", rows)
    monkeypatch.setattr(filled, "FREE_BOUND", 0.1)
    return disk


LEFT = [tapctl.Vbd(None, ONLY["minor"], None, None)]
OF_ANOTHER = [tapctl.Vbd(1, ONLY["minor"], 0, "vhd:/other")]


@pytest.mark.parametrize(
    "minors",
    [[[]], [LEFT, []], [OF_ANOTHER]],
    ids=["its minor is free", "its minor is freed just now", "its minor is another's by now"],
)
def test_one_that_a_killed_command_has_told_to_close_has_closed(told_to_close, minors):
    """Its tap-ctl has gone on."""
    told_to_close.minors = minors
    told_to_close.finish()
    assert told_to_close.config == {}


def test_one_that_was_to_close_and_has_died_instead_has_not_closed(told_to_close):
    """As where the command was killed before its tap-ctl began, or its storage hung until somebody
    killed the tapdisk. Its minor stays."""
    told_to_close.minors = [LEFT]
    for _ in range(2):
        with pytest.raises(NotFinished, match="ended by itself"):
            told_to_close.finish()
    assert set(told_to_close.config.values()) == {marks.SHUT}
    assert "noted" not in told_to_close.log
