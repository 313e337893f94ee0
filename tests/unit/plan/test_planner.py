# SPDX-License-Identifier: LGPL-2.1-only
"""Plans as a whole, and what is wrong with the VM or the request."""

import pytest

from fake_pool import GIB, NULL, add_sr, add_vdi, add_vm, by_name, uuid_of
from plan_world import NOBODY, World, is_refused
from storage_motion.plan import planner
from storage_motion.plan.plan import Plan
from storage_motion.xapi.records import Records


@pytest.fixture
def world():
    return World()


def test_a_move_to_another_pool(world):
    plan, problems = world.cross()
    assert problems == []
    assert (plan.kind, plan.live, plan.destination_host_name, plan.master) == (
        "cross-pool",
        True,
        "b1",
        "https://10.1.0.1",
    )
    assert [disk.size for disk in plan.disks] == [GIB, 2 * GIB], "smallest first"
    assert plan.address == "10.0.0.1" and not plan.same_host and plan.check_cpu
    assert Plan.from_json(plan.to_json()) == plan
    assert "hush" not in str(plan.to_json())


def test_nothing_is_changed_by_planning(world):
    world.cross()
    world.within()
    assert world.a.calls == [] and world.b.calls == []


def test_a_move_within_the_pool_stays_on_its_host(world):
    plan, problems = world.within(
        **{"destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))}
    )
    assert problems == [] and plan.kind == "in-pool" and plan.same_host and len(plan.disks) == 2


@pytest.mark.parametrize(
    "changes, prepare, argument, part",
    [
        ({"vm": NOBODY}, None, "vm", "no VM"),
        ({"vm": "nobody"}, None, "vm", "no VM"),
        ({"vdi:" + NOBODY: NOBODY}, None, "vdi:" + NOBODY, "is not a disk"),
        ({"vif:" + NOBODY: NOBODY}, None, "vif:" + NOBODY, "is not an interface"),
        ({"live": "false"}, None, "live", "runs"),
        (
            {},
            lambda world: world.b.add("VM", uuid=world.vm["uuid"], name_label="twin"),
            "vm",
            "has a VM",
        ),
        (
            {},
            lambda world: world.b.tables["pool"][sorted(world.b.tables["pool"])[0]].update(
                uuid=list(world.a.tables["pool"].values())[0]["uuid"]
            ),
            "remote-master",
            "own pool",
        ),
    ],
)
def test_what_cannot_be_done_names_its_argument(world, changes, prepare, argument, part):
    if prepare:
        prepare(world)
    assert is_refused(world.cross(**changes), argument, part)


def test_many_wrong_arguments_are_named_at_once(world):
    world.disk["cbt_enabled"] = True
    _, problems = world.cross(
        **{
            "vif:" + world.vif: NOBODY,
            "host": "nowhere",
            "live": "perhaps",
            "bandwidth": "1",
            "vdi:" + world.vdi(1): NOBODY,
        }
    )
    assert {problem.split(":")[0] for problem in problems} == {
        "vif",
        "host",
        "live",
        "bandwidth",
        "vdi",
    }
    assert len(problems) >= 6


def test_a_cd_is_ejected_where_its_sr_is_not_seen(world):
    iso = add_sr(world.a, "iso", [by_name(world.a, "host", "a1")], content_type="iso")
    cd = add_vdi(world.a, iso)
    world.vm["VBDs"].append(
        world.a.add(
            "VBD",
            VM=world.vm_ref,
            VDI=cd,
            type="CD",
            empty=False,
            userdevice="3",
            mode="RO",
            device="xvdd",
            currently_attached=True,
        )
    )
    plan, _ = world.cross()
    assert [(one.vdi, one.eject) for one in plan.cds] == [
        (uuid_of(world.a, "VDI", cd), True)
    ] and len(plan.disks) == 2
    plan, _ = world.within(
        **{"destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))}
    )
    assert [one.eject for one in plan.cds] == [False]


def test_a_halted_vm_is_at_home_where_its_disks_are_seen(world):
    world.vm.update(power_state="Halted", resident_on=NULL)
    view = Records(world.a)
    assert planner.home(view, world.vm, by_name(world.a, "host", "a2")) == by_name(
        world.a, "host", "a1"
    )
    plan, problems = world.cross()
    assert problems == [] and not plan.live and not plan.check_cpu


def test_a_name_that_two_vms_have(world):
    add_vm(world.a, by_name(world.a, "host", "a1"), [], by_name(world.a, "network", "guests"))
    _, problems = world.cross(vm="web")
    assert problems == [
        "vm: 2 VMs are called 'web'; the UUID of one, or have several moved by sxm evacuate"
    ]
