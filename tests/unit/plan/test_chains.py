# SPDX-License-Identifier: LGPL-2.1-only
"""How long a chain of images may be for a disk to be snapshotted, as its mirror begins with."""

import pytest

from fake_pool import GIB, add_vdi
from plan_world import World
from storage_motion.api.arguments import Problems
from storage_motion.plan import chains
from storage_motion.xapi.records import Records


@pytest.fixture
def world():
    return World()


def put_on(world, images):
    """Have the VM's first disk be a chain of so many images."""
    vdi = world.a.tables["VDI"][world.vdis[0]]
    for _ in range(images - 1):
        below = world.a.tables["VDI"][add_vdi(world.a, world.sr, GIB, managed=False)]
        vdi["sm_config"][chains.PARENT] = below["uuid"]
        vdi = below


def looked_at(world):
    """The warnings, and what is refused."""
    plan, problems = world.cross()
    assert problems == []
    found = Problems()
    return chains.require(Records(world.a), plan, found), found.details


def test_the_longest_of_which_sm_takes_a_snapshot(world):
    put_on(world, chains.LONGEST - 2)
    assert looked_at(world) == ([], [])


def test_one_more_and_there_is_no_second_try(world):
    put_on(world, chains.LONGEST - 1)
    (warning,), problems = looked_at(world)
    assert world.vdi(0) in warning and "should its mirror break" in warning and problems == []


def test_the_longest_is_refused_of_a_running_vm(world):
    put_on(world, chains.LONGEST)
    warnings, (problem,) = looked_at(world)
    assert warnings == [] and world.vdi(0) in problem and "is a chain of 30 images" in problem
    assert "move it halted" in problem


def test_of_a_halted_one_no_snapshot_is_taken(world):
    put_on(world, chains.LONGEST)
    world.vm["power_state"] = "Halted"
    assert looked_at(world) == ([], [])
