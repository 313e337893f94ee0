# SPDX-License-Identifier: LGPL-2.1-only
"""What the destination is believed to have: exactly if both sides prove that it is theirs."""

import json
import types

import pytest

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
        self.disks = {"k": {"contents": "c", "verified_windows": path}}
        self.snapshots, self.log, self.fails = [BEFORE, NOW], [], None
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

    def ask(self, command, vdi, args=()):
        self.log.append((command, vdi) + tuple(args))
        if command == self.fails:
            raise SmFault(command, 480, "no")
        return json.dumps(CHANGED) if command == "vdi_extents" else None

    def look(self):
        return verified_before.look(self, make_plan().disks[0], NOW, self.ask)


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
    assert world.log == [
        {"base_open": BEFORE},  # before it is open: whatever is killed then, it is closed
        ("vdi_copy_open", BEFORE),
        ("vdi_extents", NOW, BEFORE),
        ("vdi_copy_close", BEFORE),
        {"base_open": None},
    ]


@pytest.mark.parametrize("command", ["vdi_copy_open", "vdi_extents", "vdi_copy_close"])
def test_what_sm_refuses_costs_a_comparison_and_no_more(world, command):
    world.fails = command
    assert world.look() is None
    assert world.disk("k")["base_open"] == BEFORE, "it is closed with the copy"
    world.fails = None
    verified_before.close(world, make_plan().disks[0], world.ask)
    assert world.disk("k")["base_open"] is None and world.log[-2] == ("vdi_copy_close", BEFORE)


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
    world.disk("k")["verified_windows"] = str(tmp_path / "gone.map")
    assert world.look() is None


def test_nothing_noted(world):
    del world.disk("k")["verified_windows"]
    assert world.look() is None


def test_a_snapshot_that_is_gone(world):
    world.snapshots = [NOW]
    assert world.look() is None and world.log == []


def test_the_same_snapshot(world, path):
    """Its images cannot be compared with themselves."""
    VerifiedWindows(path, 2).begin({"migration": ID, "snapshot": NOW, "contents": "c"})
    assert world.look() is None
