# SPDX-License-Identifier: LGPL-2.1-only
"""What the plugin's functions see: a pool of two hosts from the first of them, a migration that has
begun there, and time, which passes as fast as somebody waits."""

import os

import pytest

from fake_migration import ID, make_plan
from fake_pool import by_name, make_pool, uuid_of
from storage_motion.api import dead_worker, outcome
from storage_motion.dom0 import launch
from storage_motion.journal.journal import Journal
from storage_motion.migration import migration


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Its hosts are a1, which this one is, and a2."""
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    monkeypatch.setattr(outcome, "POLL", 0.02)
    found = make_pool("A", ["a1", "a2"])
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/xensource-inventory").write_text(
        "INSTALLATION_UUID='%s'\n" % uuid_of(found, "host", by_name(found, "host", "a1"))
    )
    return found


def begin(alive=True):
    """The journal of a migration of this host; `alive`: whether its worker is."""
    entry = Journal.create(ID, **migration.initial(make_plan()))
    process = launch.Process.of(os.getpid())
    entry.write(
        worker=(process if alive else launch.Process(process.pid, process.started - 1)).to_json(),
        phase="sync",
    )
    return entry


class Time:
    """Passes with each look of who waits; `at`: {seconds: what happens then}."""

    def __init__(self, monkeypatch, at):
        self.now, self._at = 0.0, dict(at)
        for module in (outcome.time, dead_worker.time):
            monkeypatch.setattr(module, "sleep", self._sleep)
            monkeypatch.setattr(module, "monotonic", lambda: self.now)

    def _sleep(self, _):
        self.now += 1.0
        self._at.pop(self.now, lambda: None)()
