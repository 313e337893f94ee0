# SPDX-License-Identifier: LGPL-2.1-only
"""What a VM, its disks and the SRs must be like: each condition, by a plan that is refused."""

import pytest

from fake_pool import GIB, NULL, add_vdi, by_name, uuid_of
from plan_world import World, is_refused
from storage_motion.plan.plan import Plan
from storage_motion.plan.planner import home
from storage_motion.xapi.records import Records


@pytest.fixture
def world():
    return World()


def vm_field(name, value):
    return lambda world: world.vm.__setitem__(name, value)


def disk_field(name, value):
    return lambda world: world.disk.__setitem__(name, value)


@pytest.mark.parametrize(
    "prepare, part",
    [
        (
            lambda world: world.vm.update(power_state="Suspended", suspend_VDI=NULL),
            "has no image of its memory",
        ),
        (vm_field("power_state", "Paused"), "xe vm-unpause"),
        (vm_field("is_a_template", True), "template"),
        (vm_field("is_a_snapshot", True), "is a snapshot"),
        (vm_field("is_control_domain", True), "control domain"),
        (vm_field("VGPUs", ["OpaqueRef:1"]), "GPU"),
        (vm_field("other_config", {"sxm_migration": "m"}), "being moved already by migration m"),
        (vm_field("current_operations", {"OpaqueRef:t": "pool_migrate"}), "being migrated already"),
        (vm_field("blocked_operations", {"migrate_send": "not today"}), "not today"),
        (vm_field("VBDs", []), "no disks"),
        (disk_field("cbt_enabled", True), "changed block tracking"),
        (disk_field("sm_config", {"key_hash": "x"}), "encrypted"),
        (disk_field("sm_config", {"paused": "true"}), "paused"),
        (disk_field("other_config", {"sxm_migration": "m"}), "belongs to another migration"),
        (disk_field("on_boot", "reset"), "reset on boot"),
        (disk_field("VBDs", ["OpaqueRef:1", "OpaqueRef:2"]), "another VM"),
        (disk_field("missing", True), "missing"),
        (disk_field("read_only", True), "is itself marked as read-only, and the VM has it to be"),
        (
            lambda world: [
                world.a.tables["VBD"][ref].update(currently_attached=False)
                for ref in world.vm["VBDs"]
            ],
            "none is plugged into the VM",
        ),
    ],
)
def test_what_cannot_be_moved_is_refused(world, prepare, part):
    prepare(world)
    plan, problems = world.cross()
    assert plan is None and any(part in problem for problem in problems), problems


@pytest.mark.parametrize(
    "control_domain, said",
    [
        (False, ("attached to VM database (v2) as well", "destroy its VBD (b2)")),
        (True, ("attached to the control domain database, as backup programs", "(b2)")),
    ],
)
def test_who_else_has_a_disk_is_named(world, control_domain, said):
    other = world.a.add(
        "VM", uuid="v2", name_label="database", is_control_domain=control_domain, VBDs=[]
    )
    vbd = world.a.add("VBD", uuid="b2", VM=other)
    world.disk["VBDs"] = world.vm["VBDs"][:1] + [vbd]
    plan, problems = world.cross()
    (problem,) = problems
    assert plan is None and problem.startswith("vdi:" + world.disk["uuid"])
    assert all(part in problem for part in said), problem


@pytest.mark.parametrize("state", ["Running", "Halted"])
def test_a_read_only_disk_is_copied_and_not_mirrored_though_it_is_sharable(world, state):
    """No raw one is mirrored on LVM."""
    world.disk.update(sharable=True, sm_config={"type": "raw"})
    world.vm["power_state"] = state
    world.a.tables["VBD"][world.vm["VBDs"][0]].update(mode="RO")
    world.a.tables["SR"][world.sr].update(type="lvm")
    plan, problems = world.cross()
    assert plan is not None, problems
    (disk,) = [disk for disk in plan.disks if disk.key == world.disk["uuid"]]
    assert (disk.read_only, plan.mirrors(disk)) == (True, False)
    assert [plan.mirrors(other) for other in plan.disks if other is not disk] == [
        plan.live for other in plan.disks[1:]
    ]


@pytest.fixture
def suspended(world):
    image = add_vdi(world.a, world.sr, GIB, type="suspend", VBDs=[])
    world.vm.update(power_state="Suspended", suspend_VDI=image, resident_on=NULL)
    return uuid_of(world.a, "VDI", image)


def test_a_suspended_vm_moves_with_the_image_of_its_memory(world, suspended):
    plan, problems = world.cross()
    assert plan is not None, problems
    assert (plan.live, plan.suspended, plan.check_cpu) == (False, True, True)
    (image,) = [disk for disk in plan.disks if disk.is_memory]
    assert (image.key, image.type, image.device) == (suspended, "suspend", "memory")
    assert len(plan.disks) == 3 and plan.to_json() == Plan.from_json(plan.to_json()).to_json()
    assert home(Records(world.a), world.vm, None) == by_name(world.a, "host", "a1")


def test_within_its_pool_its_image_stays_unless_it_is_named(world, suspended):
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    plan, problems = world.within(**{"destination-sr-uuid": shared})
    assert problems == [] and plan.staying == [suspended] and len(plan.disks) == 2
    assert not any(disk.is_memory for disk in plan.disks)
    assert all(plan.keeps_closed(disk) for disk in plan.disks)
    plan, problems = world.within(**{"vdi:" + suspended: shared})
    assert problems == [] and [disk.key for disk in plan.disks] == [suspended]
    assert plan.suspended and len(plan.staying) == 2


def test_within_its_pool_it_goes_to_no_host_that_does_not_see_its_image(world, suspended):
    answer = world.within(
        host="a2",
        **{"destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "a2-sr"))},
    )
    assert is_refused(answer, "vdi:" + suspended, "which host a2 does not see")


def test_its_image_fills_no_disk_of_the_users(world, suspended):
    target = add_vdi(world.b, by_name(world.b, "SR", "b1-sr"), GIB)
    answer = world.cross(**{"vdi:" + suspended: uuid_of(world.b, "VDI", target)})
    assert is_refused(answer, "vdi:" + suspended, "with the image of the VM's memory")


def test_a_disk_that_is_not_plugged_is_copied_and_not_mirrored(world):
    world.a.tables["VBD"][world.vm["VBDs"][0]].update(currently_attached=False)
    plan, problems = world.cross()
    assert plan is not None, problems
    (disk,) = [disk for disk in plan.disks if disk.key == world.disk["uuid"]]
    assert (disk.unplugged, plan.mirrors(disk), plan.uses(disk)) == (True, False, False)
    assert all(plan.uses(other) for other in plan.disks if other is not disk)


def test_a_disk_whose_vdi_is_marked_as_read_only_moves_with_a_vm_that_has_it_so(world):
    world.disk["read_only"] = True
    world.a.tables["VBD"][world.vm["VBDs"][0]].update(mode="RO")
    plan, problems = world.cross()
    assert plan is not None, problems
    (disk,) = [disk for disk in plan.disks if disk.key == world.disk["uuid"]]
    assert disk.read_only and not plan.mirrors(disk)


@pytest.mark.parametrize("state", ["Running", "Halted"])
def test_a_disk_that_is_merely_marked_as_sharable_moves(world, state):
    world.disk["sharable"] = True
    world.vm["power_state"] = state
    plan, _ = world.cross()
    (disk,) = [disk for disk in plan.disks if disk.key == world.disk["uuid"]]
    assert disk.sharable and plan.mirrors(disk) is (state == "Running")


@pytest.mark.parametrize(
    "changes, prepare, argument, part",
    [
        (
            {},
            lambda world: world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")].update(
                content_type="iso"
            ),
            "destination-sr-uuid",
            "not for disks",
        ),
        (
            {},
            lambda world: world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")].update(
                type="linstor"
            ),
            "destination-sr-uuid",
            "is of type linstor, to which nothing can be mirrored",
        ),
        (
            {},
            lambda world: world.a.tables["SR"][world.sr].update(type="iscsi"),
            "vdi:",
            "of type iscsi, from which nothing can be mirrored; a disk in an SR of type ext, file, "
            "lvm",
        ),
    ],
)
def test_an_sr_that_cannot_be_used_names_its_argument(world, changes, prepare, argument, part):
    if prepare:
        prepare(world)
    assert is_refused(world.cross(**changes), argument, part)


WORKING = "ext, file, lvm, lvmohba, lvmoiscsi, nfs, smb, xfs, zfs"


@pytest.mark.parametrize(
    "sr_type",
    [
        "cephfs",
        "glusterfs",
        "moosefs",
        "largeblock",
        "lvmofcoe",
        "linstor",
        "iscsi",
        "hba",
        "rawhba",
        "shm",
        "dummy",
    ],
)
def test_a_type_of_sr_that_is_not_supported_is_named_with_those_that_are(world, sr_type):
    """As source and as destination."""
    world.a.tables["SR"][world.sr].update(type=sr_type)
    _, problems = world.cross()
    assert len(problems) == 2
    for problem in problems:
        assert "of type %s, from which nothing can be mirrored" % sr_type in problem
        assert problem.endswith("a disk in an SR of type " + WORKING)
    world.a.tables["SR"][world.sr].update(type="zfs")
    world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")].update(type=sr_type)
    (problem,) = world.cross()[1]
    assert "is of type %s, to which nothing can be mirrored" % sr_type in problem
    assert problem.endswith("an SR of type " + WORKING)


@pytest.mark.parametrize(
    "sr_type, state, refused",
    [
        ("lvm", "Running", True),
        ("lvmohba", "Running", True),
        ("lvm", "Halted", False),
        ("ext", "Running", False),
    ],
)
def test_a_raw_volume_of_which_sm_takes_no_snapshot(world, sr_type, state, refused):
    world.a.tables["SR"][world.sr].update(type=sr_type)
    world.disk["sm_config"] = {"type": "raw"}
    world.vm["power_state"] = state
    plan, problems = world.cross()
    assert (plan is None) == refused and len(problems) == refused
    if refused:
        assert "and raw, of which SM takes no snapshot there; shut the VM down" in problems[0]


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"virtual_size": str(GIB)}, "bytes"),
        ({"VBDs": ["OpaqueRef:1"]}, "in use"),
        ({"read_only": True}, "read-only"),
        ({"sm_config": {"host_OpaqueRef:1": "RW"}}, "in use"),
        ({"is_a_snapshot": True}, "snapshot"),
        ({"type": "suspend"}, "of a type that no disk"),
    ],
)
def test_a_target_that_cannot_be_filled(world, changes, part):
    ref = add_vdi(world.b, by_name(world.b, "SR", "b1-sr"), 2 * GIB)
    world.b.tables["VDI"][ref].update(changes)
    _, problems = world.cross(**{"vdi:" + world.vdi(0): uuid_of(world.b, "VDI", ref)})
    assert any(
        problem.startswith("vdi:" + world.vdi(0)) and part in problem for problem in problems
    ), problems
