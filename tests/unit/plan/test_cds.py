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


def test_a_halted_vms_drives_are_left_to_xapis_importer(world):
    world.vm.update(power_state="Halted", resident_on="OpaqueRef:NULL")
    plan, _ = world.cross()
    assert len(plan.cds) == 1 and not any("CD" in text for text in plan.warnings)
