# SPDX-License-Identifier: LGPL-2.1-only
"""The disks of a halted VM change places within its pool: each goes to the SR that the other one
leaves, so that the disks that are read and those that are made lie in one SR, in one database."""

import pytest

from lab.dom0 import dying_create
from lab.pools.topology import PoolPlan
from tests.e2e.scene import MIB

PLAN = (PoolPlan("A", ("a1",), False),)
DISKS = (16 * MIB, 24 * MIB)
SRS = ("big", "fast")


def disks(scene):
    """{UUID: the name of its SR} of the VM's disks."""
    x, names = scene.pool.xapi, {scene.pool.sr(scene.host.name, name): name for name in SRS}
    found = [x.VBD.get_VDI(vbd) for vbd in scene.record["VBDs"]]
    return {x.VDI.get_uuid(vdi): names[x.VDI.get_SR(vdi)] for vdi in found}


def shut_down(scene):
    scene.pool.xapi.VM.clean_shutdown(scene.pool.xapi.VM.get_by_uuid(scene.uuid))


def start(scene):
    scene.pool.start_vm(scene.pool.xapi.VM.get_by_uuid(scene.uuid), scene.host.name)


def goes(scene, wanted):
    """A migration by which each disk goes to the SR of that name; its last journal."""
    x, arguments = scene.pool.xapi, {"vm": scene.uuid}
    for vdi, name in wanted.items():
        arguments["vdi:" + vdi] = x.SR.get_uuid(scene.pool.sr(scene.host.name, name))
    return scene.ended(scene.begin(**arguments))


def swapped(found):
    return {vdi: SRS[name == SRS[0]] for vdi, name in found.items()}


@pytest.fixture
def apart(scene):
    """The VM is halted, and has each of its disks in an SR of its own."""
    shut_down(scene)
    found = disks(scene)
    if len(set(found.values())) == 1:
        entry = goes(scene, {sorted(found)[0]: "big"})
        assert entry["state"] == "succeeded", entry["error"]
    assert sorted(disks(scene).values()) == sorted(SRS)


@pytest.mark.parametrize("snapshot", [False, True], ids=["alone", "with a snapshot"])
def test_one_that_cannot_be_made_costs_none_of_them(scene, apart, snapshot):
    """The first that is made goes where the other one is read. With a snapshot it is the disk of
    that."""
    x = scene.pool.xapi
    taken = [x.VM.snapshot(x.VM.get_by_uuid(scene.uuid), "taken", [])] if snapshot else []
    kept = [x.VBD.get_VDI(vbd) for vm in taken for vbd in x.VM.get_VBDs(vm)]
    kept = [x.VDI.get_uuid(vdi) for vdi in kept]
    before = disks(scene)
    dying_create.arm(scene.host.root)
    try:
        entry = goes(scene, swapped(before))
    finally:
        died = dying_create.disarm(scene.host.root)
    assert died and entry["state"] == "failed" and entry["left"] == [], entry
    assert disks(scene) == before, "a disk of the VM is destroyed"
    assert all(x.VDI.get_by_uuid(uuid) for uuid in kept), "a snapshot's is"
    start(scene)
    scene.assert_runs()
    shut_down(scene)
    entry = goes(scene, swapped(before))
    assert entry["state"] == "succeeded", entry["error"]
    assert sorted(disks(scene).values()) == sorted(SRS) and not set(disks(scene)) & set(before)
    for vm in taken:
        gone = [x.VBD.get_VDI(vbd) for vbd in x.VM.get_VBDs(vm)]
        assert len(gone) == len(kept) == 2
        x.VM.destroy(vm)
        for vdi in gone:
            x.VDI.destroy(vdi)
    start(scene)
    scene.assert_runs()
    scene.assert_nothing_left()
