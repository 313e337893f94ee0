# SPDX-License-Identifier: LGPL-2.1-only
"""The mark of a sharable disk is off at the source while the VM, which runs, moves: xapi takes no
snapshot of a disk that has it."""

import pytest

from fake_migration import make_plan
from fake_pool import add_vdi, by_name, make_pool
from storage_motion.errors import MirrorBroken
from storage_motion.migration.phases import sharable_disks
from storage_motion.xapi import managed


class World:
    """A migration of a VM with a disk for each of `disks`, changes of a Disk of the plan."""

    def __init__(self, monkeypatch, disks, **plan):
        self.source = make_pool("A", ["a1"])
        sr = by_name(self.source, "SR", "a1-sr")
        one, self.vdis, planned = make_plan().disks[0], [], []
        for changes in disks:
            ref = add_vdi(self.source, sr, sharable=changes.get("sharable", False))
            self.vdis.append(ref)
            key = self.source.tables["VDI"][ref]["uuid"]
            planned.append(one._replace(key=key, **changes))
        self.plan = make_plan(disks=planned, **plan)
        monkeypatch.setattr(managed.sessions, "local", self.source.local)
        monkeypatch.setattr(managed.sessions, "logout", lambda session: None)

    def source_vdi(self, disk):
        return self.source.xenapi.VDI.get_by_uuid(disk.key)

    @property
    def marked(self):
        return [self.source.tables["VDI"].get(ref, {}).get("sharable") for ref in self.vdis]


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch, [{"sharable": True}, {}, {"sharable": True, "read_only": True}])


def test_it_is_off_meanwhile_and_on_again_behind_it(world):
    """Of the one that the VM writes to: the others are only copied, or have none."""
    for _ in range(2):
        sharable_disks.take_off(world)
        assert world.marked == [False, False, True]
    assert [text.split()[1] for text in sharable_disks.lacking(world)] == ["VDI"]
    for _ in range(2):
        sharable_disks.put_back(world)
        assert world.marked == [True, False, True]
    assert sharable_disks.lacking(world) == []


def test_an_older_database_brings_it_back(world):
    world.source.sync()
    sharable_disks.take_off(world)
    world.source.goes_back()
    sharable_disks.take_off(world)
    assert world.marked == [False, False, True]


def test_a_disk_that_is_gone_has_none(world):
    sharable_disks.take_off(world)
    del world.source.tables["VDI"][world.vdis[0]]
    sharable_disks.put_back(world)
    assert sharable_disks.lacking(world) == [] and world.marked == [None, False, True]


def test_a_halted_vm_keeps_it(monkeypatch):
    world = World(monkeypatch, [{"sharable": True}], live=False)
    sharable_disks.take_off(world)
    assert world.marked == [True]


def test_one_that_was_marked_again_is_mirrored_anew_before_the_vm_moves(world):
    """Another VM may have plugged it, written to it and gone: of that the mirror knows nothing."""
    world.source.sync()
    sharable_disks.take_off(world)
    noted = {}
    world.note = lambda key, **fields: noted.update({key: fields})
    for disk in world.plan.disks:
        sharable_disks.require_off(world, disk)
    world.source.goes_back()
    marked, *others = world.plan.disks
    for disk in others:
        sharable_disks.require_off(world, disk)
    with pytest.raises(MirrorBroken):
        sharable_disks.require_off(world, marked)
    assert noted == {marked.key: {"state": "broken"}}
