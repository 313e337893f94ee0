# SPDX-License-Identifier: LGPL-2.1-only
"""Where each VM goes: the SR with most room left after what is planned already."""

import pytest

from fake_pool import GIB, add_sr, add_vdi, add_vm, by_name, make_pool, uuid_of
from storage_motion.cli.evacuation import goals, selection as selections
from storage_motion.cli.evacuation.goals import Room, To
from storage_motion.cli.evacuation.parts import Left
from storage_motion.cli.evacuation.selection import What
from storage_motion.xapi.records import NULL, Records


class World:
    def __init__(self):
        self.pool = make_pool("A", ["a1", "a2"], shared=True)
        self.a1, self.a2 = [by_name(self.pool, "host", name) for name in ("a1", "a2")]
        self.old = by_name(self.pool, "SR", "a1-sr")
        self.new = [
            add_sr(self.pool, "new%d" % n, [self.a1], type="lvm", physical_size=str(size * GIB))
            for n, size in enumerate((10, 11))
        ]
        self.network = by_name(self.pool, "network", "guests")
        self.made = 0

    def vm(self, *sizes, sr=None, **changes):
        self.made += 1
        vdis = [add_vdi(self.pool, sr or self.old, size * GIB) for size in sizes]
        return add_vm(
            self.pool, self.a1, vdis, self.network, name_label="vm%d" % self.made, **changes
        )

    def choose(self, vm, room=None, what=None, **to):
        source = Records(self.pool)
        (wanted,) = selections.select(source, what or What(selections.VMS, (vm,))).wanted
        to = To(to.pop("records", source), **to)
        return goals.choose(source, wanted, to, room or Room(to.records))

    def uuid(self, class_name, ref):
        return uuid_of(self.pool, class_name, ref)


@pytest.fixture
def world():
    return World()


def test_each_goes_where_most_is_left(world):
    room = Room(Records(world.pool))
    found = [
        world.choose(world.vm(size), room, srs=tuple(world.new)).disks[0].destination_sr
        for size in (3, 3, 3)
    ]
    first, second = [world.uuid("SR", sr) for sr in world.new]
    assert found == [second, first, second]


def test_on_lvm_a_disk_takes_its_whole_size(world):
    room = Room(Records(world.pool))
    planned = world.choose(world.vm(8), room, srs=(world.new[0],))
    assert planned.data == 4 * GIB and room.left(world.new[0]) < 2 * GIB


def test_within_a_pool_only_the_disks_that_were_asked_for_are_named(world):
    vm = world.vm(1, 2)
    vbds = world.pool.tables["VM"][vm]["VBDs"]
    stays = world.pool.tables["VBD"][vbds[1]]["VDI"]
    world.pool.tables["VDI"][stays]["SR"] = by_name(world.pool, "SR", "shared")
    planned = world.choose(
        vm, what=What(selections.SR, (world.old,)), srs=(world.new[1],), leave=(world.old,)
    )
    goal = world.uuid("SR", world.new[1])
    moves = world.uuid("VDI", world.pool.tables["VBD"][vbds[0]]["VDI"])
    assert planned.arguments == {"vm": world.uuid("VM", vm), "vdi:" + moves: goal}
    assert planned.hosts == (world.uuid("host", world.a1),)
    assert planned.srs == tuple(sorted([world.uuid("SR", world.old), goal]))


def test_what_is_there_already_stays(world):
    found = world.choose(world.vm(1, sr=world.new[0]), srs=tuple(world.new))
    assert isinstance(found, Left) and "there already" in found.reason and found.todo


def test_an_sr_that_its_host_does_not_see_is_no_goal(world):
    far = by_name(world.pool, "SR", "a2-sr")
    found = world.choose(world.vm(1), srs=(far,))
    assert isinstance(found, Left) and "plugged" in found.reason and found.stays
    assert world.choose(world.vm(1), srs=(far, world.new[0])).disks[0].destination_sr == world.uuid(
        "SR", world.new[0]
    )


def test_to_a_host_go_the_disks_that_it_does_not_see(world):
    vm = world.vm(1)
    planned = world.choose(vm, host=world.a2)
    there = [by_name(world.pool, "SR", name) for name in ("a2-sr", "shared")]
    assert planned.disks[0].destination_sr in [world.uuid("SR", sr) for sr in there]
    assert planned.arguments["host-uuid"] == world.uuid("host", world.a2)
    assert len(planned.hosts) == 2
    shared = world.vm(1, sr=by_name(world.pool, "SR", "shared"))
    stays = world.choose(shared, host=world.a2)
    assert stays.stays and "xe vm-migrate uuid=%s" % world.uuid("VM", shared) in stays.todo
    assert "live=true" in stays.todo and world.uuid("host", world.a2) in stays.todo
    assert not world.choose(shared, host=world.a1).stays, "it is there"
    world.pool.tables["VM"][shared].update(power_state="Halted", resident_on=NULL)
    assert not world.choose(shared, host=world.a2).stays, "it runs nowhere"


def test_out_of_an_sr_a_disk_goes_though_the_host_sees_it(world):
    shared = by_name(world.pool, "SR", "shared")
    planned = world.choose(
        world.vm(1, sr=shared), what=What(selections.SR, (shared,)), host=world.a2, leave=(shared,)
    )
    assert planned.disks[0].destination_sr == world.uuid("SR", by_name(world.pool, "SR", "a2-sr"))


def test_the_image_of_a_memory_goes_where_its_disks_do(world):
    """`migrate` leaves it where it is within the pool: the host that the VM is to go on at may not
    see it there, and an SR is not empty with it."""
    shared = by_name(world.pool, "SR", "shared")
    vm = world.vm(1, power_state="Suspended", resident_on=NULL)
    mine, kept = [add_vdi(world.pool, sr, GIB, type="suspend") for sr in (world.old, shared)]
    checkpoint = add_vm(
        world.pool, world.a1, [], world.network, power_state="Suspended", suspend_VDI=kept
    )
    world.pool.tables["VM"][vm].update(suspend_VDI=mine, snapshots=[checkpoint])

    def images(**to):
        given = world.choose(vm, **to).arguments
        named = ["vdi:" + world.uuid("VDI", image) for image in (mine, kept)]
        assert len({given[name] for name in given if name.startswith("vdi:")}) == 1
        return [name in given for name in named]

    assert images(host=world.a2) == [True, False], "the shared one is seen there"
    out_of = {"what": What(selections.SR, (world.old,)), "leave": (world.old,)}
    assert images(srs=(world.new[0],), **out_of) == [True, False]
    assert images(srs=(world.new[0],)) == [True, True], "as all that is not there"
    other = make_pool("B", ["b1"])
    planned = world.choose(vm, records=Records(other), cross_pool=True)
    assert not [name for name in planned.arguments if name.startswith("vdi:")]


def test_a_memory_moves_alone_where_its_disks_may_stay(world):
    """It is no VM that is there already, of which the host cannot see the memory."""
    shared = by_name(world.pool, "SR", "shared")
    vm = world.vm(1, sr=shared, power_state="Suspended", resident_on=NULL)
    image = add_vdi(world.pool, world.old, 2 * GIB, type="suspend")
    world.pool.tables["VM"][vm].update(suspend_VDI=image)
    planned = world.choose(vm, host=world.a2, srs=(shared,))
    (disk,) = planned.disks
    assert (disk.vdi, disk.title, disk.size) == (world.uuid("VDI", image), "memory disk", 2 * GIB)
    assert disk.destination_sr == world.uuid("SR", shared)
    assert planned.arguments == {
        "vm": world.uuid("VM", vm),
        "vdi:" + disk.vdi: disk.destination_sr,
        "host-uuid": world.uuid("host", world.a2),
    }
    world.pool.tables["VDI"][image]["SR"] = shared
    assert isinstance(world.choose(vm, host=world.a2, srs=(shared,)), Left), "it is there"


def test_the_memory_of_a_checkpoint_stays_and_is_told(world):
    shared = by_name(world.pool, "SR", "shared")
    vm, image = world.vm(1, sr=shared), add_vdi(world.pool, world.old, GIB, type="suspend")
    checkpoint = add_vm(
        world.pool, world.a1, [], world.network, power_state="Suspended", suspend_VDI=image
    )
    world.pool.tables["VM"][vm].update(snapshots=[checkpoint])
    left = world.choose(vm, srs=(shared,))
    assert "the memory of a checkpoint of it, which is in SR a1-sr" in left.reason
    assert "delete the checkpoint" in left.todo


def test_to_another_pool_all_goes_with_networks_by_name_or_as_said(world):
    other = make_pool("B", ["b1"])
    goal, vm = by_name(other, "SR", "b1-sr"), world.vm(1, 2)
    vif = world.uuid("VIF", world.pool.tables["VM"][vm]["VIFs"][0])
    to = {"records": Records(other), "cross_pool": True}
    planned = world.choose(vm, srs=(goal,), **to)
    assert planned.arguments == {
        "vm": world.uuid("VM", vm),
        "destination-sr-uuid": uuid_of(other, "SR", goal),
    }
    assert world.choose(vm, **to).disks[0].destination_sr == uuid_of(other, "SR", goal)
    said = world.choose(vm, networks={world.network: "n1"}, network="n2", **to)
    assert said.arguments["vif:" + vif] == "n1"
    assert world.choose(vm, network="n2", **to).arguments["vif:" + vif] == "n2"


def test_what_was_said_for_each_goes_to_each(world):
    planned = world.choose(world.vm(1), srs=(world.new[0],), further={"bandwidth": "1MiB"})
    assert planned.arguments["bandwidth"] == "1MiB"
