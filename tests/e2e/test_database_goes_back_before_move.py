# SPDX-License-Identifier: LGPL-2.1-only
"""A xapi that is killed before the guest's suspend, and has forgotten what the migration had just
noted: the worker makes that again, and goes on.

With the worker held behind the very write of its journal. The databases of this lab are written
upon pool.sync_database alone.
"""

import os

import pytest

from lab.dom0 import breakpoint
from tests.e2e import moments
from tests.e2e.scene import MOVE
from tests.e2e.test_database_goes_back import PLAN, forget, is_whole, lab, scene  # noqa: F401

MOMENTS = {
    # moment: (the write of the journal, whose xapi is killed)
    "claimed": (moments.MOMENTS["receive"], "a1"),
    "received": (("disk", "destination_vdi", [None], False), "b1"),
    "snapshotted": (("disk", "snapshot", [None], False), "a1"),
    "copying": (moments.MOMENTS["copying"], "a1"),
    "copying there": (moments.MOMENTS["copying"], "b1"),
    "importing": (("migration", "imported", [True], True), "b1"),
    "imported": (moments.MOMENTS["move"], "b1"),
    "about to lock": (("migration", "locked", [[]], True), "b1"),
    "about to be asked": (("migration", "xenops_task", ["starting"], True), "b1"),
    "about to be asked, source": (("migration", "xenops_task", ["starting"], True), "a1"),
    "about to lock, source": (("migration", "locked", [[]], True), "a1"),
}
FEW = ("received", "snapshotted", "imported", "about to be asked")
NAMES = [name for name in MOMENTS if os.environ.get("DATABASE_ALL") or name in FEW]


def moved_all_the_same(lab, scene, when, killed, begin):
    """It succeeds, and nothing of that is forgotten."""
    with breakpoint.held(scene.host.root, when, begin, scene.journal, MOVE) as migration:
        forget(lab, killed)
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    assert all("renewed" not in disk or not disk["renewed"] for disk in entry["disks"].values()), (
        "no mirror was broken by it"
    )
    is_whole(scene, {})
    assert scene.host.name == "b1"
    forget(lab, "a1", "b1")
    is_whole(scene, {})


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_live_move(lab, scene, name):
    when, killed = MOMENTS[name]
    moved_all_the_same(lab, scene, when, killed, scene.begin)


@pytest.mark.timeout(600)
def test_a_disk_of_the_users_that_is_filled(lab, scene):
    """Its record is on disk; that it was taken, and shut, is not."""
    here, there = scene.pool.xapi, lab.pool("B")
    (vbd,) = [ref for ref in scene.record["VBDs"] if here.VBD.get_type(ref) == "Disk"]
    vdi = here.VBD.get_VDI(vbd)
    own = there.xapi.VDI.create(
        {
            "SR": there.sr("b1", "big"),
            "virtual_size": here.VDI.get_virtual_size(vdi),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "name_label": "the user's",
            "name_description": "",
            "xenstore_data": {},
            "sm_config": {},
            "tags": [],
        }
    )
    there.xapi.pool.sync_database()
    arguments = dict(
        scene.arguments(), **{"vdi:" + here.VDI.get_uuid(vdi): there.xapi.VDI.get_uuid(own)}
    )
    when, killed = MOMENTS["received"]
    moved_all_the_same(lab, scene, when, killed, lambda: scene.begin(**arguments))
