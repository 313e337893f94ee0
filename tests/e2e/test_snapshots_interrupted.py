# SPDX-License-Identifier: LGPL-2.1-only
"""A migration of a VM with snapshots that is interrupted while their disks are sent, or behind the
point of no return: all of it is at one of the two ends, snapshots as they were."""

import pytest

from lab.dom0 import dying_create
from lab.pools.link import Link
from lab.pools.topology import PoolPlan
from tests.e2e.scene import MIB
from tests.e2e.snapshots import Tree

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = (8 * MIB,)
RATE = 1 * MIB  # bytes a second


@pytest.fixture(scope="module")
def tree(scene):
    return Tree(scene)


def assert_as_it_was(scene, tree):
    scene.assert_runs()
    assert tree.described() == tree.taken
    tree.assert_chains()
    scene.assert_nothing_left()


def of_snapshot(entry, number):
    return entry["disks"][entry["plan"]["history"][number]["key"]]


@pytest.mark.parametrize(
    "when, moves",
    [
        (("snapshot 0", "mover", (None,), False), False),
        (("snapshot 1", "destination_vdi", (None,), False), False),
        (("snapshot 1", "state", ("kept",), True), False),
        (("disk 0", "destination_vdi", (None,), False), False),
        (("migration", "imported", (True,), True), False),
        (("migration", "phase", ("complete",), True), True),
        (("migration", "phase", ("clean-up",), True), True),
    ],
)
def test_worker_killed(scene, tree, when, moves):
    there, gone, migration = scene.there, tree.gone(), scene.begin_and_kill(when)
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == ("moved" if moves else "taken back"), answer
    scene.host = there if moves else scene.host
    assert_as_it_was(scene, tree)
    if moves:
        gone()


def test_cancelled_while_the_disk_of_a_snapshot_is_copied(scene, tree):
    with Link(scene.lab.hosts) as link:
        link.limit(RATE)
        migration = scene.begin()
        scene.until(migration, lambda entry: of_snapshot(entry, 0)["state"] == "copying")
        assert scene.call("cancel", migration=migration)["state"] == "cancelled"
    assert scene.ended(migration)["left"] == []
    assert_as_it_was(scene, tree)


def test_sm_is_killed_when_it_has_cloned_an_image_and_not_told_xapi(scene, tree):
    dying_create.arm(scene.there.root, "vdi_clone")
    try:
        entry = scene.ended(scene.begin())
    finally:
        died = dying_create.disarm(scene.there.root)
    assert died and entry["state"] == "failed" and entry["left"] == [], entry["error"]
    assert_as_it_was(scene, tree)


def test_a_mover_that_is_killed_costs_one_disk_of_a_snapshot_a_try(scene, tree):
    there, gone = scene.there, tree.gone()
    with Link(scene.lab.hosts) as link:
        link.limit(RATE)
        migration = scene.begin()
        entry = scene.until(migration, lambda entry: of_snapshot(entry, 1)["state"] == "copying")
        scene.kill(of_snapshot(entry, 1)["mover"])
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded" and entry["tries"] == 1, entry["error"]
    scene.host = there
    assert_as_it_was(scene, tree)
    gone()


@pytest.mark.parametrize(
    "when, before",
    [
        (("snapshot 1", "vbd", (None,), False), False),
        (("migration", "phase", ("end",), True), True),
    ],
)
def test_worker_killed_while_the_snapshots_get_their_disks_within_the_pool(
    scene, tree, when, before
):
    """What a VBD is like is noted, and it may be gone already."""
    gone = tree.gone()
    migration = scene.begin_and_kill(when, scene.within(tree.other_sr()), before=before)
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "moved", answer
    assert_as_it_was(scene, tree)
    gone(records=False)


@pytest.mark.parametrize("side", ["here", "there"])
def test_a_xapi_that_is_killed_while_the_disk_of_a_snapshot_is_copied(scene, tree, side):
    """With what it had not written to disk. What is kept was on disk before."""
    there, gone = scene.there, tree.gone()
    with Link(scene.lab.hosts) as link:
        link.limit(RATE)
        migration = scene.begin()
        scene.until(migration, lambda entry: of_snapshot(entry, 1)["state"] == "copying")
        host = {"here": scene.host, "there": there}[side]
        host.kill("xapi")
        host.start_xapi()
        for pool in scene.lab.pools:
            pool.forget_session()
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded" and entry["left"] == [], entry["error"]
    scene.host = there
    assert_as_it_was(scene, tree)
    gone()


@pytest.mark.parametrize("phase, moves", [("adopt", False), ("clean-up", True)])
def test_worker_killed_with_the_vm_halted(scene, tree, phase, moves):
    there = scene.there
    scene.pool.xapi.VM.clean_shutdown(tree.vm)
    migration = scene.begin_and_kill(("migration", "phase", (phase,), True))
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == ("moved" if moves else "taken back"), answer
    scene.host = there if moves else scene.host
    scene.pool.start_vm(tree.vm, scene.host.name)
    assert_as_it_was(scene, tree)


def test_dropped_they_go_with_the_vm(scene, tree):
    """The last of this module: the VM has none any more."""
    gone, there = tree.gone(), scene.there
    arguments = dict(scene.arguments(), snapshots="drop")
    plan = scene.call("migrate", **dict(arguments, **{"dry-run": "true"}))["plan"]
    told = [text for text in plan["warnings"] if "does not come along, and is deleted" in text]
    assert len(told) == 3 and len(plan["dropped"]) == 3 and plan["history"] == []
    entry = scene.ended(scene.begin(**arguments))
    assert entry["state"] == "succeeded", entry["error"]
    scene.host = there
    scene.assert_runs()
    assert tree.snapshots() == {} and scene.record["parent"] == "OpaqueRef:NULL"
    gone()
    scene.assert_nothing_left()
