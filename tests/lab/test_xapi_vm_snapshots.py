# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi: snapshots of VMs, going back to one, and what becomes of them in a move."""

import pytest

from xapi_archive import document, export, imported, packed
from xapi_fixture import (  # noqa: F401
    LabPool,
    TinyXenopsd,
    failure_of,
    make_sr,
    pool_with_xenopsds,
    sr,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
    x,
)

NULL = "OpaqueRef:NULL"


@pytest.fixture(scope="module")
def pool():
    with pool_with_xenopsds(1) as pool:
        yield pool


@pytest.fixture
def vm(x, sr):
    """A halted VM with one disk, an empty CD drive and one VIF."""
    vm = x.VM.create(vm_record(name_label="vm"))
    x.VBD.create(vbd_record(vm, x.VDI.create(vdi_record(sr))))
    x.VBD.create(
        dict(vbd_record(vm, NULL), userdevice="3", type="CD", mode="RO", empty=True, VDI=NULL)
    )
    x.VIF.create(vif_record(vm, x.network.get_all()[0]))
    return vm


def disk_of(x, vm):
    (disk,) = [vbd for vbd in x.VM.get_VBDs(vm) if x.VBD.get_type(vbd) == "Disk"]
    return x.VBD.get_VDI(disk)


def test_a_snapshot_of_a_vm(x, vm):
    snapshot = x.VM.snapshot(vm, "a snapshot")
    record = x.VM.get_record(snapshot)
    assert record["is_a_snapshot"] and record["is_a_template"] and record["snapshot_of"] == vm
    assert x.VM.get_snapshots(vm) == [snapshot] and x.VM.get_parent(vm) == snapshot
    assert x.VDI.get_snapshot_of(disk_of(x, snapshot)) == disk_of(x, vm)
    assert {x.VBD.get_type(vbd): x.VBD.get_other_config(vbd) for vbd in record["VBDs"]} == {
        "Disk": {"owner": ""},
        "CD": {},
    }
    macs = [x.VIF.get_MAC(x.VM.get_VIFs(one)[0]) for one in (vm, snapshot)]
    assert macs[0] == macs[1]
    assert set(record["allowed_operations"]) == {
        "clone",
        "copy",
        "destroy",
        "metadata_export",
        "revert",
        "update_allowed_operations",
    }
    assert failure_of(x.VM.start, snapshot, False, False) == ["VM_IS_SNAPSHOT", snapshot, "start"]
    assert failure_of(x.VM.revert, vm) == ["REVERT_ONLY_ALLOWED_ON_SNAPSHOT"]
    x.VM.destroy(snapshot)
    assert x.VM.get_parent(vm) == NULL


def test_going_back_to_a_snapshot(x, vm):
    """The disk is another one then, of which all the snapshots are told to be; the next snapshot
    is a branch of its own."""
    first, second = (x.VM.snapshot(vm, name) for name in ("first", "second"))
    before = disk_of(x, vm)
    x.VM.add_to_blocked_operations(vm, "reverting", "not now")
    assert failure_of(x.VM.revert, first) == ["OPERATION_BLOCKED", vm, "not now"]
    x.VM.remove_from_blocked_operations(vm, "reverting")
    x.VM.add_to_blocked_operations(first, "revert", "never")
    assert failure_of(x.VM.revert, first) == ["OPERATION_BLOCKED", first, "never"]
    x.VM.remove_from_blocked_operations(first, "revert")
    x.VM.revert(first)
    after = disk_of(x, vm)
    assert after != before and before not in x.VDI.get_all()
    assert not x.VDI.get_is_a_snapshot(after) and x.VDI.get_snapshot_of(after) == NULL
    for snapshot in (first, second):
        assert x.VDI.get_snapshot_of(disk_of(x, snapshot)) == after
    third = x.VM.snapshot(vm, "third")
    assert [x.VM.get_parent(one) for one in (vm, third, second, first)] == [
        third,
        first,
        first,
        NULL,
    ]
    x.VM.destroy(first)
    assert x.VM.get_parent(third) == NULL == x.VM.get_parent(second)


def test_a_checkpoint_and_going_back_to_it(pool, x, vm, sr):
    """The VM goes on at once. What is of the checkpoint nobody destroys but with it, and back at it
    the VM is suspended, with an image of its own."""
    x.VM.set_suspend_SR(vm, sr)
    assert failure_of(x.VM.checkpoint, vm, "c")[:2] == ["VM_BAD_POWER_STATE", vm]
    x.VM.start(vm, False, False)
    checkpoint = x.VM.checkpoint(vm, "c")
    assert x.VM.get_power_state(vm) == "Running" and x.VM.get_suspend_VDI(vm) == NULL
    record = x.VM.get_record(checkpoint)
    image = record["suspend_VDI"]
    assert record["power_state"] == "Suspended" and record["is_a_snapshot"]
    assert record["suspend_SR"] == NULL and record["resident_on"] == NULL
    assert record["snapshot_info"]["power-state-at-snapshot"] == "Running"
    assert x.VDI.get_is_a_snapshot(image) and x.VDI.get_type(image) == "suspend"
    assert x.VM.get_parent(vm) == checkpoint
    assert set(record["allowed_operations"]) == {
        "clone",
        "copy",
        "destroy",
        "hard_shutdown",
        "metadata_export",
        "revert",
        "update_allowed_operations",
    }
    assert failure_of(x.VM.resume, checkpoint, False, False) == [
        "VM_IS_SNAPSHOT",
        checkpoint,
        "resume",
    ]
    disk = disk_of(x, checkpoint)
    (vbd,) = x.VDI.get_VBDs(disk)
    assert x.VBD.get_currently_attached(vbd) and x.VIF.get_currently_attached(record["VIFs"][0])
    assert failure_of(x.VBD.destroy, vbd)[0] == "OPERATION_NOT_ALLOWED"
    assert failure_of(x.VBD.unplug, vbd)[0] == "VM_BAD_POWER_STATE"
    assert failure_of(x.VDI.destroy, disk)[:2] == ["VDI_IN_USE", disk]

    x.VM.revert(checkpoint)
    record = x.VM.get_record(vm)
    own = record["suspend_VDI"]
    assert record["power_state"] == "Suspended" and own not in (image, NULL)
    assert x.VDI.get_type(own) == "suspend" and not x.VDI.get_is_a_snapshot(own)
    assert x.VBD.get_currently_attached(x.VDI.get_VBDs(disk_of(x, vm))[0])
    x.VM.resume(vm, False, False)
    assert x.VM.get_power_state(vm) == "Running" and own not in x.VDI.get_all()
    x.VM.hard_shutdown(vm)

    x.VM.destroy(checkpoint)
    assert disk in x.VDI.get_all() and image in x.VDI.get_all()
    x.VDI.destroy(disk)
    x.VDI.destroy(image)


def test_a_checkpoint_that_has_lost_its_image_is_none_to_go_back_to(x, vm, sr):
    x.VM.set_suspend_SR(vm, sr)
    x.VM.start(vm, False, False)
    x.VM.suspend(vm)
    checkpoint = x.VM.checkpoint(vm, "c")
    assert x.VM.get_snapshot_info(checkpoint) == {}
    x.VDI.destroy(x.VM.get_suspend_VDI(checkpoint))
    assert x.VM.get_suspend_VDI(checkpoint) == NULL
    assert failure_of(x.VM.revert, checkpoint)[:2] == ["HANDLE_INVALID", "VDI"]
    assert x.VM.get_power_state(vm) == "Suspended", "nothing was done"
    x.VM.hard_shutdown(checkpoint)  # as xe snapshot-uninstall does
    assert x.VM.get_power_state(checkpoint) == "Halted"
    x.VDI.destroy(disk_of(x, checkpoint))
    x.VM.hard_shutdown(vm)


def test_a_move_wants_a_network_for_the_interfaces_of_snapshots(x, vm):
    other = LabPool()
    try:
        y = other.master.remote().xenapi
        network = y.network.get_all()[0]
        token = y.host.migrate_receive(other.master.ref(y), network, {})
        snapshot, (vif,) = x.VM.snapshot(vm, "s"), x.VM.get_VIFs(vm)
        disks = {disk_of(x, vm): x.VDI.get_SR(disk_of(x, vm))}
        ask = lambda vifs: x.VM.assert_can_migrate(vm, token, True, disks, vifs, {})  # noqa: E731
        assert failure_of(ask, {}) == ["VIF_NOT_IN_MAP", vif]
        assert ask({vif: network}) == "", "the snapshot's has the same MAC address"
        x.VIF.destroy(vif)
        (left,) = x.VM.get_VIFs(snapshot)
        assert failure_of(ask, {}) == ["VIF_NOT_IN_MAP", left]
        assert ask({left: network}) == ""
    finally:
        other.stop()


def test_snapshots_move_to_another_pool_with_the_metadata(pool, x, vm):
    """Whose they are, and which comes after which, the importer keeps; of a VDI it keeps nothing
    of that, and nor does it make one."""
    other = LabPool()
    other.master.xenopsd = TinyXenopsd(other.master.root)
    try:
        session = other.master.remote()
        y = session.xenapi
        sr = make_sr(y, other.master.ref(y))
        disks = [y.VDI.create(vdi_record(sr)) for _ in range(3)]
        first, second = (x.VM.snapshot(vm, name) for name in ("first", "second"))
        handle = pool.master.remote().handle
        exported = document(export(pool.master, vm, handle, export_snapshots="true")[1])
        records = [
            (item["class"], item["snapshot"])
            for item in exported["objects"]
            if item["class"] in ("VDI", "VIF")
        ]
        counterparts = iter(disks)
        for kind, record in records:
            there = y.network.get_all()[0] if kind == "VIF" else next(counterparts)
            record["other_config"]["maps_to"] = there
        for kind, record in records:
            if kind == "VDI" and record["uuid"] == x.VDI.get_uuid(disk_of(x, second)):
                mapped = record["other_config"].pop("maps_to")
                failed = imported(
                    other.master, y, session.handle, packed(exported), restore="true", live="true"
                )
                assert failed["error_info"] == ["VDI_CONTENT_ID_MISSING"]
                record["other_config"]["maps_to"] = mapped
        imported(other.master, y, session.handle, packed(exported), restore="true", live="true")
        new, new_first, new_second = (
            y.VM.get_by_uuid(x.VM.get_uuid(one)) for one in (vm, first, second)
        )
        assert set(y.VM.get_snapshots(new)) == {new_first, new_second}
        assert [y.VM.get_parent(one) for one in (new, new_second)] == [new_second, new_first]
        # what was null is an id of the document, which no object there has: so on a real xapi, too
        left = {y.VM.get_parent(new_first), y.VM.get_snapshot_of(new)}
        assert len(left) == 1 and left.pop().startswith("Ref:")
        disk = disk_of(y, new_first)
        assert not y.VDI.get_is_a_snapshot(disk) and y.VDI.get_snapshot_of(disk) == NULL
        local = other.master.local()
        assert failure_of(local.xenapi.VDI.set_is_a_snapshot, disk, True)[0] != ""
        y.VM.destroy(new)
        assert new_first in y.VM.get_all(), "the snapshots of a VM do not go with it"
    finally:
        other.master.xenopsd.stop()
        other.stop()
