# SPDX-License-Identifier: LGPL-2.1-only
"""The CDs in a VM's drives: which are ejected, and what is put in at the destination."""

import pytest

from fake_pool import add_sr, add_vdi, by_name, uuid_of
from plan_world import World

MIB = 1 << 20


@pytest.fixture
def world():
    """A VM with the CD "setup.iso" of an SR that host a1 alone sees."""
    world = World()
    iso = add_sr(world.a, "isos", [by_name(world.a, "host", "a1")], content_type="iso")
    world.cd = add_vdi(world.a, iso, 5 * MIB, name_label="setup.iso")
    world.vm["VBDs"].append(
        world.a.add(
            "VBD",
            VM=world.vm_ref,
            VDI=world.cd,
            type="CD",
            empty=False,
            userdevice="3",
            mode="RO",
            device="xvdd",
            currently_attached=True,
        )
    )
    return world


def isos_of(pool, host, **changes):
    return add_sr(
        pool, "library", [by_name(pool, "host", host)], **dict(dict(content_type="iso"), **changes)
    )


def test_one_of_the_same_name_is_put_in_there(world):
    library = isos_of(world.b, "b1")
    add_vdi(world.b, library, 7 * MIB, name_label="setup.iso")
    same = add_vdi(world.b, library, 5 * MIB, name_label="setup.iso")
    add_vdi(world.b, library, 5 * MIB, name_label="other.iso")
    plan, problems = world.cross()
    (cd,) = plan.cds
    assert problems == [] and cd.eject and (cd.userdevice, cd.device) == ("3", "xvdd")
    assert cd.insert == uuid_of(world.b, "VDI", same), "of several that of the same size"
    (text,) = [text for text in plan.warnings if "CD" in text]
    assert "setup.iso" in text and cd.insert in text and "is put in at the end" in text
    assert type(plan).from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "host, changes, name",
    [
        ("b1", {}, "Setup.iso"),
        ("b2", {}, "setup.iso"),
        ("b1", {"content_type": "user"}, "setup.iso"),
        ("b1", {"type": "udev"}, "setup.iso"),
    ],
    ids=["another name", "not seen by that host", "no SR of CDs", "a drive of the host's"],
)
def test_without_one_the_drive_stays_empty(world, host, changes, name):
    if host == "b2":
        world.b.add("host", name_label="b2", enabled=True, metrics="OpaqueRef:NULL")
    add_vdi(world.b, isos_of(world.b, host, **changes), name_label=name)
    plan, _ = world.cross()
    assert [(cd.eject, cd.insert) for cd in plan.cds] == [(True, "")]
    assert any("the drive stays empty" in text for text in plan.warnings)


def test_one_that_the_destination_sees_stays(world):
    plan, _ = world.within(
        **{"destination-sr-uuid": uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))}
    )
    assert [(cd.eject, cd.insert) for cd in plan.cds] == [(False, "")]
    assert not any("CD" in text for text in plan.warnings)


@pytest.fixture(params=["Halted", "Suspended"])
def unrun(world, request):
    """The same, of a VM that does not run."""
    world.vm.update(power_state=request.param, resident_on="OpaqueRef:NULL")
    if request.param == "Suspended":
        world.vm["suspend_VDI"] = add_vdi(world.a, by_name(world.a, "SR", "shared"), type="suspend")
    return world


def at_the_same_place(world, library, name):
    """A CD of pool B that has the file name of the VM's."""
    vdi = add_vdi(world.b, library, name_label=name)
    world.b.tables["VDI"][vdi]["location"] = world.a.tables["VDI"][world.cd]["location"]
    return uuid_of(world.b, "VDI", vdi)


def test_one_of_the_same_file_is_what_xapis_importer_takes(unrun):
    """Whatever it is called, and whichever host sees it."""
    unrun.b.add("host", name_label="b9", enabled=True, metrics="OpaqueRef:NULL")
    same = at_the_same_place(unrun, isos_of(unrun.b, "b9"), "another name")
    plan, problems = unrun.cross()
    assert problems == [] and [(cd.eject, cd.insert) for cd in plan.cds] == [(True, same)]
    assert_told_as_unseen(unrun, plan, same)


def assert_told_as_unseen(world, plan, cd):
    """xapi starts, or resumes, the VM only where its CDs are seen."""
    (text,) = [text for text in plan.warnings if "CD" in text]
    assert text.startswith("the destination host does not see CD setup.iso (%s)" % cd)
    assert ("resume this one" in text) == (world.vm["power_state"] == "Suspended")
    assert "xe vm-cd-eject" in text


def test_one_of_the_same_file_that_the_destination_host_sees_is_nothing_to_tell_of(unrun):
    same = at_the_same_place(unrun, isos_of(unrun.b, "b1"), "another name")
    plan, _ = unrun.cross()
    assert [(cd.eject, cd.insert) for cd in plan.cds] == [(True, same)]
    assert not any("CD" in text for text in plan.warnings)


@pytest.mark.parametrize("changes", [{"content_type": "user"}, {"type": "udev"}])
def test_what_the_importer_takes_for_no_cd_leaves_the_drive_empty(unrun, changes):
    at_the_same_place(unrun, isos_of(unrun.b, "b1", **changes), "another name")
    plan, _ = unrun.cross()
    assert [(cd.eject, cd.insert) for cd in plan.cds] == [(True, "")]
    (text,) = [text for text in plan.warnings if "CD" in text]
    assert "setup.iso" in text and "the drive is empty there" in text


def test_one_of_the_same_name_is_put_into_a_halted_vms_drive(world):
    """Where the importer has found none. Nothing is put into a suspended one's."""
    same = uuid_of(world.b, "VDI", add_vdi(world.b, isos_of(world.b, "b1"), name_label="setup.iso"))
    world.vm.update(power_state="Halted", resident_on="OpaqueRef:NULL")
    plan, _ = world.cross()
    assert [(cd.eject, cd.insert) for cd in plan.cds] == [(True, same)]
    assert not any("CD" in text for text in plan.warnings)
    world.vm.update(power_state="Suspended", suspend_VDI=add_vdi(world.a, world.sr, type="suspend"))
    plan, _ = world.cross()
    assert [(cd.eject, cd.insert) for cd in plan.cds] == [(True, "")]
    assert any("the drive is empty there" in text for text in plan.warnings)


def test_within_its_pool_the_cd_of_a_vm_that_does_not_run_stays(unrun):
    """Where the destination host does not see it, too: xapi starts the VM on one that does, if
    there is one."""
    plan, problems = unrun.within(
        host="a2",
        **{"destination-sr-uuid": uuid_of(unrun.a, "SR", by_name(unrun.a, "SR", "shared"))},
    )
    assert problems == [] and [(cd.eject, cd.insert) for cd in plan.cds] == [(False, "")]
    assert_told_as_unseen(unrun, plan, uuid_of(unrun.a, "VDI", unrun.cd))


def test_a_copys_drive_is_as_that_of_a_halted_vm_that_moves(world):
    world.vm.update(power_state="Halted", resident_on="OpaqueRef:NULL")
    plan, problems = world.cross(copy="true")
    assert problems == [] and [(cd.eject, cd.insert) for cd in plan.cds] == [(True, "")]
    assert any("setup.iso" in text and "the drive is empty" in text for text in plan.warnings)
