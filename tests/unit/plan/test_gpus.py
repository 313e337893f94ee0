# SPDX-License-Identifier: LGPL-2.1-only
"""A halted VM with virtual GPUs moves: within its pool as it is, to another pool into a GPU group
of the same types of GPU."""

import pytest

from fake_pool import by_name, uuid_of
from plan_world import NOBODY, is_refused
from storage_motion.plan.plan import Plan
from test_vm_snapshots import WithSnapshots

TYPES = ["10de/20b5"]


def add_group(pool, types=TYPES):
    return pool.add("GPU_group", GPU_types=types, name_label="Group of GPUs")


@pytest.fixture
def world():
    found = WithSnapshots()
    found.vm["power_state"] = "Halted"
    found.group = add_group(found.a)
    found.there = add_group(found.b)
    add_group(found.b, ["8086/1234"])
    found.vgpu = give(found, found.vm_ref)
    return found


def give(world, vm, **fields):
    vgpu = world.a.add("VGPU", GPU_group=world.group, device="0", extra_args="", **fields)
    world.a.tables["VM"][vm]["VGPUs"] = [vgpu]
    return uuid_of(world.a, "VGPU", vgpu)


def groups(world, plan):
    return {vgpu.vgpu: vgpu.group for vgpu in plan.vgpus}


def group(world, ref=None):
    return uuid_of(world.b, "GPU_group", ref or world.there)


def within(world, **changes):
    target = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    return world.within(**dict(changes, **{"destination-sr-uuid": target}))


def test_to_another_pool_it_gets_the_group_of_the_same_gpus(world):
    plan, problems = world.cross()
    assert problems == [] and groups(world, plan) == {world.vgpu: group(world)}
    assert Plan.from_json(plan.to_json()) == plan
    (note,) = plan.notes
    assert "go to GPU group Group of GPUs of the destination (%s)" % group(world) in note


def test_or_the_one_that_is_given(world):
    other = add_group(world.b)
    assert is_refused(world.cross(), "vgpu:" + world.vgpu, "more than one GPU group")
    plan, problems = world.cross(**{"vgpu:" + world.vgpu: group(world, other)})
    assert problems == [] and groups(world, plan) == {world.vgpu: group(world, other)}
    assert "virtual GPU" not in str(plan.warnings)
    answer = world.cross(**{"vgpu:" + world.vgpu: NOBODY})
    assert is_refused(answer, "vgpu:" + world.vgpu, "no GPU group of the destination is")


def test_those_of_its_snapshots_go_where_it_goes(world):
    of_snapshot = give(world, world.first)
    other = add_group(world.b)
    given = {"vgpu:" + world.vgpu: group(world, other)}
    plan, problems = world.cross(**given)
    assert problems == []
    assert groups(world, plan) == dict.fromkeys([world.vgpu, of_snapshot], group(world, other))
    assert groups(world, world.cross(snapshots="drop", **given)[0]) == {
        world.vgpu: group(world, other)
    }


def test_a_pool_without_such_gpus(world):
    del world.b.tables["GPU_group"][world.there]
    assert is_refused(world.cross(), "vgpu:" + world.vgpu, "no GPU group of the same types")
    (other,) = world.b.tables["GPU_group"]
    given = {"vgpu:" + world.vgpu: group(world, other)}
    assert is_refused(world.cross(**given), "vgpu:" + world.vgpu, "no GPU group of the same")


@pytest.mark.parametrize("value", ["true", None])
def test_a_pool_whose_licence_has_none(world, value):
    (pool,) = world.b.tables["pool"].values()
    pool["restrictions"].update(restrict_gpu=value)
    assert is_refused(world.cross(), "vm", "the destination pool may have none (restrict_gpu)")


@pytest.mark.parametrize("state", ["Running", "Suspended", "Paused"])
def test_only_a_halted_vm(world, state):
    world.vm.update(power_state=state, suspend_VDI=world.vdis[0])
    for answer in (world.cross(), within(world)):
        assert is_refused(answer, "vm", "has a virtual GPU, and is %s" % state)
        assert is_refused(answer, "vm", "shut it down (xe vm-shutdown), and move it halted")


def test_within_the_pool_it_stays_as_it_is(world):
    plan, problems = within(world)
    assert problems == [] and plan.vgpus == []
    own = uuid_of(world.a, "GPU_group", world.group)
    assert within(world, **{"vgpu:" + world.vgpu: own})[1] == []
    answer = within(world, **{"vgpu:" + world.vgpu: NOBODY})
    assert is_refused(answer, "vgpu:" + world.vgpu, "keep their GPU groups")


def test_what_is_named_is_the_vms(world):
    answer = world.cross(**{"vgpu:" + NOBODY: group(world)})
    assert is_refused(answer, "vgpu:" + NOBODY, "is not a virtual GPU of VM web")


def test_extra_args_are_told_of(world):
    give(world, world.vm_ref)
    (ref,) = world.vm["VGPUs"]
    world.a.tables["VGPU"][ref]["extra_args"] = "a=1"
    assert "loses its extra_args (a=1)" in str(world.cross()[0].warnings)
