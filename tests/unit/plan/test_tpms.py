# SPDX-License-Identifier: LGPL-2.1-only
"""A VM with a virtual TPM moves, where the destination pool may have one."""

import pytest

from fake_pool import by_name, uuid_of
from plan_world import World, is_refused


@pytest.fixture
def world():
    world = World()
    tpm = world.a.add("VTPM", VM=world.vm_ref)
    world.vm["VTPMs"] = [tpm]
    return world


def restrictions(pool):
    (record,) = pool.tables["pool"].values()
    return record["restrictions"]


def halt(world):
    world.vm["power_state"] = "Halted"


@pytest.mark.parametrize("prepare", [lambda world: None, halt], ids=["running", "halted"])
def test_it_moves(world, prepare):
    prepare(world)
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    for plan, problems in (world.cross(), world.within(**{"destination-sr-uuid": shared})):
        assert plan is not None and not problems and plan.warnings == ()


@pytest.mark.parametrize("value", ["true", None])
def test_a_pool_whose_licence_has_none(world, value):
    restrictions(world.b).clear()
    if value:
        restrictions(world.b)["restrict_vtpm"] = value
    assert is_refused(world.cross(), "vm", "has a virtual TPM, and the destination pool may have")
    world.vm["VTPMs"] = []
    assert world.cross()[0] is not None


def test_within_the_pool_nobody_asks_for_the_licence(world):
    restrictions(world.a)["restrict_vtpm"] = "true"
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    assert world.within(**{"destination-sr-uuid": shared})[0] is not None
