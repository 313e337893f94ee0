# SPDX-License-Identifier: LGPL-2.1-only
"""What is done, in what order, when a gate is opened."""

import contextlib
import importlib
import sys

import mock
import pytest

from storage_motion.errors import NotFinished
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
            self.log, self.config = [], {marks.PAUSED: marks.SHUT, marks.RELINKING: marks.SHUT}

        @contextlib.contextmanager
        def locked(self):
            self.log.append("locked")
            yield
            self.log.append("unlocked")

        def _close(self):
            self.log.append("closed")

        def sm_config(self):
            return self.config

        def remove_from_sm_config(self, ref, key):
            del self.config[key]
            self.log.append("no %s of %s" % (key, ref))

        def remove(self):
            self.log.append("no record")

    one = Disk()
    monkeypatch.setattr(filled.gate_notes, "noted", lambda vdi: False)
    monkeypatch.setattr(filled.gate_notes, "note", lambda vdi: one.log.append("noted"))
    monkeypatch.setattr(filled.guard, "end_readers", lambda vdi: one.log.append("readers ended"))
    return one


def test_who_would_only_read_is_ended_when_the_gate_is_open_and_before_the_lock_is_let_go(disk):
    """One that begins while it is opened waits for the lock, and would find an open gate."""
    disk.finish(lambda: not disk.log.append("asked"))
    marks_taken = ["no %s of ref" % key for key in (marks.RELINKING, marks.PAUSED)]
    assert disk.log == (
        ["locked", "closed", "asked", "noted"]
        + marks_taken
        + ["no record", "readers ended", "unlocked"]
    )


def test_nothing_is_noted_that_may_not_be_opened(disk):
    with pytest.raises(NotFinished):
        disk.finish(lambda: False)
    assert disk.log == ["locked", "closed"]
    assert set(disk.config.values()) == {marks.SHUT}
