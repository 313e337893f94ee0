# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that is tracked moves if that is to be renewed, and the plan says what that costs."""

import pytest

from plan_world import World, is_refused
from storage_motion.plan.plan import Plan


@pytest.fixture
def world():
    found = World()
    found.disk["cbt_enabled"] = True
    return found


def test_it_is_refused_with_the_remedy(world):
    answer = world.cross()
    assert is_refused(answer, "vdi:" + world.vdi(0), "has changed block tracking enabled")
    assert "say cbt=renew" in answer[1][0] and "the next backup is a full one" in answer[1][0]


@pytest.mark.parametrize("live", [True, False])
def test_it_moves_with_a_warning_where_it_is_to_be_renewed(world, live):
    if not live:
        world.vm.update(power_state="Halted")
    plan, problems = world.cross(cbt="renew")
    assert problems == []
    assert {disk.key: disk.tracked for disk in plan.disks} == {
        world.vdi(0): True,
        world.vdi(1): False,
    }
    (warning,) = plan.warnings
    assert warning.startswith("disk xvda (disk): ") and "its next backup is a full one" in warning
    assert Plan.from_json(plan.to_json()) == plan


def test_nothing_is_told_where_nothing_is_tracked(world):
    world.disk["cbt_enabled"] = False
    plan, _ = world.cross(cbt="renew")
    assert plan.warnings == () and not any(disk.tracked for disk in plan.disks)


@pytest.mark.parametrize("features, ends", [({}, True), ({"VDI_CONFIG_CBT": "1"}, False)])
def test_an_sr_where_nothing_can_be_tracked_is_told(world, features, ends):
    world.b.add("SM", type="ext", features=features, supported_image_formats=[])
    plan, _ = world.cross(cbt="renew")
    (warning,) = plan.warnings
    assert ("its changed block tracking ends" in warning) is ends
    assert ("SR %s (b1-sr)" % world.target in warning) is ends


def test_a_journal_of_before_has_none(world):
    plan, _ = world.cross(cbt="renew")
    value = plan.to_json()
    for disk in value["disks"]:
        del disk["tracked"]
    assert not any(disk.tracked for disk in Plan.from_json(value).disks)
