# SPDX-License-Identifier: LGPL-2.1-only
"""What the destination is believed to have: exactly if both sides prove that it is theirs."""

import types

import pytest
import XenAPI

from fake_migration import ID, make_plan
from storage_motion.errors import SmFault
from storage_motion.migration import verified_before
from storage_motion.migration.verified_before import Known
from storage_motion.source.verified_windows import VerifiedWindows

BEFORE, NOW = "snapshot-1", "snapshot-2"
CHANGED = {"size": 1024, "extents": [[512, 512]]}


class World:
    """A migration of one disk, whose first mover has verified `BEFORE`, and left its file."""

    id = ID

    def __init__(self, path, monkeypatch):
        self.disks, self.path = {"k": {"contents": "c"}}, path
        self.snapshots, self.log, self.fails = [BEFORE, NOW], [], False
        self.source = types.SimpleNamespace()
        monkeypatch.setattr(
            verified_before,
            "Records",
            lambda session: types.SimpleNamespace(
                ref=lambda name, uuid: uuid if uuid in self.snapshots else None
            ),
        )

    def disk(self, key):
        return self.disks[key]

    def note(self, key, **fields):
        self.log.append(fields)
        self.disks[key].update(fields)

    def since(self, snapshot, base):
        self.log.append((snapshot, base))
        if self.fails:
            raise self.fails
        return CHANGED

    def look(self, now=NOW, **changes):
        disk = make_plan().disks[0]._replace(**changes)
        return verified_before.look(self, disk, now, self.path, self.since)


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "v0-0.map")
    VerifiedWindows(path, 2).begin({"migration": ID, "snapshot": BEFORE, "contents": "c"})
    return path


@pytest.fixture
def world(path, monkeypatch):
    return World(path, monkeypatch)


def test_what_is_proven_is_used(world, path):
    assert world.look() == Known(path, CHANGED)
    assert world.log == [(NOW, BEFORE)]


@pytest.mark.parametrize(
    "error", [SmFault("vdi_extents", 480, "no"), XenAPI.Failure(["SR_BACKEND_FAILURE_40", "no"])]
)
def test_what_sm_or_xapi_refuses_costs_a_comparison_and_no_more(world, error):
    world.fails = error
    assert world.look() is None


def test_other_contents(world):
    world.disk("k")["contents"] = "d"
    assert world.look() is None and world.log == []


def test_a_destination_that_names_no_contents(world, path):
    """One of an earlier version."""
    world.disk("k")["contents"] = None
    VerifiedWindows(path, 2).begin({"migration": ID, "snapshot": BEFORE, "contents": None})
    assert world.look() is None


def test_another_migration(world, path):
    VerifiedWindows(path, 2).begin({"migration": "m", "snapshot": BEFORE, "contents": "c"})
    assert world.look() is None


def test_a_copy_that_never_began(world, path):
    VerifiedWindows(path, 2)
    assert world.look() is None


def test_no_file(world, tmp_path):
    world.path = str(tmp_path / "gone.map")
    assert world.look() is None


def test_a_snapshot_that_is_gone(world):
    world.snapshots = [NOW]
    assert world.look() is None and world.log == []


def test_a_disk_that_somebody_may_have_had_meanwhile(world):
    """Of a VM that is halted, for instance."""
    assert world.look(BEFORE) is None and world.log == []
