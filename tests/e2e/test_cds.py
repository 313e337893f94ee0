# SPDX-License-Identifier: LGPL-2.1-only
"""A CD in the drive of a VM: its namesake of the other pool is in it afterwards; back at the source
if the move of a running one is taken back. Without one the drive is empty, as the plan has said."""

import os

import pytest

from lab.pools.topology import PoolPlan
from tests.e2e.records import BETWEEN, Watched
from tests.e2e.scene import MIB

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
NAME = "setup.iso"


@pytest.fixture(scope="module")
def isos(lab):
    """An SR of CDs in each pool, with one of NAME: {pool's name: the ref of that VDI}."""
    made = {}
    for pool in lab.pools:
        host = pool.master
        location = host.root + "/srs/isos"
        os.makedirs(location)
        sr = pool.xapi.SR.create(
            pool.host_ref(host.name),
            {"location": location},
            "0",
            "isos",
            "",
            "file",
            "iso",
            False,
            {},
        )
        made[pool.name] = pool.xapi.VDI.create(
            {
                "name_label": NAME,
                "name_description": "",
                "SR": sr,
                "virtual_size": str(2 * MIB),
                "type": "user",
                "sharable": False,
                "read_only": False,
                "other_config": {},
            }
        )
    return made


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


@pytest.fixture(scope="module")
def drive(scene, watched, isos):
    """Put the CD into the VM's drive: a function that tells what is in it, the ref of a VDI."""
    api = scene.pool.xapi
    vbd = api.VBD.create(
        {
            "VM": api.VM.get_by_uuid(scene.uuid),
            "VDI": "OpaqueRef:NULL",
            "userdevice": "3",
            "bootable": False,
            "mode": "RO",
            "type": "CD",
            "unpluggable": True,
            "empty": True,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
    )
    api.VBD.insert(vbd, isos["A"])

    def inside():
        now = scene.pool.xapi
        (found,) = [
            record
            for record in map(now.VBD.get_record, now.VM.get_VBDs(now.VM.get_by_uuid(scene.uuid)))
            if record["type"] == "CD"
        ]
        return found["VDI"]

    return inside


def test_it_is_put_back_if_the_move_is_taken_back(scene, isos, drive):
    migration = scene.begin(**dict(scene.arguments(), bandwidth="1M"))
    scene.until(migration, lambda entry: entry["phase"] == "sync")
    assert drive() != isos["A"], "ejected"
    scene.call("cancel", migration=migration)
    assert scene.ended(migration)["state"] == "cancelled"
    assert drive() == isos["A"]
    scene.assert_runs()
    scene.assert_nothing_left()


def test_its_namesake_is_in_the_drive_at_the_destination(scene, watched, isos, drive):
    for pool in ("B", "A"):
        source = scene.host
        watched.begin()
        plan = scene.call("migrate", **dict(scene.arguments(), **{"dry-run": "true"}))["plan"]
        assert any(NAME in text and "put in at the end" in text for text in plan["warnings"])
        migration = scene.begin()
        entry = scene.ended(migration, source)
        assert entry["state"] == "succeeded", entry["error"]
        scene.settle()
        watched.assert_alike(BETWEEN)
        assert drive() == isos[pool]
        status = scene.call("status", source, migration=migration)
        assert status["warnings"] == plan["warnings"], "nothing had to be told of it"
        scene.assert_runs()
        scene.assert_nothing_left()


def test_a_halted_vms_drive_has_what_its_plan_says(scene, isos, drive):
    """Its namesake, of another file name; and nothing where there is none."""
    scene.pool.xapi.VM.clean_shutdown(scene.pool.xapi.VM.get_by_uuid(scene.uuid))
    isos_back, ejected = {"A": "OpaqueRef:NULL", "B": isos["B"]}, []
    for pool in ("B", "A"):
        source, there = scene.host, scene.there
        if pool == "A":
            scene.lab.pool("A").xapi.VDI.set_name_label(isos["A"], "other.iso")
        plan = scene.call("migrate", **dict(scene.arguments(), **{"dry-run": "true"}))["plan"]
        ejected.append([NAME in text for text in plan["warnings"] if "the drive is empty" in text])
        entry = scene.ended(scene.begin(), source)
        assert entry["state"] == "succeeded", entry["error"]
        assert not entry.get("warnings"), "nothing had to be told of it"
        scene.host = there
        assert drive() == isos_back[pool]
    assert ejected == [[], [True]]
