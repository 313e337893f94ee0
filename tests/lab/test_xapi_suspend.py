# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi: a VM that is suspended, resumed, exported and imported, as strict as the real one
(xapi_vm.ml, xapi_xenops.ml, export.ml, import.ml, xapi_vbd.ml)."""

import pytest

from xapi_archive import document, export, imported, packed
from xapi_fixture import (  # noqa: F401
    failure_of,
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
def vm(pool, x, sr):
    """A VM that runs, with a disk that is plugged and one that is not."""
    vm = x.VM.create(vm_record())
    x.VBD.create(vbd_record(vm, x.VDI.create(vdi_record(sr))))
    x.VIF.create(vif_record(vm, x.network.get_all()[0]))
    x.VM.set_suspend_SR(vm, sr)
    x.VM.start(vm, False, False)
    x.VBD.create(dict(vbd_record(vm, x.VDI.create(vdi_record(sr))), userdevice="1"))
    yield vm
    pool.master.xenopsd.suspends = True
    if x.VM.get_power_state(vm) != "Halted":
        x.VM.hard_shutdown(vm)
    vdis = [x.VBD.get_VDI(vbd) for vbd in x.VM.get_VBDs(vm)]
    x.VM.destroy(vm)
    for vdi in vdis:
        x.VDI.destroy(vdi)


def images(x):
    return [vdi for vdi in x.VDI.get_all() if x.VDI.get_type(vdi) == "suspend"]


def plugged(x, vm):
    return sorted(x.VBD.get_currently_attached(vbd) for vbd in x.VM.get_VBDs(vm))


def test_it_keeps_its_devices_and_goes_on_with_those_that_it_had(pool, x, vm):
    x.VM.suspend(vm)
    record = x.VM.get_record(vm)
    assert (record["power_state"], record["resident_on"]) == ("Suspended", NULL)
    assert images(x) == [record["suspend_VDI"]] and plugged(x, vm) == [False, True]
    (attached,) = [vbd for vbd in record["VBDs"] if x.VBD.get_currently_attached(vbd)]
    assert failure_of(x.VBD.destroy, attached)[0] == "OPERATION_NOT_ALLOWED"
    assert failure_of(x.VBD.unplug, attached)[:1] == ["VM_BAD_POWER_STATE"]
    assert failure_of(x.VBD.set_mode, attached, "RO")[:1] == ["VM_BAD_POWER_STATE"]
    assert failure_of(x.VM.start, vm, False, False)[0] == "VM_BAD_POWER_STATE"
    assert x.VM.get_uuid(vm) not in pool.master.xenopsd.vms
    x.VM.resume(vm, False, False)
    record = x.VM.get_record(vm)
    assert (record["power_state"], record["suspend_VDI"]) == ("Running", NULL)
    assert images(x) == [] and plugged(x, vm) == [False, True]


def test_what_cannot_be_suspended_runs_on_and_leaves_no_image(pool, x, vm):
    pool.master.xenopsd.suspends = False
    assert failure_of(x.VM.suspend, vm)[0] == "VM_BAD_POWER_STATE"
    assert x.VM.get_power_state(vm) == "Running"
    assert x.VM.get_suspend_VDI(vm) == NULL and images(x) == []


def test_without_an_sr_that_its_host_sees_none_is(pool, x, vm):
    x.VM.set_suspend_SR(vm, NULL)
    x.pool.set_suspend_image_SR(x.pool.get_all()[0], NULL)
    x.host.set_suspend_image_sr(pool.master.ref(x), NULL)
    assert failure_of(x.VM.suspend, vm) == ["VM_NO_SUSPEND_SR", vm]
    assert x.VM.get_power_state(vm) == "Running"


def test_one_that_has_lost_its_image_is_halted_when_it_is_resumed(x, vm):
    x.VM.suspend(vm)
    x.VDI.destroy(x.VM.get_suspend_VDI(vm))
    assert failure_of(x.VM.resume, vm, False, False) == ["VM_HAS_NO_SUSPEND_VDI", "VM", vm]
    assert x.VM.get_power_state(vm) == "Halted" and plugged(x, vm) == [False, False]


@pytest.mark.parametrize("call, left", [("hard_shutdown", 0), ("power_state_reset", 1)])
def test_only_a_shutdown_destroys_the_image(x, vm, call, left):
    x.VM.suspend(vm)
    getattr(x.VM, call)(vm)
    assert x.VM.get_power_state(vm) == "Halted" and len(images(x)) == left
    for image in images(x):
        x.VDI.destroy(image)


def test_it_is_imported_as_it_was_or_not_at_all(pool, x, vm):
    session = pool.master.remote()
    x.VM.suspend(vm)
    status, data = export(pool.master, vm, session.handle)
    assert status == 200
    exported = document(data)
    kinds = [one["class"] for one in exported["objects"]]
    assert kinds.count("VDI") == 3, "two disks, and the image"
    done = imported(pool.master, x, session.handle, data, restore="false", live="true")
    assert done["status"] == "success", done["error_info"]
    (copy,) = [
        ref
        for ref, one in x.VM.get_all_records().items()
        if ref != vm and one["power_state"] == "Suspended"
    ]
    assert x.VM.get_suspend_VDI(copy) == x.VM.get_suspend_VDI(vm)
    assert plugged(x, copy) == [False, True]
    x.VM.power_state_reset(copy)
    x.VM.destroy(copy)
    (record,) = [one["snapshot"] for one in exported["objects"] if one["class"] == "VM"]
    record["suspend_VDI"] = "Ref:999"
    before = x.VM.get_all()
    done = imported(pool.master, x, session.handle, packed(exported), restore="false", live="true")
    assert done["status"] == "failure" and x.VM.get_all() == before
