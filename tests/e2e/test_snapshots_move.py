# SPDX-License-Identifier: LGPL-2.1-only
"""Snapshots of a VM move with it: what is in each of their disks, the tree that they make, and the
chain that their images are. There, the VM can go back to one, and have another one taken. What
xapi says of all of it differs afterwards in what docs/what-moves.md lists, and in nothing else."""

import pytest

from lab.pools.topology import PoolPlan
from tests.e2e.records import BETWEEN, WITHIN, Watched, listed
from tests.e2e.scene import MIB
from tests.e2e.snapshots import Tree, contents

PLAN = (PoolPlan("A", ("a1", "a2"), False), PoolPlan("B", ("b1",), False))
DISKS = (16 * MIB, 8 * MIB)


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


@pytest.fixture(scope="module")
def tree(scene, watched):
    return Tree(scene)


def arrived(scene, tree, watched, kind, entry, host):
    assert entry["state"] == "succeeded", entry["error"]
    scene.host = host
    watched.assert_alike(kind)
    scene.assert_runs()
    assert tree.described() == tree.taken
    tree.assert_chains()
    scene.assert_nothing_left()


def assert_sent_about(entry, disks, occupied):
    """Of these disks of the plan no more was sent than 1.1 times what their chains occupy."""
    sent = sum(entry["disks"][disk["key"]]["copied"] for disk in disks)
    print("sent %d bytes, of chains that occupy %d, of %d disks" % (sent, occupied, len(disks)))
    assert 0 < sent <= 1.1 * occupied


def test_to_another_pool_and_back_to_a_snapshot_there(scene, tree, watched):
    """Of the snapshots' disks about what their chains occupy is sent. The VM writes to its own."""
    gone, there = tree.gone(), scene.there
    watched.begin()
    occupied = tree.occupied(own=False)
    entry = scene.ended(scene.begin())
    arrived(scene, tree, watched, BETWEEN, entry, there)
    gone()
    of_history = [entry["disks"][disk["key"]] for disk in entry["plan"]["history"]]
    assert len(of_history) == 6 and all(disk["state"] == "kept" for disk in of_history)
    assert_sent_about(entry, entry["plan"]["history"], occupied)
    based = [disk for disk in entry["plan"]["history"] + entry["plan"]["disks"] if disk["base"]]
    assert len(based) == 6
    tree.go_back("first")
    tree.take("another")
    assert "another" in tree.snapshots()
    scene.assert_runs()
    tree.taken = tree.described()


def test_halted_back_again(scene, tree, watched):
    gone, there = tree.gone(), scene.there
    scene.pool.xapi.VM.clean_shutdown(tree.vm)
    watched.begin()
    own = {
        device: contents(scene.lab, scene.pool, vdi) for device, vdi in tree.disks(tree.vm).items()
    }
    occupied = tree.occupied()
    entry = scene.ended(scene.begin())
    assert entry["state"] == "succeeded", entry["error"]
    scene.host = there
    watched.assert_alike(BETWEEN)
    assert_sent_about(entry, entry["plan"]["history"] + entry["plan"]["disks"], occupied)
    assert tree.described() == tree.taken
    tree.assert_chains()
    assert own == {
        device: contents(scene.lab, scene.pool, vdi) for device, vdi in tree.disks(tree.vm).items()
    }
    gone()
    scene.pool.start_vm(tree.vm, there.name)
    scene.assert_runs()
    scene.assert_nothing_left()


def within(scene, tree, watched, **arguments):
    """A move within the pool: the snapshots are the same VMs, on other disks."""
    gone, host = tree.gone(), scene.lab.host(arguments.pop("to", scene.host.name))
    watched.begin()
    entry = scene.ended(scene.begin(**dict(arguments, vm=scene.uuid)))
    arrived(scene, tree, watched, WITHIN, entry, host)
    gone(records=False)


def test_to_another_sr_of_its_host(scene, tree, watched):
    within(scene, tree, watched, **scene.within(tree.other_sr()))


def test_to_another_host_of_its_pool(scene, tree, watched):
    pool = scene.pool
    sr = pool.xapi.SR.get_uuid(pool.sr("a2", "fast"))
    host = scene.lab.host("a2").uuid
    within(scene, tree, watched, to="a2", **{"destination-sr-uuid": sr, "host-uuid": host})
    sr = pool.xapi.SR.get_uuid(pool.sr("a1", "fast"))
    host = scene.lab.host("a1").uuid
    within(scene, tree, watched, to="a1", **{"destination-sr-uuid": sr, "host-uuid": host})


def test_halted_to_another_sr(scene, tree, watched):
    gone = tree.gone()
    scene.pool.xapi.VM.clean_shutdown(tree.vm)
    watched.begin()
    entry = scene.ended(scene.begin(**scene.within(tree.other_sr())))
    assert entry["state"] == "succeeded", entry["error"]
    watched.assert_alike(WITHIN)
    assert tree.described() == tree.taken
    gone(records=False)
    scene.pool.start_vm(tree.vm, scene.host.name)
    scene.assert_runs()
    scene.assert_nothing_left()
    tree.go_back("branch")


@pytest.mark.parametrize("kind", [BETWEEN, WITHIN])
def test_the_page_lists_no_more_than_differs(watched, kind):
    """In one of the moves above at least."""
    assert listed(kind, ("yes",)) - watched.seen[kind] == set()
