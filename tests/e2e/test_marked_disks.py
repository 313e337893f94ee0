# SPDX-License-Identifier: LGPL-2.1-only
"""A running VM with a disk that is merely marked as sharable, which it writes to: it moves, live,
and keeps its mark, wherever it is in the end. One whose VDI is marked as read-only moves as well;
SM itself takes that mark off, at each scan of its SR."""

import pytest
import XenAPI

from lab.pools import vms
from lab.pools.topology import PoolPlan
from tests.e2e.moments import MOMENTS
from tests.e2e.records import BETWEEN, WITHIN, Watched
from tests.e2e.scene import MIB, Scene

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
SHARABLE, READ_ONLY = "1", "2"
SLOW = "2MiB"


@pytest.fixture(scope="module")
def scene(lab):
    scene = Scene(lab, (4 * MIB,))
    x, vm = scene.pool.xapi, scene.pool.xapi.VM.get_by_uuid(scene.uuid)
    x.VM.clean_shutdown(vm)
    of_first = x.VDI.get_record(x.VBD.get_VDI(x.VM.get_VBDs(vm)[0]))
    made = dict(of_first, virtual_size=str(8 * MIB), sm_config={}, other_config={})
    vms.attach_disk(x, vm, x.VDI.create(dict(made, sharable=True)), int(SHARABLE))
    vms.attach_disk(x, vm, x.VDI.create(dict(made, read_only=True)), int(READ_ONLY), "RO")
    scene.pool.start_vm(vm, scene.host.name)
    scene.wait_for_writes(30)
    x.pool.sync_database()
    return scene


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


def sharable(scene):
    """{device: whether it is marked so}"""
    x = scene.pool.xapi
    vdis = {x.VBD.get_userdevice(vbd): x.VBD.get_VDI(vbd) for vbd in scene.record["VBDs"]}
    return {device: x.VDI.get_sharable(vdi) for device, vdi in vdis.items()}


def disk_of(scene):
    """The ref of the VDI that is sharable."""
    x = scene.pool.xapi
    (vbd,) = [ref for ref in scene.record["VBDs"] if x.VBD.get_userdevice(ref) == SHARABLE]
    return x.VBD.get_VDI(vbd)


def assert_as_before(scene):
    assert sharable(scene) == {"0": False, SHARABLE: True, READ_ONLY: False}
    assert len(scene.guest.status()["disks"]) == 3
    scene.assert_runs()
    scene.assert_nothing_left()


def test_to_another_pool(scene, watched):
    with pytest.raises(XenAPI.Failure) as refused:
        scene.pool.xapi.VDI.snapshot(disk_of(scene), {})
    assert refused.value.details[0] == "VDI_IS_SHARABLE"
    with pytest.raises(XenAPI.Failure) as refused:
        scene.pool.xapi.VDI.set_sharable(disk_of(scene), False)
    assert refused.value.details[0] == "PERMISSION_DENIED"
    watched.begin()
    entry = scene.ended(scene.begin())
    assert entry["state"] == "succeeded", entry["error"]
    scene.host = scene.there
    watched.assert_alike(BETWEEN, lost=("VDI.read_only",))
    assert_as_before(scene)


def test_to_another_sr_of_its_host(scene, watched):
    for sr in ("big", "fast"):
        watched.begin()
        entry = scene.ended(scene.begin(**scene.within(sr)))
        assert entry["state"] == "succeeded", entry["error"]
        watched.assert_alike(WITHIN)
        assert_as_before(scene)


def test_a_worker_that_is_killed_in_mid_copy(scene):
    migration = scene.begin_and_kill(MOMENTS["copying"])
    assert scene.pool.xapi.VDI.get_sharable(disk_of(scene)) is False
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "taken back", answer
    assert_as_before(scene)


def test_a_cancel_in_mid_copy(scene):
    migration = scene.begin(**dict(scene.arguments(), bandwidth=SLOW))
    scene.until(migration, lambda entry: "copying" in str(entry["disks"]))
    scene.call("cancel", migration=migration)
    assert scene.ended(migration)["state"] == "cancelled"
    assert_as_before(scene)
