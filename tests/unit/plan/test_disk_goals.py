# SPDX-License-Identifier: LGPL-2.1-only
"""Where each disk goes, that it stays, and which it may not."""

import pytest

from fake_pool import GIB, NULL, add_vdi, by_name, uuid_of
from plan_world import NOBODY, World, is_refused


@pytest.fixture
def world():
    return World()


def test_a_disk_that_is_where_it_shall_be_stays(world):
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    plan, problems = world.within(**{"vdi:" + world.vdi(0): shared})
    assert (
        problems == []
        and [disk.key for disk in plan.disks] == [world.vdi(0)]
        and plan.staying == [world.vdi(1)]
    )


def test_an_existing_vdi_and_a_vif_as_what_is_meant(world):
    sr = by_name(world.b, "SR", "b1-sr")
    target = uuid_of(world.b, "VDI", add_vdi(world.b, sr, 2 * GIB))
    other = world.b.add(
        "VIF", network=by_name(world.b, "network", "guests"), device="0", MAC="", VM=NULL
    )
    plan, problems = world.cross(
        **{"vdi:" + world.vdi(0): target, "vif:" + world.vif: uuid_of(world.b, "VIF", other)}
    )
    assert problems == []
    assert [disk.target for disk in plan.disks] == ["", target]


@pytest.mark.parametrize(
    "changes, prepare, argument, part",
    [
        ({"destination-sr-uuid": NOBODY}, None, "destination-sr-uuid", "no SR"),
        ({"destination-sr-uuid": None}, None, "vdi:", "no SR to go to"),
    ],
)
def test_a_disk_without_an_sr_names_its_argument(world, changes, prepare, argument, part):
    if prepare:
        prepare(world)
    assert is_refused(world.cross(**changes), argument, part)


def test_data_counts_the_whole_chain(world):
    base = add_vdi(world.a, world.sr, 2 * GIB, physical_utilisation=str(GIB // 4))
    world.disk.update(
        sm_config={"vhd-parent": uuid_of(world.a, "VDI", base)}, physical_utilisation=str(GIB // 4)
    )
    plan, _ = world.cross()
    assert plan.disks[1].data == GIB // 2


def test_one_target_for_two_disks(world):
    world.a.tables["VDI"][world.vdis[1]]["virtual_size"] = str(2 * GIB)
    target = uuid_of(world.b, "VDI", add_vdi(world.b, by_name(world.b, "SR", "b1-sr"), 2 * GIB))
    _, problems = world.cross(**{"vdi:" + world.vdi(0): target, "vdi:" + world.vdi(1): target})
    assert any("a VDI for each disk" in problem for problem in problems)


def test_within_the_pool_something_has_to_move(world):
    _, problems = world.within()
    assert problems[0].startswith("destination-sr-uuid: is missing")
    _, problems = world.within(**{"destination-sr-uuid": uuid_of(world.a, "SR", world.sr)})
    assert "every disk is there already" in problems[0]


def test_a_disk_cannot_stay_behind(world):
    far = uuid_of(world.a, "SR", by_name(world.a, "SR", "a2-sr"))
    _, problems = world.within(**{"host": "a2", "vdi:" + world.vdi(0): far})
    assert problems[0].startswith("vdi:" + world.vdi(1)) and "does not see" in problems[0]
