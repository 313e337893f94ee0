# SPDX-License-Identifier: LGPL-2.1-only
"""What is asked for, and what of it is named as not moved."""

import pytest

from fake_pool import GIB, add_sr, add_vdi, add_vm, by_name, make_pool
from storage_motion.cli.evacuation import selection as selections
from storage_motion.cli.evacuation.selection import What
from storage_motion.xapi.records import NULL, Records


class World:
    def __init__(self):
        self.pool = make_pool("A", ["a1", "a2"], shared=True)
        self.a1, self.a2 = [by_name(self.pool, "host", name) for name in ("a1", "a2")]
        self.sr, self.other = [by_name(self.pool, "SR", name) for name in ("a1-sr", "shared")]
        self.network = by_name(self.pool, "network", "guests")

    def vm(self, name, *disks, **changes):
        """`disks`: SRs, or VDIs"""
        vdis = [
            one if one in self.pool.tables.get("VDI", {}) else add_vdi(self.pool, one, GIB)
            for one in disks
        ]
        record = dict(
            name_label=name,
            power_state="Halted",
            resident_on=NULL,
            tags=[],
            snapshot_of=NULL,
            suspend_VDI=NULL,
        )
        return add_vm(self.pool, self.a1, vdis, self.network, **dict(record, **changes))

    def select(self, kind, *refs, tag=""):
        return selections.select(Records(self.pool), What(kind, refs, tag))

    def left(self, *asked):
        return {one.name: (one.reason, one.todo) for one in self.select(*asked).left}


@pytest.fixture
def world():
    return World()


def names(selection):
    return [one.record["name_label"] for one in selection.wanted]


def test_of_an_sr_the_disks_there_and_no_others(world):
    world.vm("web", world.sr, world.other, world.sr)
    world.vm("elsewhere", world.other)
    found = world.select(selections.SR, world.sr)
    assert names(found) == ["web"] and not found.left
    assert [disk.device for disk in found.wanted[0].disks] == ["xvda", "xvdc"]


def test_of_an_sr_what_is_no_vms_disk_is_named_with_what_to_do(world):
    add_vdi(world.pool, world.sr, name_label="stray")
    add_vdi(world.pool, world.sr, name_label="base", managed=False)
    add_vdi(world.pool, world.sr, name_label="old snapshot", is_a_snapshot=True)
    add_vdi(world.pool, world.sr, name_label="statefile", type="ha_statefile")
    golden = add_vdi(world.pool, world.sr, name_label="golden")
    backup = add_vdi(world.pool, world.sr, name_label="backup")
    world.vm("template", golden, is_a_template=True)
    world.vm("dom0", backup, is_control_domain=True)
    found = world.left(selections.SR, world.sr)
    assert sorted(found) == ["backup", "golden", "old snapshot", "statefile", "stray"]
    assert found["golden"][0] == "is a disk of template template"
    assert found["stray"][0] == "no VM has it" and "xe vdi-copy" in found["stray"][1]
    assert all(reason and todo for reason, todo in found.values())
    assert world.select(selections.SR, world.sr).wanted == []


def test_a_snapshot_comes_along_with_its_disk_and_is_named_without(world):
    disk, moved = add_vdi(world.pool, world.sr), add_vdi(world.pool, world.other)
    web, db = world.vm("web", disk), world.vm("db", moved)
    for vm, of, name in ((web, disk, "along"), (db, moved, "alone")):
        vdi = add_vdi(world.pool, world.sr, name_label=name, is_a_snapshot=True, snapshot_of=of)
        world.vm("snapshot", vdi, is_a_snapshot=True, snapshot_of=vm)
    assert list(world.left(selections.SR, world.sr)) == ["alone"]


def test_the_memory_of_a_suspended_vm_is_wanted_with_a_disk_or_without(world):
    mine, alone, kept = [
        add_vdi(world.pool, world.sr, name_label=name, type="suspend")
        for name in ("mine", "alone", "of a checkpoint")
    ]
    for name, image, sr in (("web", mine, world.sr), ("db", alone, world.other)):
        world.vm(name, sr, power_state="Suspended", suspend_VDI=image)
    world.vm("old", power_state="Suspended", suspend_VDI=kept, is_a_snapshot=True)
    found = world.select(selections.SR, world.sr)
    assert [(one.record["name_label"], len(one.disks)) for one in found.wanted] == [
        ("db", 0),
        ("web", 1),
    ]
    assert [one.name for one in found.left] == ["of a checkpoint"]
    assert "holds the memory of a checkpoint" in found.left[0].reason


def test_a_host_has_the_memory_that_only_it_sees(world):
    image = add_vdi(world.pool, world.sr, type="suspend")
    world.vm("asleep", world.other, power_state="Suspended", suspend_VDI=image)
    assert names(world.select(selections.HOST, world.a1)) == ["asleep"]
    assert names(world.select(selections.HOST, world.a2)) == []


def test_isos_are_named(world):
    isos = add_sr(world.pool, "isos", [world.a1], type="iso", content_type="iso")
    add_vdi(world.pool, isos, name_label="debian.iso")
    found = world.select(selections.SR, isos)
    assert not found.wanted and found.left[0].reason == "is an ISO"


def test_a_disc_in_a_drive_is_no_disk(world):
    vm = world.vm("web", world.sr, world.sr)
    world.pool.tables["VBD"][world.pool.tables["VM"][vm]["VBDs"][1]]["type"] = "CD"
    assert len(world.select(selections.VMS, vm).wanted[0].disks) == 1


def test_of_a_host_what_runs_there_and_what_only_it_sees(world):
    world.vm("runs", world.other, power_state="Running", resident_on=world.a1)
    world.vm("halted-local", world.sr)
    world.vm("halted-shared", world.other)
    world.vm("at a2", world.other, power_state="Running", resident_on=world.a2)
    found = world.select(selections.HOST, world.a1)
    assert names(found) == ["halted-local", "runs"]


def test_of_a_pool_all_and_with_a_tag_those(world):
    world.vm("web", world.sr, tags=["gold"])
    world.vm("db", world.sr)
    world.vm("diskless")
    world.vm("bare template", is_a_template=True)
    world.vm("template", world.sr, is_a_template=True)
    world.vm("snapshot", world.sr, is_a_snapshot=True)
    assert names(world.select(selections.POOL)) == ["db", "web"]
    assert list(world.left(selections.POOL)) == ["diskless", "template"]
    assert names(world.select(selections.TAG, tag="gold")) == ["web"]


def test_each_kind_is_known():
    assert set(selections.KINDS) == {"SR", "host", "pool", "tag", "VMs"}


def test_a_disk_that_dom0_has_too_is_left_and_not_planned(world):
    shared = add_vdi(world.pool, world.sr, name_label="backed up")
    world.vm("web", shared, world.sr)
    world.vm("db", shared)
    world.vm("dom0", shared, is_control_domain=True)
    found = world.select(selections.SR, world.sr)
    assert [left.name for left in found.left] == ["backed up"]
    assert [(len(one.disks), one.record["name_label"]) for one in found.wanted] == [(1, "web")]
    assert found.wanted[0].disks[0].name != "backed up"


def test_to_another_pool_a_vm_of_an_sr_counts_with_all_its_disks(world):
    backup = add_vdi(world.pool, world.sr, name_label="backup")
    world.vm("web", world.sr, world.other, backup)
    world.vm("dom0", backup, is_control_domain=True)
    found = selections.select(Records(world.pool), What(selections.SR, (world.sr,)), all_disks=True)
    assert [len(one.disks) for one in found.wanted] == [3] and not found.left, "each once"
