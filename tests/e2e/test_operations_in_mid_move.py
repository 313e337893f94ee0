# SPDX-License-Identifier: LGPL-2.1-only
"""What an administrator may try with a VM in mid-move (docs/operations.md has the table): refused
with the reason, or handled.

One live move, whose worker stands still while a disk is copied. Everything is tried then; after
that it goes on, and arrives.
"""

import pytest
import XenAPI

from lab.pools.topology import PoolPlan
from tests.e2e.collector import stopped
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import MIB, Scene

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = (4 * MIB, 24 * MIB)
PROTECTED = {"destroy": "precious", "hard_reboot": "by the user"}
# Of the VM: xapi's call, and what it takes behind the VM.
BLOCKED = (
    ("clean_shutdown",),
    ("hard_shutdown",),
    ("clean_reboot",),
    ("hard_reboot",),
    ("suspend",),
    ("pause",),
    ("snapshot", "x", []),
    ("checkpoint", "x"),
    ("clone", "x"),
    ("destroy",),
)


def refusal(call, *arguments, **more):
    """The failure that a call of xapi ends with."""
    with pytest.raises(XenAPI.Failure) as refused:
        call(*arguments, **more)
    return refused.value.details


@pytest.mark.timeout(600)
def test_operations_in_mid_move(lab):
    scene = Scene(lab, DISKS)
    api, record = scene.pool.xapi, scene.record
    vm = api.VM.get_by_uuid(scene.uuid)
    vbds = [ref for ref in record["VBDs"] if api.VBD.get_type(ref) == "Disk"]
    sr = scene.pool.sr("a1", "fast")
    for operation, text in PROTECTED.items():
        api.VM.add_to_blocked_operations(vm, operation, text)
    api.VM.set_hardware_platform_version(vm, "9")
    for given in (scene.arguments(), scene.within("big")):
        details = refusal(scene.call, "migrate", scene.host, **given)
        assert details[0] == "SXM_REFUSED" and "VIRTUAL_HARDWARE_PLATFORM_VERSION" in details[2], (
            details
        )
    assert "sxm_migration" not in scene.record["other_config"]
    api.VM.set_hardware_platform_version(vm, "0")
    with stopped(scene, MOMENTS["copying"]) as migration:
        for name, *arguments in BLOCKED:
            details = refusal(getattr(api.VM, name), vm, *arguments)
            text = PROTECTED.get(name, "fn=cancel migration=" + migration)
            assert details[0] == "OPERATION_BLOCKED" and text in details[2], (name, details)
        # xapi has an emergency call which minds no block, but not for a domain that is there.
        assert refusal(api.VM.power_state_reset, vm)[0] == "DOMAIN_EXISTS"
        assert (
            refusal(scene.call, "migrate", scene.host, **dict(scene.arguments(), wait="false"))[0]
            == "SXM_BAD_ARGUMENTS"
        ), "a second migration"
        assert (
            refusal(api.VM.pool_migrate, vm, scene.pool.host_ref("a1"), {})[0]
            == "OPERATION_BLOCKED"
        )
        for vbd in vbds:
            vdi = api.VBD.get_VDI(vbd)
            assert refusal(api.VBD.unplug, vbd)[0] == "VBD_NOT_UNPLUGGABLE"
            assert refusal(api.VBD.destroy, vbd)[0] == "OPERATION_NOT_ALLOWED"
            for call, more in (
                (api.VDI.resize, (str(64 * MIB),)),
                (api.VDI.destroy, ()),
                (api.VDI.forget, ()),
            ):
                assert refusal(call, vdi, *more)[0] == "VDI_IN_USE"
        pbd = api.SR.get_PBDs(sr)[0]
        assert refusal(api.PBD.unplug, pbd)[0] == "VDI_IN_USE"
        assert refusal(api.SR.forget, sr)[0] == "SR_HAS_PBD"
        assert scene.journal(migration)["state"] == "running"
        scene.wait_for_writes(5)
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    assert not entry["tries"], "nothing of this has broken the mirror"
    scene.host = scene.there
    scene.assert_runs()
    there = scene.record
    assert there["blocked_operations"] == PROTECTED, (
        "what the user had blocked, and nothing of ours"
    )
    scene.pool.xapi.VM.set_blocked_operations(scene.pool.xapi.VM.get_by_uuid(scene.uuid), {})
    scene.assert_nothing_left()
    assert all(scene.pool.xapi.VBD.get_unpluggable(ref) for ref in there["VBDs"])


@pytest.mark.timeout(600)
def test_a_disk_that_was_added_in_mid_move(lab):
    """It cannot be forbidden: the migration ends before the VM has begun to move, and says why; so
    does the guest's end, by a crash."""
    scene = Scene(lab, DISKS[:1])
    api = scene.pool.xapi
    vm = api.VM.get_by_uuid(scene.uuid)
    with stopped(scene, MOMENTS["copying"]) as migration:
        vbd = dict(api.VBD.get_record(scene.record["VBDs"][0]), userdevice="7", device="")
        vbd["VDI"] = api.VDI.create(
            {
                "name_label": "more",
                "name_description": "",
                "SR": scene.pool.sr("a1", "fast"),
                "virtual_size": str(MIB),
                "type": "user",
                "sharable": False,
                "read_only": False,
                "other_config": {},
            }
        )
        more = api.VBD.create(vbd)
    entry = scene.ended(migration)
    assert (
        entry["state"] == "failed"
        and entry["error"][0] == "SXM_VM_CHANGED"
        and "was added" in entry["error"][2]
    ), entry["error"]
    scene.assert_runs()
    disk = api.VBD.get_VDI(more)
    api.VBD.destroy(more)
    api.VDI.destroy(disk)
    scene.assert_nothing_left()
    assert api.VM.get_blocked_operations(vm) == {} and all(
        api.VBD.get_unpluggable(ref) for ref in scene.record["VBDs"]
    )
