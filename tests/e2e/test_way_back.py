# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that goes where its base is already: it arrives as a clone of that, and only what differs
is sent. What differs is found by comparison, whatever the hint says."""

import os
import subprocess
from types import SimpleNamespace

import pytest

from lab.pools import at_switch, vms
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from tests.e2e.collector import Collector, stopped
from tests.e2e.moments import MOMENTS
from tests.e2e.records import BETWEEN, Watched
from tests.e2e.scene import MIB
from tests.e2e.snapshots import backing_of

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
SIZE = 32 * MIB
DISKS = (SIZE,)
BLOCK = 4096
CONVERT = 60.0


def disk_of(scene):
    """The VDI of its only disk."""
    (vdi,) = [scene.pool.xapi.VBD.get_VDI(vbd) for vbd in scene.record["VBDs"]]
    return vdi


def raw(scene, vdi, x=None):
    """What is in a VDI of the pool that the VM is in, or of that of the session `x`."""
    x = x or scene.pool.xapi
    locator = "%s/%s" % (x.SR.get_uuid(x.VDI.get_SR(vdi)), x.VDI.get_location(vdi))
    with at_switch.image(scene.lab.directory, locator) as path:
        copy = os.path.join(scene.lab.directory, "raw")
        line = ["qemu-img", "convert", "-U", "-O", "raw", path, copy]
        subprocess.run(line, check=True, timeout=CONVERT)
    with open(copy, "rb") as stream:
        found = stream.read()
    os.unlink(copy)
    return found


def shut_down(scene):
    scene.pool.xapi.VM.clean_shutdown(scene.pool.xapi.VM.get_by_uuid(scene.uuid))


def start(scene):
    scene.pool.start_vm(scene.pool.xapi.VM.get_by_uuid(scene.uuid), scene.host.name)


def changed(first, second):
    """Bytes of the blocks that differ."""
    assert len(first) == len(second)
    places = range(0, len(first), BLOCK)
    return BLOCK * sum(first[at : at + BLOCK] != second[at : at + BLOCK] for at in places)


def owned(pool, vdi):
    """Have a VM that never runs have a VDI, as a template has."""
    vms.attach_disk(pool.xapi, pool.create_vm("owner", []), vdi, 0)


def write(path, byte, length):
    """Fill the begin of an image."""
    line = ["qemu-io", "-f", "qcow2", "-c", "write -P %d 0 %d" % (byte, length), path]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, timeout=CONVERT)


@pytest.fixture(scope="module")
def lab():
    with Lab(plan=PLAN) as lab:
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
        yield lab


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


@pytest.fixture(scope="module")
def template(scene):
    """A VDI that shares with the VM's disk what was written to it, as a golden image does."""
    x = scene.pool.xapi
    shut_down(scene)
    made = x.VDI.clone(disk_of(scene), {})
    owned(scene.pool, made)
    start(scene)
    scene.wait_for_writes(40)
    return x.VDI.get_uuid(made)


def moved(scene, there):
    """A migration that succeeds; its journal."""
    entry = scene.ended(scene.begin())
    scene.host = there
    arrived(scene, entry)
    return entry


def arrived(scene, entry):
    """The VM runs there, and its disk was the same on both sides at the switch, every byte."""
    assert entry["state"] == "succeeded", entry["error"]
    scene.assert_runs()
    assert scene.host.xenopsd("VM.stat", id=scene.uuid)["migration"]["at_switch"]["exit"] == 0
    scene.assert_nothing_left()


def figures(entry):
    (disk,) = entry["plan"]["disks"]
    return disk["base_there"], disk["base_why"], entry["disks"][disk["key"]]


def test_back_to_where_its_template_stayed_only_what_changed_is_sent(scene, watched, template):
    x, home = scene.pool.xapi, scene.host
    was = raw(scene, x.VDI.get_by_uuid(template))
    base, _, there = figures(moved(scene, scene.there))
    assert base == "" and there["same"] == 0
    scene.wait_for_writes(40)
    plan = scene.call("migrate", **dict(scene.arguments(), **{"dry-run": "true"}))["plan"]
    assert [disk["base_there"] for disk in plan["disks"]] == [template]
    watched.begin()
    base, why, back = figures(moved(scene, home))
    watched.assert_alike(BETWEEN)
    assert base == template and why.startswith("both come from VDI "), why
    shut_down(scene)
    differs = changed(was, raw(scene, disk_of(scene)))
    print("sent %d bytes, of %d that differ, of %d" % (back["copied"], differs, SIZE))
    assert 0 < back["copied"] <= 1.05 * differs < there["copied"] + there["mirrored_bytes"]
    x = scene.pool.xapi
    shared = backing_of(scene.lab, scene.pool, disk_of(scene))
    assert set(shared) & set(backing_of(scene.lab, scene.pool, x.VDI.get_by_uuid(template)))
    assert raw(scene, x.VDI.get_by_uuid(template)) == was, "it is nobody's but its owner's"
    start(scene)
    scene.assert_runs()


def test_a_base_of_other_contents_below_which_sm_merges_makes_no_difference(scene, template):
    """It is named by hand, is full of something else, and has what the disk has as zeros. What its
    owner has left below it SM's collector merges when the disk is in sync: that is seen before the
    VM moves, and the disk compared anew."""
    there, pool = scene.there, scene.lab.pool("B")
    x = pool.xapi
    vdi = vms.create_disk(x, pool.sr(there.name, "fast"), "other", SIZE)
    owned(pool, vdi)
    uuid = x.VDI.get_uuid(vdi)
    path = "%s/srs/fast/%s.qcow2" % (there.root, uuid)
    write(path, 0x5A, SIZE)
    snapshot = x.VDI.snapshot(vdi, {})
    write(path, 0x5B, 4 * MIB)
    x.VDI.destroy(snapshot)
    collector = Collector(SimpleNamespace(host=there, pool=pool))
    key = scene.pool.xapi.VDI.get_uuid(disk_of(scene))
    given = dict(scene.arguments(), **{"base:" + key: uuid})
    with stopped(scene, MOMENTS["in-sync"], **given) as migration:
        assert any(line.startswith("Coalescing ") for line in collector.run())
    entry = scene.ended(migration)
    base, why, disk = figures(entry)
    assert (base, why, entry["tries"]) == (uuid, "it is named", 1)
    scene.host = there
    arrived(scene, entry)
    assert raw(scene, vdi) == b"\x5b" * (4 * MIB) + b"\x5a" * (SIZE - 4 * MIB)


def test_of_a_vdi_that_is_given_to_be_filled_only_what_differs_is_written(scene, template):
    """It has what the disk was once, on images that are the template's, too. It is full of
    something else where the disk has other than that."""
    there = scene.there
    x = scene.lab.pool("A").xapi
    given = x.VDI.clone(x.VDI.get_by_uuid(template), {})
    was = raw(scene, given, x)
    key = scene.pool.xapi.VDI.get_uuid(disk_of(scene))
    arguments = dict(scene.arguments(), **{"vdi:" + key: x.VDI.get_uuid(given)})
    entry = scene.ended(scene.begin(**arguments))
    scene.host = there
    arrived(scene, entry)
    (disk,) = entry["disks"].values()
    assert x.VDI.get_uuid(disk_of(scene)) == x.VDI.get_uuid(given)
    shut_down(scene)
    differs = changed(was, raw(scene, given))
    print("sent %d bytes, of %d that differ, of %d" % (disk["copied"], differs, SIZE))
    assert 0 < disk["copied"] <= 1.05 * differs and disk["same"] > 0
    assert raw(scene, x.VDI.get_by_uuid(template)) == was, "it is nobody's but its owner's"
