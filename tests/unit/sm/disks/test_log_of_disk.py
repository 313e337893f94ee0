# SPDX-License-Identifier: LGPL-2.1-only
"""Which log an unpause names: the guest has to go on, whatever sm's drivers do."""

import importlib
import sys
import types

import mock
import pytest

from storage_motion.errors import TapCtlError
from storage_motion.sm import stock_sm

DISKS = "storage_motion.sm.disks."


@pytest.fixture
def tracking(monkeypatch):
    """The module, as it is imported where there is an SM; of which nothing is asked here."""
    monkeypatch.setattr(stock_sm, "module", mock.Mock())
    for name in ("disk", "tracking"):
        monkeypatch.delitem(sys.modules, DISKS + name, raising=False)
    yield importlib.import_module(DISKS + "tracking")
    for name in ("disk", "tracking"):
        del sys.modules[DISKS + name]


class Driver:
    """sm's VDI, as far as its log is concerned. `exists`: whether it says that there is one, or
    what it raises."""

    def __init__(self, exists):
        self._exists, self.activated = exists, []

    def _get_cbt_logpath(self, uuid):
        return "/sr/%s.cbtlog" % uuid

    def _get_cbt_logname(self, uuid):
        return uuid + ".cbtlog"

    def _cbt_log_exists(self, path):
        if isinstance(self._exists, Exception):
            raise self._exists
        return self._exists

    def _activate_cbt_log(self, name):
        self.activated.append(name)


def told(monkeypatch, tracking, exists, kept=None, stats=None):
    """The log that is named for a disk "v" whose tapdisk keeps `kept`."""
    images = [{"name": kept, "driver": {"name": "log"}}] if kept else []

    def answer(vbd):
        if stats:
            raise stats
        return {"images": images + [{"name": "/sr/v.vhd", "driver": {"name": "vhd"}}]}

    monkeypatch.setattr(tracking.tapctl, "stats", answer)
    driver = Driver(exists)
    disk = types.SimpleNamespace(
        uuid="v", tapped=types.SimpleNamespace(target=types.SimpleNamespace(vdi=driver))
    )
    return tracking.log_to_keep(disk, object())


def test_the_tapdisks_own_word_comes_first(monkeypatch, tracking):
    assert told(monkeypatch, tracking, False, kept="/sr/kept") == "/sr/kept", (
        "an lvs that has failed"
    )


@pytest.mark.parametrize("exists, log", [(True, "/sr/v.cbtlog"), (False, None)])
def test_of_one_whose_images_are_closed_sm_says_it(monkeypatch, tracking, exists, log):
    assert told(monkeypatch, tracking, exists) == log


@pytest.mark.parametrize("exists, log", [(True, "/sr/v.cbtlog"), (ValueError("lvs"), None)])
def test_whatever_fails_the_guest_goes_on(monkeypatch, tracking, exists, log):
    assert told(monkeypatch, tracking, exists, stats=TapCtlError("stats", 1, "no")) == log
