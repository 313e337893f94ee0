# SPDX-License-Identifier: LGPL-2.1-only
"""A checkpoint of a VM moves with it to another pool, with the image of its memory, from which the
VM goes on there; interrupted, all of it is at one of the two ends. What xapi says of all of it
differs afterwards in what docs/what-moves.md lists."""

import pytest

from lab.pools.topology import PoolPlan
from tests.e2e.records import BETWEEN, WITHIN, Watched
from tests.e2e.scene import MIB
from tests.e2e.snapshots import WithCheckpoint

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = (8 * MIB,)


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


@pytest.fixture(scope="module")
def tree(scene, watched):
    return WithCheckpoint(scene)


def assert_as_it_was(scene, tree):
    scene.assert_runs()
    assert tree.described() == tree.taken
    tree.assert_chains()
    scene.assert_nothing_left()


def test_live_to_another_pool_and_resumed_from_it_there(scene, tree, watched):
    gone, there = tree.gone(), scene.there
    watched.begin()
    entry = scene.ended(scene.begin())
    assert entry["state"] == "succeeded", entry["error"]
    scene.host = there
    watched.assert_alike(BETWEEN, lost=("VM.suspend_SR",))
    assert_as_it_was(scene, tree)
    gone()
    tree.resume_from_it()
    assert_as_it_was(scene, tree)


def test_live_within_its_pool_and_resumed_from_it(scene, tree, watched):
    """A checkpoint keeps its VBDs and its image, and has other disks."""
    x, gone = scene.pool.xapi, tree.gone()
    checkpoint = tree.snapshots()["awake"]
    kept = x.VM.get_VBDs(checkpoint), x.VM.get_suspend_VDI(checkpoint)
    images = {x.VDI.get_uuid(kept[1])}
    watched.begin()
    entry = scene.ended(scene.begin(**scene.within(tree.other_sr())))
    assert entry["state"] == "succeeded", entry["error"]
    watched.assert_alike(WITHIN)
    assert_as_it_was(scene, tree)
    assert (x.VM.get_VBDs(checkpoint), x.VM.get_suspend_VDI(checkpoint)) == kept
    gone(records=False, but=images)
    tree.resume_from_it()
    assert_as_it_was(scene, tree)


def test_taken_out_again_where_it_had_come(scene, tree):
    migration = scene.begin_and_kill(("migration", "imported", (True,), True))
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "taken back", answer
    assert_as_it_was(scene, tree)


def test_halted_with_a_worker_that_is_killed_as_it_cleans_up(scene, tree, watched):
    there, gone = scene.there, tree.gone()
    scene.pool.xapi.VM.clean_shutdown(tree.vm)
    watched.begin()
    migration = scene.begin_and_kill(("migration", "phase", ("clean-up",), True))
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "moved", answer
    scene.host = there
    watched.assert_alike(BETWEEN, lost=("VM.suspend_SR",))
    gone()
    scene.pool.start_vm(tree.vm, there.name)
    assert_as_it_was(scene, tree)


def test_dropped_with_its_image(scene, tree):
    """The last of this module: the VM has none any more."""
    gone, there = tree.gone(), scene.there
    entry = scene.ended(scene.begin(**dict(scene.arguments(), snapshots="drop")))
    assert entry["state"] == "succeeded", entry["error"]
    assert len(entry["plan"]["dropped"]) == 2 and entry["plan"]["history"] == []
    scene.host = there
    scene.assert_runs()
    assert tree.snapshots() == {}
    gone()
    scene.assert_nothing_left()
