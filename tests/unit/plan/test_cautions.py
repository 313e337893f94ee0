# SPDX-License-Identifier: LGPL-2.1-only
"""What a plan warns of: whose blktap is not known to be safe for a QCOW2 disk that it has open."""

import pytest

from fake_pool import GIB, add_vdi, by_name, uuid_of
from storage_motion.plan import cautions, formats
from storage_motion.xapi.records import Records
from test_formats import driver, pbd_of, world  # noqa: F401


def warned(world, said, **given):
    """The hosts that the plan of a move to b1 warns of. `said`: {host: what it says of itself}."""
    plan, problems = world.cross(**given)
    assert problems == []
    unsafe = {"blktap": "3", "qcow2_safe": False}
    hosts = {
        uuid_of(pool, "host", by_name(pool, "host", name)): said.get(name, unsafe)
        for name, pool in (("a1", world.a), ("b1", world.b))
    }
    found = cautions.of(Records(world.a), Records(world.b), plan, hosts)
    assert all("which is not known to be safe for QCOW2" in text for text in found)
    return [text.split(" ")[1] for text in found]


def test_of_vhd_nothing_is_warned(world):
    assert warned(world, {}) == []


def test_a_source_that_is_qcow2(world):
    world.disk["sm_config"] = {"image-format": "qcow2"}
    assert warned(world, {}) == ["a1"]
    assert warned(world, {"a1": {"blktap": "3", "qcow2_safe": True}}) == []
    assert warned(world, {"a1": {}}) == ["a1"]


@pytest.mark.parametrize("preferred, hosts", [("qcow2,vhd", ["b1"]), ("vhd,qcow2", []), ("", [])])
def test_a_destination_that_sm_would_make_so(world, preferred, hosts):
    pbd_of(world.b, "b1-sr")["device_config"] = {formats.PREFERRED: preferred}
    assert warned(world, {}) == hosts


def test_a_large_disk_that_is_no_vhd_any_more(world):
    driver(world.b)["supported_image_formats"] = ["vhd", "qcow2"]
    pbd_of(world.b, "b1-sr")["device_config"] = {formats.PREFERRED: "vhd,qcow2"}
    world.disk.update(virtual_size=str(2041 * GIB), physical_utilisation=str(GIB))
    assert warned(world, {}) == ["b1"]


def test_a_destination_that_is_asked_for_or_filled(world):
    asked = "image-format:" + world.vdi(0)
    assert warned(world, {}, **{asked: "qcow2"}) == ["b1"]
    assert warned(world, {}, **{asked: "vhd"}) == []
    target = add_vdi(
        world.b, by_name(world.b, "SR", "b1-sr"), 2 * GIB, sm_config={"image-format": "qcow2"}
    )
    assert warned(world, {}, **{"vdi:" + world.vdi(0): uuid_of(world.b, "VDI", target)}) == ["b1"]
