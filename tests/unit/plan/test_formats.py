# SPDX-License-Identifier: LGPL-2.1-only
"""Image formats: what may be asked for, how large a disk an SR makes, sizes that SM rounds up."""

import pytest

from fake_pool import GIB, add_vdi, by_name, uuid_of
from plan_world import NOBODY, World
from storage_motion.api.arguments import MIGRATE, Problems, check_names
from storage_motion.plan import formats

QCOW2_MAX = 17589500641280


@pytest.fixture
def world():
    made = World()
    for pool in (made.a, made.b):
        pool.add("SM", type="ext", supported_image_formats=[])
    return made


def driver(pool):
    return list(pool.tables["SM"].values())[0]


def pbd_of(pool, sr):
    return pool.tables["PBD"][pool.tables["SR"][by_name(pool, "SR", sr)]["PBDs"][0]]


def sized(world, size):
    """What is wrong with a move of a disk of `size` bytes."""
    world.disk["virtual_size"], world.disk["physical_utilisation"] = str(size), str(GIB)
    return world.cross()[1]


def test_where_nothing_is_said_the_limit_is_that_of_vhd(world):
    assert sized(world, 2040 * GIB) == []
    (said,) = sized(world, 2040 * GIB + 512)
    assert said.startswith("destination-sr-uuid: disk %s has 2040.0 GiB" % world.vdi(0))
    assert "a disk of vhd of 2040.0 GiB at most" in said
    assert "image-format:%s=qcow2" % world.vdi(0) in said


@pytest.mark.parametrize(
    "supported, preferred, most",
    [
        (["raw", "vhd"], "", 2040 * GIB),
        (["raw", "vhd", "qcow2"], "", QCOW2_MAX),
        ([], "qcow2", QCOW2_MAX),
        ([], "vhd, qcow2", QCOW2_MAX),
        ([], "vhd", 2040 * GIB),
        (["raw", "vhd"], "qcow2,vhd", 2040 * GIB),
        (["raw", "vhd"], "qcow2", 2040 * GIB),
        ([], "nonsense", 2040 * GIB),
    ],
)
def test_the_limit_is_that_of_the_formats_that_sm_would_take(world, supported, preferred, most):
    driver(world.b)["supported_image_formats"] = supported
    pbd_of(world.b, "b1-sr")["device_config"] = {formats.PREFERRED: preferred}
    assert sized(world, most) == [] and sized(world, most + 512) != []


def test_what_is_asked_for_is_in_the_plan_and_sets_the_limit(world):
    world.disk.update(virtual_size=str(QCOW2_MAX), physical_utilisation=str(GIB))
    asked = "image-format:" + world.vdi(0)
    plan, problems = world.cross(**{asked: "QCOW2"})
    assert problems == []
    assert {disk.key: disk.image_format for disk in plan.disks} == {
        world.vdi(0): "qcow2",
        world.vdi(1): "",
    }
    (said,) = world.cross(**{asked: "vhd"})[1]
    assert said.startswith(asked + ": disk ") and said.endswith("; another SR")


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("image-format:" + NOBODY, "vhd", "is not a disk of VM"),
        ("image-format:x", "vhd", "names no disk"),
        ("image-format:0", "raw", "is 'raw'; vhd or qcow2"),
        ("image-format:0", "", "is ''; vhd or qcow2"),
    ],
)
def test_what_is_wrong_is_told_with_its_argument(world, name, value, said):
    name = name.replace(":0", ":" + world.vdi(0))
    plan, problems = world.cross(**{name: value})
    assert plan is None and len(problems) == 1
    assert problems[0].startswith(name + ": ") and said in problems[0]


def test_without_a_disk_it_is_no_argument():
    problems = Problems()
    check_names("migrate", MIGRATE, {"vm": "x", "image-format": "vhd"}, problems)
    assert problems.details == [
        "image-format: is not an argument of migrate; did you mean image-format:?"
    ]


def test_a_format_that_xapi_says_the_sr_has_not(world):
    driver(world.b)["supported_image_formats"] = ["raw", "vhd"]
    asked = "image-format:" + world.vdi(0)
    (said,) = world.cross(**{asked: "qcow2"})[1]
    assert said == "%s: SR %s (b1-sr) makes no qcow2; one of raw, vhd" % (asked, world.target)


@pytest.mark.parametrize("sr_type", formats.ON_LVM)
def test_on_lvm_only_what_the_sr_prefers_may_be_asked_for(world, sr_type):
    """XCP-ng's LVMSR fails at any other, and at that one, too, which so is not passed on."""
    sr = by_name(world.b, "SR", "b1-sr")
    world.b.tables["SR"][sr]["type"] = driver(world.b)["type"] = sr_type
    pbd_of(world.b, "b1-sr")["device_config"] = {formats.PREFERRED: "qcow2,vhd"}
    asked = "image-format:" + world.vdi(0)
    assert world.cross(**{asked: "qcow2"})[1] == []
    (said,) = world.cross(**{asked: "vhd"})[1]
    assert said.startswith(asked + ": SM makes the disks of SR %s" % world.target)
    assert "the format that the SR prefers, qcow2" in said and "have the SR prefer vhd" in said


def test_beside_a_vdi_to_fill_and_for_a_disk_that_stays(world):
    target = add_vdi(world.b, by_name(world.b, "SR", "b1-sr"), 2 * GIB)
    asked = "image-format:" + world.vdi(0)
    given = {"vdi:" + world.vdi(0): uuid_of(world.b, "VDI", target), asked: "vhd"}
    assert "is given beside a VDI to fill" in world.cross(**given)[1][0]
    shared = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    given = {"vdi:" + world.vdi(0): shared, "image-format:" + world.vdi(1): "vhd"}
    assert "stays where it is" in world.within(**given)[1][0]


@pytest.mark.parametrize(
    "more, good",
    [(-512, False), (0, True), (65536, True), ((4 << 20) - 512, True), (4 << 20, False)],
)
def test_a_vdi_to_fill_may_be_larger_by_what_sm_rounds_up(world, more, good):
    target = add_vdi(world.b, by_name(world.b, "SR", "b1-sr"), 2 * GIB + more)
    problems = world.cross(**{"vdi:" + world.vdi(0): uuid_of(world.b, "VDI", target)})[1]
    assert (problems == []) is good
