# SPDX-License-Identifier: LGPL-2.1-only
"""More of everything than a VM has most often: seventeen disks; a disk of 4 TiB, which no VHD can
be; thirty snapshots. The memory of each process stays bounded."""

import os
import subprocess

import pytest

from lab.pools import at_switch
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from tests.e2e import memory
from tests.e2e.scene import MIB, MOVE, Scene
from tests.e2e.snapshots import Tree

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = 17
SIZE = 4 << 40
REACH = 4 * MIB  # of the large disk, by the guest
SNAPSHOTS, FORK, BACK_TO = 30, 20, 9  # before the one FORK the VM goes back to the one BACK_TO
MANY = 600.0  # seconds for as many: each is a second or two of short programs, on two idle cores
PLACES = (REACH, (2 << 40) - 65536, SIZE - 65536)  # beyond that, in the large disk
LARGE = {"writes": 20, "fill": 0.3, "reach": REACH}
QEMU_IO = 60.0


@pytest.fixture(scope="module")
def lab():
    with Lab(plan=PLAN, release="xcp-ng-8.3") as lab:
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
        yield lab


@pytest.fixture
def made(lab):
    """A function that makes the Scene of a test; its VM is shut down afterwards, as its guest would
    write beside the others."""
    scenes = []

    def make(*arguments, **settings):
        scenes.append(Scene(lab, *arguments, **settings))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.pool.xapi.VM.hard_shutdown(scene.pool.xapi.VM.get_by_uuid(scene.uuid))


def arrived(scene, timeout=MOVE):
    """It moves to the other pool, with all that was on its disks at the switch. Its journal."""
    there = scene.there
    with memory.bounded(scene.lab, len(scene.record["VBDs"])):
        entry = scene.ended(scene.begin(), timeout=timeout)
    assert entry["state"] == "succeeded", entry["error"]
    figures = there.xenopsd("VM.stat", id=scene.uuid)["migration"]
    assert figures["at_switch"]["exit"] == 0, figures
    scene.host = there
    scene.assert_runs()
    scene.assert_nothing_left()
    return entry


def images(scene):
    """The paths of the images of the VM's disks."""
    api = scene.pool.xapi
    for vbd in scene.record["VBDs"]:
        vdi = api.VDI.get_record(api.VBD.get_VDI(vbd))
        locator = "%s/%s" % (api.SR.get_uuid(vdi["SR"]), vdi["location"])
        with at_switch.image(scene.lab.directory, locator) as path:
            yield path


def qemu_io(path, *commands):
    """By qemu-io, on an image that nobody has open, or reads."""
    line = ["qemu-io", "-f", "qcow2"] + [word for one in commands for word in ("-c", one)]
    done = subprocess.run(line + [path], stdout=subprocess.PIPE, check=True, timeout=QEMU_IO)
    assert b"failed" not in done.stdout, done.stdout


@pytest.mark.timeout(300)
def test_seventeen_disks(made):
    scene = made((2 * MIB,) * DISKS, guest={"writes": 2, "fill": 0.5, "workers": 1})
    entry = arrived(scene)
    assert len(entry["disks"]) == len(scene.guest.status()["disks"]) == DISKS


@pytest.mark.timeout(300)
def test_four_tebibytes_of_a_running_vm(made):
    scene = made((SIZE,), guest=LARGE)
    scene.pool.xapi.VM.clean_shutdown(scene.pool.xapi.VM.get_by_uuid(scene.uuid))
    (image,) = images(scene)
    qemu_io(image, *["write -P 0x5a %d 64k" % place for place in PLACES])
    scene.pool.start_vm(scene.pool.xapi.VM.get_by_uuid(scene.uuid), scene.host.name)
    arrived(scene)
    (image,) = images(scene)
    assert image.endswith(".qcow2") and os.stat(image).st_blocks * 512 < 64 * MIB


class Many(Tree):
    """The VM of a scene with SNAPSHOTS snapshots of one disk, each of which differs from the one
    before. They make two branches, as SM makes no chain of more than 30 images."""

    def __init__(self, scene):
        self.scene = scene
        x, below = scene.pool.xapi, list(range(-1, SNAPSHOTS - 1))
        below[FORK] = BACK_TO
        names = ["snapshot %02d" % number for number in range(SNAPSHOTS)]
        self.ON = [(names[number], names[below[number]]) for number in range(1, SNAPSHOTS)]
        self.ON.append((None, names[-1]))
        x.VM.clean_shutdown(self.vm)
        for number, name in enumerate(names):
            if number == FORK:
                x.VM.revert(self.snapshots()[names[BACK_TO]])
            (image,) = images(scene)
            qemu_io(image, "write -P %d %dk 4k" % (number + 1, 1024 + 4 * number))
            x.VM.snapshot(self.vm, name)
        self.taken = self.described()


@pytest.mark.timeout(900)
def test_many_snapshots_of_one_disk(made):
    """They arrive as the tree that they were, with what was in each, and an image for each."""
    scene = made((2 * MIB,), guest={"writes": 10, "fill": 1, "workers": 1, "reach": MIB})
    tree = Many(scene)
    digests = {taken[4]["0"][2] for name, taken in tree.taken.items() if name != "the VM"}
    assert len(digests) == SNAPSHOTS
    scene.pool.start_vm(tree.vm, scene.host.name)
    entry = arrived(scene, MANY)
    assert tree.described() == tree.taken
    tree.assert_chains()
    history = entry["plan"]["history"]
    assert len(history) == len(scene.record["snapshots"]) == SNAPSHOTS
    assert [disk["base"] for disk in history].count("") == 1
    assert entry["plan"]["disks"][0]["base"]
