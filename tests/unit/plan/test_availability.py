# SPDX-License-Identifier: LGPL-2.1-only
"""What a plan says of a VM that HA protects."""

import pytest

from fake_pool import by_name, uuid_of
from plan_world import World


@pytest.fixture
def world():
    world = World()
    world.vm.update(ha_restart_priority="restart", ha_always_run=True)
    for pool in (world.a, world.b):
        pool_of(pool)["ha_enabled"] = True
    return world


def pool_of(pool):
    return next(iter(pool.tables["pool"].values()))


def shared(world):
    """Have the destination SR be one of all hosts."""
    world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")]["shared"] = True


@pytest.mark.parametrize("priority", ["restart", "best-effort"])
@pytest.mark.parametrize("power_state", ["Running", "Halted"])
def test_that_ha_does_not_restart_it_meanwhile_is_said_with_its_priority(
    world, priority, power_state
):
    shared(world)
    world.vm.update(ha_restart_priority=priority, power_state=power_state)
    plan, _ = world.cross()
    (warning,) = plan.warnings
    assert warning.startswith("HA does not restart VM web until the move has ended")
    assert "(%s)" % priority in warning


def test_of_a_vm_that_is_not_protected_nothing_is_said(world):
    world.vm["ha_restart_priority"] = ""
    assert world.cross()[0].warnings == ()


def test_within_the_pool(world):
    target = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    plan, _ = world.within(**{"destination-sr-uuid": target})
    assert len(plan.warnings) == 1
    pool_of(world.a)["ha_enabled"] = False
    assert len(world.within(**{"destination-sr-uuid": target})[0].warnings) == 1


def test_a_destination_pool_without_ha(world):
    pool_of(world.b)["ha_enabled"] = False
    plan, _ = world.cross()
    assert plan.warnings[1].startswith("HA is not enabled in the destination pool")
    assert len(plan.warnings) == 2


def test_disks_that_not_all_hosts_will_see(world):
    plan, _ = world.cross()
    assert plan.warnings[1].startswith("xapi may refuse to have HA protect VM web there")
    assert "(SR b1-sr)" in plan.warnings[1]
    world.vm["ha_restart_priority"] = "best-effort"
    assert len(world.cross()[0].warnings) == 1, "of which HA does not plan"
    world.vm["ha_restart_priority"] = "restart"
    pool_of(world.b)["ha_allow_overcommit"] = True
    assert len(world.cross()[0].warnings) == 1
