# SPDX-License-Identifier: LGPL-2.1-only
"""Disks that the VM has read-only: live and halted, between pools and within one, with a worker
that is killed, and a cancel."""

import pytest

from lab.pools import at_switch
from lab.pools.lab import Lab
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import MIB, Scene, assert_nothing_older

DISKS = (16 * MIB, 12 * MIB)
KIND = "1"  # the device of the disk that is not as the others


class Kinds(Scene):
    """A VM with a writable disk, and one more of which it has written a part before, and which it
    has read-only now."""

    def __init__(self, lab):
        super().__init__(lab, DISKS)
        self.taken = self.guest.records()
        self.halt()
        self.pool.xapi.VBD.set_mode(self.vbd, "RO")
        self.start()

    @property
    def vm(self):
        return self.pool.xapi.VM.get_by_uuid(self.uuid)

    @property
    def vbd(self):
        """The ref of that disk's VBD."""
        api = self.pool.xapi.VBD
        (found,) = [ref for ref in self.record["VBDs"] if api.get_userdevice(ref) == KIND]
        return found

    @property
    def vdi(self):
        """The record of that disk's VDI."""
        return self.pool.xapi.VDI.get_record(self.pool.xapi.VBD.get_VDI(self.vbd))

    def halt(self):
        self.pool.xapi.VM.clean_shutdown(self.vm)

    def start(self):
        """Where its disks are."""
        self.pool.start_vm(self.vm, self.host.name)
        self.wait_for_writes(20)
        assert_nothing_older(self.guest.records(), self.taken)

    def assert_as_before(self):
        """It runs, with all on the disk that it had, which is what it was."""
        self.assert_runs()
        assert self.pool.xapi.VBD.get_mode(self.vbd) == "RO"
        assert_nothing_older(self.guest.records(), self.taken)
        self.assert_nothing_left()


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
        yield lab


@pytest.fixture(scope="module")
def scene(lab):
    return Kinds(lab)


def moved(scene, migration, host):
    """It comes to its end, at that host. Its journal."""
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    figures = host.xenopsd("VM.stat", id=scene.uuid)["migration"]
    assert figures["at_switch"]["exit"] == 0, figures
    scene.host = host
    scene.assert_as_before()
    return entry


def test_live_to_another_pool_and_back(scene):
    entry = moved(scene, scene.begin(), scene.there)
    (key,) = [disk["key"] for disk in entry["plan"]["disks"] if disk["read_only"]]
    assert entry["disks"][key].get("snapshot") is None
    moved(scene, scene.begin(), scene.there)


@pytest.mark.parametrize("sr", ["big", "fast"])
def test_live_to_another_sr_of_its_host(scene, sr):
    before = scene.vdi["uuid"]
    moved(scene, scene.begin(**scene.within(sr)), scene.host)
    assert scene.vdi["uuid"] != before


def test_halted_to_another_sr(scene):
    scene.halt()
    entry = scene.ended(scene.begin(**scene.within("big")))
    assert entry["state"] == "succeeded", entry["error"]
    scene.start()
    scene.assert_as_before()


@pytest.mark.parametrize("moment", ["copying", "open"])
def test_a_worker_that_is_killed(scene, moment):
    there = scene.there
    migration = scene.begin_and_kill(MOMENTS[moment])
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == {"copying": "taken back", "open": "moved"}[moment], answer
    scene.host = there if moment == "open" else scene.host
    scene.assert_as_before()


def test_a_cancel_in_mid_copy(scene):
    migration = scene.begin(**dict(scene.arguments(), bandwidth="1MiB"))
    scene.until(migration, lambda entry: "copying" in str(entry["disks"]))
    scene.call("cancel", migration=migration)
    assert scene.ended(migration)["state"] == "cancelled"
    scene.assert_as_before()
