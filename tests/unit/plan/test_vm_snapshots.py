# SPDX-License-Identifier: LGPL-2.1-only
"""The VM's snapshots in the plan: which come along, where their disks go, what each is based on."""

import pytest

from fake_pool import GIB, NULL, add_sr, add_vdi, add_vm, by_name, uuid_of
from plan_world import World, is_refused

MAC = "aa:bb:cc:00:00:01"


class WithSnapshots(World):
    """Its VM has `first` and on that `second`, which it is on."""

    def __init__(self):
        super(WithSnapshots, self).__init__()
        self.first = self.snapshot("first", NULL)
        self.second = self.snapshot("second", self.first)
        self.vm["parent"] = self.second

    def snapshot(self, name, parent, of=None):
        disks = [
            add_vdi(
                self.a,
                self.sr,
                int(self.a.tables["VDI"][vdi]["virtual_size"]),
                snapshot_of=vdi,
                is_a_snapshot=True,
                snapshot_time="20260102T03:04:05Z",
            )
            for vdi in (self.vdis if of is None else of)
        ]
        ref = add_vm(
            self.a,
            NULL,
            disks,
            by_name(self.a, "network", "guests"),
            name_label=name,
            power_state="Halted",
            is_a_snapshot=True,
            is_a_template=True,
            snapshot_of=self.vm_ref,
            snapshot_time="20260102T03:04:05Z",
            suspend_VDI=NULL,
            parent=parent,
        )
        self.vm["snapshots"] = self.vm["snapshots"] + [ref]
        return ref

    def disks(self, ref):
        """The UUIDs of the disks of a snapshot."""
        vbds = [self.a.tables["VBD"][vbd] for vbd in self.a.tables["VM"][ref]["VBDs"]]
        return [uuid_of(self.a, "VDI", vbd["VDI"]) for vbd in vbds]

    def of_disk(self, ref, number=0):
        """The record of a disk of a snapshot."""
        return self.a.tables["VDI"][self.a.xenapi.VDI.get_by_uuid(self.disks(ref)[number])]


@pytest.fixture
def world():
    return WithSnapshots()


def based(plan):
    return {disk.key: disk.base for disk in plan.sent}


def test_a_chain_arrives_as_a_chain(world):
    plan, problems = world.cross()
    assert problems == []
    first, second = world.disks(world.first), world.disks(world.second)
    assert [disk.key for disk in plan.history] == first + second
    assert based(plan) == dict(
        zip(first + second + [world.vdi(0), world.vdi(1)], ["", ""] + first + second)
    )
    one = plan.history[2]
    assert (one.snapshot, one.snapshot_of, one.snapshot_time, one.destination_sr) == (
        uuid_of(world.a, "VM", world.second),
        world.vdi(0),
        "20260102T03:04:05Z",
        world.target,
    )
    assert [snapshot.name for snapshot in plan.kept] == ["first", "second"]
    assert {vif.network for vif in plan.snapshot_vifs} == {plan.vifs[0].network}
    assert len(plan.snapshot_vifs) == 2 and plan.dropped == []
    assert type(plan).from_json(plan.to_json()) == plan


def test_no_chain_becomes_longer_than_sm_makes_it(world):
    """The one behind that begins a new one, whole. A disk that was cloned is one image more."""
    refs = [world.first, world.second]
    while len(refs) < 31:
        refs.append(world.snapshot("number %d" % len(refs), refs[-1]))
    world.vm["parent"] = refs[-1]
    branch = world.snapshot("a branch", refs[28])
    world.a.tables["VM"][branch]["snapshot_time"] = "20270102T03:04:05Z"
    plan, problems = world.cross()
    first = [world.disks(ref)[0] for ref in refs]
    assert problems == []
    base = based(plan)
    assert [base[key] for key in first] == [""] + first[:29] + [""]
    assert base[world.vdi(0)] == first[30] and base[world.disks(branch)[0]] == ""


def test_after_a_revert_a_branch_stays_a_branch(world):
    """The VM went back to the first, and had a third one taken, listed before the others."""
    third = world.snapshot("third", world.first)
    world.vm["parent"] = third
    world.vm["snapshots"] = list(reversed(world.vm["snapshots"]))
    plan, _ = world.cross()
    base = based(plan)
    assert base[world.disks(third)[0]] == base[world.disks(world.second)[0]]
    assert base[world.vdi(0)] == world.disks(third)[0]
    assert [disk.snapshot for disk in plan.history[:2]] == [uuid_of(world.a, "VM", world.first)] * 2


@pytest.mark.parametrize(
    "field, value", [("virtual_size", str(3 * GIB)), ("type", "system"), ("sharable", True)]
)
def test_what_a_clone_could_not_have_is_no_base(world, field, value):
    world.of_disk(world.first)[field] = value
    plan, _ = world.cross()
    assert based(plan)[world.disks(world.second)[0]] == ""
    assert based(plan)[world.vdi(0)] == world.disks(world.second)[0]


def test_a_disk_that_fills_a_vdi_is_no_clone(world):
    sr = by_name(world.b, "SR", "b1-sr")
    target = uuid_of(world.b, "VDI", add_vdi(world.b, sr, 2 * GIB))
    plan, problems = world.cross(**{"vdi:" + world.vdi(0): target})
    assert problems == [] and based(plan)[world.vdi(0)] == ""
    assert based(plan)[world.disks(world.second)[0]] == world.disks(world.first)[0]


def test_a_snapshot_that_has_not_the_disk_is_passed_over(world):
    second = world.disks(world.second)
    world.a.tables["VM"][world.second]["VBDs"] = world.a.tables["VM"][world.second]["VBDs"][1:]
    plan, _ = world.cross()
    assert second[0] not in based(plan)
    assert based(plan)[world.vdi(0)] == world.disks(world.first)[0]


def test_within_the_pool_the_snapshots_of_a_disk_that_stays_stay(world):
    other = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    plan, problems = world.within(**{"vdi:" + world.vdi(0): other})
    assert problems == []
    assert [disk.snapshot_of for disk in plan.history] == [world.vdi(0)] * 2
    assert plan.snapshot_vifs == [] and len(plan.kept) == 2


def test_a_disk_of_no_disk_of_the_vm_goes_where_all_others_do(world):
    third = world.snapshot("third", world.second, [])
    orphan = add_vdi(world.a, world.sr, GIB, is_a_snapshot=True)
    vbd = world.a.add(
        "VBD", VM=third, VDI=orphan, type="Disk", empty=False, userdevice="5", mode="RW",
        device="xvdf", currently_attached=False, unpluggable=True,
    )  # fmt: skip
    world.a.tables["VM"][third]["VBDs"] = [vbd]
    world.a.tables["VDI"][orphan]["VBDs"] = [vbd]
    plan, problems = world.cross()
    assert problems == [] and plan.history[-1].key == uuid_of(world.a, "VDI", orphan)
    assert (plan.history[-1].base, plan.history[-1].snapshot_of) == ("", "")
    named = {"vdi:" + world.vdi(number): world.target for number in (0, 1)}
    answer = world.cross(**dict(named, **{"destination-sr-uuid": None}))
    assert is_refused(answer, "destination-sr-uuid", "a snapshot of no disk of the VM")


@pytest.mark.parametrize(
    "prepare, part",
    [
        (
            lambda w: w.a.tables["VM"][w.first].update(power_state="Suspended"),
            "has no image of its memory",
        ),
        (lambda w: w.a.tables["VM"][w.first].update(current_operations={"t": "copy"}), "(copy)"),
        (lambda w: w.of_disk(w.first).update(missing=True), "is missing"),
        (lambda w: w.of_disk(w.first)["sm_config"].update(key_hash="x"), "is encrypted"),
        (lambda w: w.of_disk(w.first)["sm_config"].update(paused="true"), "is paused"),
        (lambda w: w.of_disk(w.first)["other_config"].update(sxm_migration="m"), "another"),
        (lambda w: w.of_disk(w.first)["VBDs"].append("OpaqueRef:x"), "another VM"),
        (
            lambda w: w.of_disk(w.first).update(SR=by_name(w.a, "SR", "a2-sr")),
            "which the VM's host does not see",
        ),
        (lambda w: w.b.add("VM", uuid=uuid_of(w.a, "VM", w.first), name_label="there"), "has a VM"),
    ],
)
def test_what_keeps_a_snapshot_from_coming_along(world, prepare, part):
    prepare(world)
    assert is_refused(world.cross(), "snapshots", part)


def test_dropped_between_pools(world):
    plan, problems = world.cross(snapshots="drop")
    assert problems == [] and plan.history == [] and plan.kept == [] and plan.snapshot_vifs == []
    assert set(based(plan).values()) == {""}
    disks = world.disks(world.first) + world.disks(world.second)
    assert plan.dropped == sorted(disks)
    assert (
        len([text for text in plan.warnings if "does not come along, and is deleted" in text]) == 2
    )


def test_what_another_vm_has_is_not_dropped(world):
    """The end destroys it; xapi would, too, where that VM is halted."""
    vdi = world.of_disk(world.first)
    ref = world.a.xenapi.VDI.get_by_uuid(world.disks(world.first)[0])
    network = by_name(world.a, "network", "guests")
    other = add_vm(world.a, NULL, [ref], network, name_label="restore", power_state="Halted")
    vdi["VBDs"] = sorted(set(vdi["VBDs"]) | set(world.a.tables["VM"][other]["VBDs"]))
    answer = world.cross(snapshots="drop")
    assert is_refused(answer, "snapshots", "is attached to VM restore")


def checkpoint(world, of=NULL):
    """Make the second snapshot a checkpoint; the ref of the image of its memory. The image that the
    VM had then, which it is a snapshot `of`, is gone as soon as that goes on."""
    image = add_vdi(world.a, world.sr, 3 * GIB, type="suspend", is_a_snapshot=True, snapshot_of=of)
    world.a.tables["VM"][world.second].update(power_state="Suspended", suspend_VDI=image)
    return image


@pytest.mark.parametrize("of", [NULL, "OpaqueRef:gone"])
def test_a_checkpoint_comes_along_with_the_image_of_its_memory(world, of):
    image = uuid_of(world.a, "VDI", checkpoint(world, of))
    plan, problems = world.cross()
    assert problems == []
    (found,) = [disk for disk in plan.history if disk.is_memory]
    assert (found.key, found.snapshot, found.destination_sr, found.type) == (
        image,
        uuid_of(world.a, "VM", world.second),
        world.target,
        "suspend",
    )
    assert (found.base, found.snapshot_of, found.vbd) == ("", "", "")
    assert not plan.suspended, "the VM itself runs"
    assert len(plan.history) == 5 and based(plan)[world.vdi(0)] == world.disks(world.second)[0]


def test_the_image_of_a_checkpoint_goes_where_it_is_told_to_alone(world):
    image = uuid_of(world.a, "VDI", checkpoint(world))
    named = {"vdi:" + world.vdi(number): world.target for number in (0, 1)}
    named["destination-sr-uuid"] = None
    assert is_refused(world.cross(**named), "destination-sr-uuid", "is the image of its memory")
    plan, problems = world.cross(**dict(named, **{"vdi:" + image: world.target}))
    assert problems == [] and image in [disk.key for disk in plan.history]
    target = uuid_of(world.b, "VDI", add_vdi(world.b, by_name(world.b, "SR", "b1-sr"), 3 * GIB))
    answer = world.cross(**dict(named, **{"vdi:" + image: target}))
    assert is_refused(answer, "vdi:" + image, "is the image of its memory")
    other = uuid_of(world.b, "SR", by_name(world.b, "SR", "b2-sr"))
    answer = world.cross(**dict(named, **{"vdi:" + image: other}))
    assert is_refused(answer, "vdi:" + image, "is not seen by host")


def test_a_checkpoint_of_a_suspended_vm_shares_its_image(world):
    """Its own is a snapshot of the VM's, which is there still: the VM's arrives as its clone."""
    own = add_vdi(world.a, world.sr, 3 * GIB, type="suspend")
    world.vm.update(power_state="Suspended", suspend_VDI=own, resident_on=NULL)
    image = uuid_of(world.a, "VDI", checkpoint(world, own))
    plan, problems = world.cross()
    assert problems == [] and plan.suspended
    assert based(plan)[uuid_of(world.a, "VDI", own)] == image and based(plan)[image] == ""
    seen = by_name(world.b, "host", "b1")
    named = {"vdi:" + image: uuid_of(world.b, "SR", add_sr(world.b, "for images", [seen]))}
    plan, problems = world.cross(**named)
    (found,) = [disk for disk in plan.history if disk.key == image]
    assert problems == [] and found.destination_sr == named["vdi:" + image]
    assert based(plan)[uuid_of(world.a, "VDI", own)] == "", "no clone of what is in another SR"
    hidden = uuid_of(world.b, "SR", by_name(world.b, "SR", "b2-sr"))
    answer = world.cross(**{"vdi:" + image: hidden})
    assert is_refused(answer, "vdi:" + image, "is not seen by host")


def test_within_the_pool_the_image_of_a_checkpoint_stays_unless_it_is_named(world):
    image = uuid_of(world.a, "VDI", checkpoint(world))
    other = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    disks = world.disks(world.first) + world.disks(world.second)
    plan, problems = world.within(**{"destination-sr-uuid": other})
    assert problems == [] and sorted(disk.key for disk in plan.history) == sorted(disks)
    named = {"destination-sr-uuid": other, "vdi:" + image: other}
    plan, problems = world.within(**named)
    assert problems == [] and image in [disk.key for disk in plan.history]
    assert len(plan.history) == 5
    second = world.a.tables["VM"][world.second]
    second["VBDs"] = second["VBDs"][1:]  # it has none of the disk that moves
    plan, problems = world.within(**{"vdi:" + world.vdi(0): other})
    assert problems == [] and [disk.key for disk in plan.history] == world.disks(world.first)[:1]


def test_a_checkpoint_goes_to_no_host_of_its_pool_that_does_not_see_its_image(world):
    image = uuid_of(world.a, "VDI", checkpoint(world))
    there = uuid_of(world.a, "SR", by_name(world.a, "SR", "a2-sr"))
    to = {"host": "a2", "destination-sr-uuid": there}
    answer = world.within(**to)
    assert is_refused(answer, "snapshots", "and host a2 does not see the SR of the image")
    assert image in str(answer[1])
    plan, problems = world.within(**dict(to, **{"vdi:" + image: there}))
    assert problems == [] and len(plan.history) == 5


def test_a_checkpoint_is_dropped_with_its_image(world):
    image = uuid_of(world.a, "VDI", checkpoint(world))
    plan, problems = world.cross(snapshots="drop")
    assert problems == [] and image in plan.dropped and len(plan.dropped) == 5
    world.a.tables["VM"][world.second]["suspend_VDI"] = NULL
    plan, problems = world.cross(snapshots="drop")
    assert problems == [] and len(plan.dropped) == 4


def test_dropped_within_the_pool_is_refused(world):
    answer = world.within(
        snapshots="drop",
        **{"destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))},
    )
    assert is_refused(answer, "snapshots", "within the pool the VM keeps its snapshots")


def test_an_interface_of_a_snapshot_that_the_vm_has_no_more(world):
    vif = world.a.tables["VM"][world.first]["VIFs"][0]
    world.a.tables["VIF"][vif].update(
        MAC="aa:bb:cc:00:00:02", network=world.a.add("network", name_label="gone", PIFs=[])
    )
    uuid = uuid_of(world.a, "VIF", vif)
    assert is_refused(world.cross(), "vif:" + uuid, "has no network to go to")
    network = uuid_of(world.b, "network", by_name(world.b, "network", "guests"))
    plan, problems = world.cross(**{"vif:" + uuid: network})
    assert problems == [] and network in {one.network for one in plan.snapshot_vifs}


def test_changed_block_tracking_of_a_snapshot_is_told(world):
    world.of_disk(world.first)["cbt_enabled"] = True
    plan, _ = world.cross()
    assert any("has changed block tracking" in text for text in plan.warnings)
