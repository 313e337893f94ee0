# SPDX-License-Identifier: LGPL-2.1-only
"""Disks that the VM has read-only, or not plugged: live and halted, between pools and within one,
with a worker that is killed, and a cancel."""

import pytest
import XenAPI

from lab.pools import at_switch, vms
from lab.pools.lab import Lab
from storage_motion.dom0.launch import Process
from tests.e2e import gate_patience
from tests.e2e.kinds_of_disks import ReadOnly, Unplugged
from tests.e2e.moments import MOMENTS
from tests.e2e.records import BETWEEN, WITHIN, Watched
from tests.e2e.scene import task_ended

SLOW = {"bandwidth": "1MiB"}
PATIENCE = 3  # seconds for which SM waits for a disk that is locked


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
        yield lab


@pytest.fixture(scope="module", params=[ReadOnly, Unplugged], ids=["read-only", "unplugged"])
def scene(lab, request):
    return request.param(lab)


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


def moved(scene, migration, host):
    """It comes to its end, at that host. Its journal."""
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    figures = host.xenopsd("VM.stat", id=scene.uuid)["migration"]
    assert figures["at_switch"]["exit"] == 0, figures
    scene.host = host
    scene.assert_as_before()
    return entry


def of_kind(entry):
    """The journal's entry of that disk."""
    (key,) = [
        disk["key"] for disk in entry["plan"]["disks"] if disk["read_only"] or disk["unplugged"]
    ]
    return entry["disks"][key]


def test_live_to_another_pool_and_back(scene, watched):
    watched.begin()
    entry = moved(scene, scene.begin(), scene.there)
    watched.assert_alike(BETWEEN)
    assert of_kind(entry).get("snapshot") is None
    moved(scene, scene.begin(), scene.there)


@pytest.mark.parametrize("sr", ["big", "fast"])
def test_live_to_another_sr_of_its_host(scene, watched, sr):
    before = scene.vdi["uuid"]
    watched.begin()
    moved(scene, scene.begin(**scene.within(sr)), scene.host)
    watched.assert_alike(WITHIN)
    assert scene.vdi["uuid"] != before


@pytest.mark.parametrize("scene", [ReadOnly], ids=["read-only"], indirect=True)
def test_halted_to_another_sr(scene, watched):
    """Of a halted VM no disk is plugged: an unplugged one is as any other there."""
    scene.halt()
    watched.begin()
    entry = scene.ended(scene.begin(**scene.within("big")))
    assert entry["state"] == "succeeded", entry["error"]
    watched.assert_alike(WITHIN)
    scene.start()
    scene.assert_as_before()


@pytest.mark.parametrize("moment, outcome", [("copying", "taken back"), ("complete", "moved")])
def test_a_worker_that_is_killed(scene, moment, outcome):
    there = scene.there
    migration = scene.begin_and_kill(MOMENTS[moment])
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == outcome, answer
    scene.host = there if outcome == "moved" else scene.host
    scene.assert_as_before()


def test_one_that_is_killed_as_the_first_gate_is_open(scene):
    """That of an unplugged disk opens while the VM still runs at the source, and is shut again.
    That of a read-only one opens as the VM moves."""
    there = scene.there
    # the smallest one, which comes first in the plan
    migration = scene.begin_and_kill(("disk 0", "gate", ["open"], True))
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == ("moved" if scene.plugged else "taken back"), answer
    scene.host = there if scene.plugged else scene.host
    scene.assert_as_before()


def test_a_cancel_in_mid_copy(scene):
    migration = scene.begin(**dict(scene.arguments(), **SLOW))
    scene.until(migration, lambda entry: of_kind(entry)["state"] == "copying")
    scene.call("cancel", migration=migration)
    assert scene.ended(migration)["state"] == "cancelled"
    scene.assert_as_before()


def test_the_guest_reboots_in_mid_copy(scene):
    migration = scene.begin(**dict(scene.arguments(), **SLOW))
    scene.until(migration, lambda entry: of_kind(entry)["state"] == "copying")
    source, there = scene.host, scene.there
    task = source.xenopsd("VM.reboot", id=scene.uuid, delay=60.0)
    assert task_ended(source, task)[0] == "Completed"
    scene.call("limit", source, migration=migration, bandwidth="0")
    moved(scene, migration, there)


@pytest.mark.parametrize("state", ["copying", "in-sync"])
def test_nobody_writes_to_it_in_mid_move(scene, state):
    """Another VM that is given it cannot be started; the move goes on."""
    migration, api = scene.begin(**dict(scene.arguments(), **SLOW)), scene.pool.xapi
    scene.until(migration, lambda entry: of_kind(entry)["state"] == state)
    other = scene.pool.create_vm("other", [])
    vms.attach_disk(api, other, api.VBD.get_VDI(scene.vbd), 0)
    with gate_patience.of([scene.host], PATIENCE), pytest.raises(XenAPI.Failure):
        scene.pool.start_vm(other, scene.host.name)
    api.VM.destroy(other)
    worker = scene.journal(migration)["worker"]
    assert Process.from_json(worker).alive()
    scene.call("limit", migration=migration, bandwidth="0")
    moved(scene, migration, scene.there)


@pytest.fixture
def refused_plug(scene):
    """A function that begins a migration, in which the VM's own disk cannot be plugged; its id. To
    xapi the VBD is plugged since, as it is where xenopsd has failed to plug one."""

    def begin():
        migration, api = scene.begin(**dict(scene.arguments(), **SLOW)), scene.pool.xapi.VBD
        scene.until(migration, lambda entry: of_kind(entry)["state"] == "copying")
        with gate_patience.of([scene.host], PATIENCE), pytest.raises(XenAPI.Failure):
            api.plug(scene.vbd)
        assert api.get_currently_attached(scene.vbd)
        return migration

    return begin


@pytest.mark.parametrize("scene", [Unplugged], ids=["unplugged"], indirect=True)
def test_it_cannot_be_plugged_before_the_end_of_the_move(scene, refused_plug):
    migration, there = refused_plug(), scene.there
    scene.pool.xapi.VBD.unplug(scene.vbd)
    scene.call("limit", migration=migration, bandwidth="0")
    moved(scene, migration, there)
    api, vbd = scene.pool.xapi.VBD, scene.vbd
    api.plug(vbd)
    assert api.get_currently_attached(vbd)
    (disk,) = [
        one for one in there.xenopsd("VM.stat", id=scene.uuid)["disks"] if one["device"] == "xvdb"
    ]
    assert disk["plugged"], "SM has opened it"
    api.unplug(vbd)
    scene.assert_as_before()


@pytest.mark.parametrize("scene", [Unplugged], ids=["unplugged"], indirect=True)
def test_one_that_xapi_has_as_plugged_ends_the_move(scene, refused_plug):
    migration = refused_plug()
    scene.call("limit", migration=migration, bandwidth="0")
    entry = scene.ended(migration)
    assert entry["state"] == "failed" and entry["error"][0] == "SXM_VM_CHANGED", entry["error"]
    assert "disk %s was plugged" % scene.vdi["uuid"] in str(entry["error"])
    scene.pool.xapi.VBD.unplug(scene.vbd)
    scene.assert_as_before()
