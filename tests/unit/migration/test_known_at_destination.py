# SPDX-License-Identifier: LGPL-2.1-only
"""What the destination's xapi has to know of a suspended VM, and of a checkpoint: that the image is
its memory."""

import types

import pytest

from fake_migration import make_plan
from fake_pool import NULL, FakePool, add_vdi
from storage_motion.migration import durable, known_at_destination
from storage_motion.migration.phases import blocking, claim


@pytest.mark.parametrize("known", [True, False])
def test_the_image_of_its_memory_is_the_vms(known):
    pool = FakePool("B")
    image = add_vdi(pool, "OpaqueRef:sr", uuid="d", sm_config={}, VBDs=[])
    pool.add(
        "VM",
        uuid="v",
        resident_on=NULL,
        power_state="Suspended",
        suspend_VDI=image if known else NULL,
    )
    plan = make_plan(live=False)
    plan = plan._replace(disks=[plan.disks[0]._replace(vbd="")])
    m = types.SimpleNamespace(
        destination=pool,
        plan=plan,
        host=lambda: "OpaqueRef:i",
        disk=lambda key: {"destination_vdi": "d"},
        destination_vdi=lambda disk: image,
    )
    found = known_at_destination.forgotten(m)
    assert found == ([] if known else ["that VDI d is the VM's memory"])


@pytest.mark.parametrize("known", [True, False])
def test_the_image_of_a_checkpoint_is_its_memory(known):
    pool = FakePool("B")
    image = add_vdi(pool, "OpaqueRef:sr", uuid="d", is_a_snapshot=True)
    pool.add("VM", uuid="v", resident_on=NULL)
    pool.add("VM", uuid="s", power_state="Suspended", suspend_VDI=image if known else NULL)
    plan = make_plan(live=False)
    disk = plan.disks[0]._replace(vbd="", snapshot="s")
    m = types.SimpleNamespace(
        destination=pool,
        plan=plan._replace(disks=[], history=[disk]),
        host=lambda: "OpaqueRef:i",
        disk=lambda key: {"destination_vdi": "d"},
        destination_vdi=lambda disk: image,
    )
    found = known_at_destination.forgotten(m)
    assert found == ([] if known else ["that VDI d is the memory of snapshot s"])


@pytest.mark.parametrize("blocked", [False, True])
def test_in_another_pool_an_image_goes_with_a_resume_once_the_vm_is_let_go(blocked):
    """Before that a VM that is halted there is one that the importer could not make suspended."""
    pool = FakePool("B")
    reason = {"resume": blocking.reason("m")} if blocked else {}
    pool.add(
        "VM",
        uuid="v",
        resident_on=NULL,
        suspend_VDI=NULL,
        power_state="Halted",
        blocked_operations=reason,
    )
    plan = make_plan(live=False)
    m = types.SimpleNamespace(
        id="m",
        destination=pool,
        plan=plan._replace(disks=[plan.disks[0]._replace(vbd="")]),
        host=lambda: "OpaqueRef:i",
        disk=lambda key: {"destination_vdi": "d"},
        destination_vdi=lambda disk: pool.xenapi.VDI.get_by_uuid("d"),
    )
    assert known_at_destination.forgotten(m) == (["VDI d"] if blocked else [])


@pytest.mark.parametrize("live", [False, True])
def test_a_vm_of_which_only_a_part_came_back_is_not_known(live, monkeypatch):
    """xapi was killed, with a database that it had written in the middle of the import: the disks
    are there, and what comes behind them is not, such as a virtual TPM. That of one which runs has
    been on disk as a whole since before it moved."""
    monkeypatch.setattr(durable.database, "sync", lambda session: None)
    pool = FakePool("B")
    new = add_vdi(pool, "OpaqueRef:sr", uuid="d", sm_config={})
    vm = pool.add("VM", uuid="v", resident_on=NULL, power_state="Halted", blocked_operations={})
    pool.tables["VDI"][new]["VBDs"] = [pool.add("VBD", uuid="b", VM=vm, VDI=new)]
    m = types.SimpleNamespace(
        id="m",
        source=pool,
        destination=pool,
        plan=make_plan(live=live),
        host=lambda: "OpaqueRef:i",
        disk=lambda key: {"destination_vdi": "d"},
        destination_vdi=lambda disk: new,
    )
    taken = []

    def take():
        taken.append(True)
        if len(taken) == 2:
            claim.block_arrived(m, vm)

    known_at_destination.keep(m, take)
    assert len(taken) == (1 if live else 2)


def test_a_vm_that_was_let_go_is_never_taken_for_a_part(monkeypatch):
    """Its blocks are gone, and so is the source's: it would be destroyed, and could not be brought
    again."""
    source, pool = FakePool("A"), FakePool("B")
    pool.add("VM", uuid=make_plan().vm, resident_on=NULL, blocked_operations={})
    for name in ("open_again", "bring_again", "give"):
        for module in (
            known_at_destination.whereabouts,
            known_at_destination.remap,
            known_at_destination.receive,
        ):
            monkeypatch.setattr(module, name, lambda m: None, raising=False)
    brought = []
    monkeypatch.setattr(known_at_destination.remap, "bring", brought.append)
    m = types.SimpleNamespace(
        id="m", source=source, destination=pool, plan=make_plan(live=False, disks=())
    )
    known_at_destination.take_halted(m)
    assert brought == [] and known_at_destination._in_part(m) == []
    source.add("VM", uuid=make_plan().vm)
    known_at_destination.take_halted(m)
    assert brought == [m] and known_at_destination._in_part(m) == ["the VM as a whole"]
