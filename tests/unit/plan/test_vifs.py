# SPDX-License-Identifier: LGPL-2.1-only
"""The network of each VIF at the destination."""

import pytest

from fake_pool import by_name, uuid_of
from plan_world import NOBODY, World


@pytest.fixture
def world():
    return World()


def call_its_network(world, name):
    """Have the network of the VM's interface be called so."""
    vif = world.a.tables["VIF"][world.vm["VIFs"][0]]
    world.a.tables["network"][vif["network"]]["name_label"] = name


def test_a_vif_without_a_network(world):
    call_its_network(world, "only here")
    plan, problems = world.cross(**{"vif:" + world.vif: None})
    assert plan is None and problems[0].startswith("vif:%s: interface 0" % world.vif)
    assert "has no network called 'only here'" in problems[0]
    _, problems = world.cross(**{"vif:" + world.vif: NOBODY})
    assert "neither a network nor a VIF" in problems[0]


def test_a_vif_goes_to_the_network_of_the_same_name_where_there_is_just_one(world):
    call_its_network(world, "management")
    there = by_name(world.b, "network", "management")
    plan, _ = world.cross(**{"vif:" + world.vif: None})
    assert [vif.network for vif in plan.vifs] == [uuid_of(world.b, "network", there)]
    uuid = uuid_of(world.b, "network", there)
    (note,) = plan.notes
    assert note.startswith("what is on network management goes to the destination's network")
    assert uuid in note
    assert plan.warnings == (), "nothing is wrong with that"
    assert world.cross()[0].notes == (), "of one that was named"
    world.b.add("network", name_label="management", bridge="xenbr7", PIFs=[])
    plan, problems = world.cross(**{"vif:" + world.vif: None})
    assert plan is None and "has more than one network called 'management'" in problems[0]


def test_a_copys_interface_goes_where_that_of_a_halted_vm_does(world):
    world.vm.update(power_state="Halted", resident_on="OpaqueRef:NULL")
    call_its_network(world, "management")
    there = uuid_of(world.b, "network", by_name(world.b, "network", "management"))
    for copied in ("true", "false"):
        plan, problems = world.cross(copy=copied, **{"vif:" + world.vif: None})
        assert problems == [] and [vif.network for vif in plan.vifs] == [there]
    call_its_network(world, "only here")
    plan, problems = world.cross(copy="true", **{"vif:" + world.vif: None})
    assert plan is None and "has no network called 'only here'" in problems[0]


def test_of_two_interfaces_on_a_network_it_is_told_once(world):
    call_its_network(world, "management")
    first = world.a.tables["VIF"][world.vm["VIFs"][0]]
    other = dict(first, device="1", MAC="aa:bb:cc:00:00:02")
    del other["uuid"]
    world.vm["VIFs"].append(world.a.add("VIF", **other))
    plan, _ = world.cross(**{"vif:" + world.vif: None})
    assert len(plan.vifs) == 2 and len(plan.notes) == 1
    assert "vif:<VIF>=<network>" in plan.notes[0] and world.vif not in plan.notes[0]


def test_a_network_without_a_name_has_no_namesake(world):
    call_its_network(world, "")
    world.b.add("network", name_label="", bridge="xenbr7", PIFs=[])
    plan, problems = world.cross(**{"vif:" + world.vif: None})
    assert plan is None and "has no network called ''" in problems[0]


def test_networks_stay_within_the_pool(world):
    other = uuid_of(world.a, "network", by_name(world.a, "network", "management"))
    _, problems = world.within(
        **{
            "destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "shared")),
            "vif:" + world.vif: other,
        }
    )
    assert problems[0].startswith("vif:" + world.vif)
