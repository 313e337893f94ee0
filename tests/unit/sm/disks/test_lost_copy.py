# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that was opened to be read, and that xapi does not know any more: closed by what was
noted, under sm's lock."""

import importlib
import sys
import types

import mock
import pytest

from storage_motion.sm import stock_sm

MODULES = ["storage_motion.sm.disks." + name for name in ("disk", "copied", "record")]


class World:
    """What is done, and the record of the disk "v"."""

    def __init__(self, monkeypatch, record):
        self.log, self.record = [], record
        monkeypatch.setattr(stock_sm, "module", lambda name: mock.Mock())
        copied = importlib.import_module(MODULES[1])
        lock = types.SimpleNamespace(
            acquire=lambda: self.log.append("lock"), release=lambda: self.log.append("unlock")
        )
        core = types.SimpleNamespace(Lock=lambda *name: self.log.append(name) or lock)
        monkeypatch.setattr(stock_sm, "module", lambda name: {"core.lock": core}[name])
        kept = types.SimpleNamespace(
            read=lambda: self.record, remove=lambda: self.log.append("forgotten")
        )
        monkeypatch.setattr(copied, "Record", lambda kind, uuid: kept)
        monkeypatch.setattr(
            copied, "close_tapdisks", lambda uuid, path: self.log.append("closed " + path)
        )
        link = types.SimpleNamespace(
            from_uuid=lambda sr, vdi: types.SimpleNamespace(unlink=lambda: self.log.append("link"))
        )
        vdi = types.SimpleNamespace(**dict.fromkeys(copied.LINKS[1:], link))
        monkeypatch.setattr(copied.blktap2, "VDI", vdi)
        copied.close_lost(types.SimpleNamespace(uuid="sr"), "v")


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """The modules, as they are imported where there is an SM."""
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "record, closed",
    [({"path": "/p"}, ["closed /p"]), ({}, [])],
    ids=["noted", "of a version that did not note it"],
)
def test_it_is_closed_and_forgotten(monkeypatch, record, closed):
    assert World(monkeypatch, record).log == (
        [("vdi", "v"), "lock"] + closed + ["link", "link", "forgotten", "unlock"]
    )


def test_one_that_this_host_has_not_opened_is_let_alone(monkeypatch):
    assert World(monkeypatch, None).log == []
