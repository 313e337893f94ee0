# SPDX-License-Identifier: LGPL-2.1-only
"""The plan of a copy (`copy=true`): which VM can be copied, and what is said of the copy."""

import pytest

from fake_pool import by_name, uuid_of
from plan_world import is_refused
from storage_motion.plan.plan import Plan
from test_vm_snapshots import WithSnapshots


@pytest.fixture
def world():
    found = WithSnapshots()
    found.vm.update(power_state="Halted")
    return found


def test_a_halted_vm_is_copied_without_its_snapshots(world):
    world.a.tables["VM"][world.first].update(power_state="Suspended")  # a checkpoint
    plan, problems = world.cross(copy="true")
    assert problems == [] and plan.copy and Plan.from_json(plan.to_json()) == plan
    assert (plan.history, plan.dropped, plan.kept) == ([], [], [])
    own = world.a.tables["VM"][world.second]["VIFs"][0]
    assert uuid_of(world.a, "VIF", own) in [vif.vif for vif in plan.snapshot_vifs]
    assert [snapshot.name for snapshot in plan.snapshots] == ["first", "second"]
    assert sorted(disk.key for disk in plan.disks) == sorted([world.vdi(0), world.vdi(1)])
    assert all(plan.keeps_closed(disk) and not disk.base for disk in plan.disks)
    told = "\n".join(plan.warnings)
    assert "VM web is copied, and stays as it is" in told and "MAC addresses" in told
    assert told.count("stays with the VM: the copy has none") == 2 and "deleted" not in told


def test_a_move_says_nothing_of_it(world):
    plan, _ = world.cross()
    assert not plan.copy
    assert "copied" not in str(plan.warnings)


@pytest.mark.parametrize("state", ["Running", "Suspended", "Paused"])
def test_only_a_halted_vm(world, state):
    world.vm.update(power_state=state, suspend_VDI=world.vdis[0])
    assert is_refused(
        world.cross(copy="true", force="true"), "copy", "is %s, and only a halted VM" % state
    )


def test_within_the_pool_there_is_vm_copy_for_it(world):
    target = uuid_of(world.a, "SR", by_name(world.a, "SR", "shared"))
    answer = world.within(copy="true", **{"destination-sr-uuid": target})
    assert is_refused(answer, "copy", "is to be copied within its pool")
    assert is_refused(answer, "copy", "xe vm-copy")


def test_not_while_ha_is_about_to_start_it(world):
    (pool,) = world.a.tables["pool"].values()
    pool.update(ha_enabled=True)
    world.vm.update(ha_always_run=True)
    plan, _ = world.cross(copy="true")
    assert plan
    world.vm.update(ha_restart_priority="restart")
    assert is_refused(world.cross(copy="true"), "copy", "HA is about to start it")
    pool.update(ha_enabled=False)
    assert world.cross(copy="true")[1] == [], "the mark is left from when HA was on"
    pool.update(ha_enabled=True)
    world.vm.update(ha_always_run=False)
    plan, problems = world.cross(copy="true")
    assert problems == [] and "HA" not in str(plan.warnings), "it protects both, and starts neither"


def test_the_other_pool_may_have_the_vm(world):
    world.b.add("VM", uuid=world.vm["uuid"])
    assert is_refused(world.cross(), "vm", "has a VM")
    plan, problems = world.cross(copy="true")
    assert problems == [] and plan


def test_what_the_vm_keeps_it_does_not_lose(world):
    world.vm.update(
        appliance=world.a.add("VM_appliance", name_label="gold"),
        blobs={"screenshot": "OpaqueRef:b"},
        affinity=by_name(world.a, "host", "a2"),
    )
    assert "leaves vApp" in str(world.cross()[0].warnings)
    told = str(world.cross(copy="true")[0].warnings)
    assert "leaves vApp" not in told and "blob " not in told and "home server" in told


def test_of_a_virtual_tpm_it_is_said_that_both_have_what_is_in_it(world):
    world.vm["VTPMs"] = [world.a.add("VTPM")]
    assert "virtual TPM of VM web, keys and secrets" in str(world.cross(copy="true")[0].warnings)
    assert "secrets" not in str(world.cross()[0].warnings)


def test_the_tracking_of_its_own_disks_is_renewed_there(world):
    world.disk["cbt_enabled"] = True
    assert is_refused(world.cross(copy="true"), "vdi", "has changed block tracking enabled")
    world.b.add("SM", type="ext", features={})
    for copy, said in (("false", "tracking ends"), ("true", "enabled again")):
        plan, _ = world.cross(copy=copy, cbt="renew")
        assert said in str(plan.warnings)
