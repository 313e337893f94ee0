# SPDX-License-Identifier: LGPL-2.1-only
"""xapi's own verdict, before anything is changed: whether the VM may be moved, and whether that
host would take it.

It looks at what this product does not: processors, memory, devices passed through, versions,
virtual hardware (docs/facts/xapi.md, "Verdict"). What it says is passed on as it is, with what to
do about it.
"""

from typing import TYPE_CHECKING, Any, Callable, Dict, List, TypeVar

import XenAPI

from storage_motion.errors import Refused, TaskFailed
from storage_motion.migration.phases import remap
from storage_motion.xapi.session import end

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Plan

Answer = TypeVar("Answer")

OPERATION = "migrate_send"
TRACKED = "VDI_CBT_ENABLED"
OLDER = (
    "the destination is older than the source: update it first; "
    "a VM goes to the same version or a newer one"
)
TOOLS = "install the guest tools in the VM, or shut it down and move it halted"
DEVICE = "detach the device, or shut the VM down and move it halted"
WAIT = "wait until the other operation has ended"
NETWORK = "give remote-network a network on which that host has an address"
# What to do, by the code of xapi's failure. One that is not here speaks for itself.
ADVICE = {
    "CANNOT_CONTACT_HOST": "the hosts of the two pools have to reach each other",
    "FEATURE_RESTRICTED": "the edition of the pool does not allow it",
    "HOST_CANNOT_ATTACH_NETWORK": NETWORK,
    "HOST_DISABLED": "enable the host, or name another one",
    "HOST_NOT_ENOUGH_FREE_MEMORY": "free memory there, or name another host",
    "HOST_NOT_ENOUGH_PCPUS": "name a host with more processors, or give the VM fewer VCPUs",
    "HOST_NOT_LIVE": "name another host",
    "IMPORT_INCOMPATIBLE_VERSION": OLDER,
    "INTERFACE_HAS_NO_IP": NETWORK,
    "LICENCE_RESTRICTION": "the edition of the pool does not allow it",
    "NOT_SUPPORTED_DURING_UPGRADE": "the host is older than the VM's: finish the pool's upgrade "
    "first",
    "OPERATION_BLOCKED": "somebody has blocked this operation of the VM: unblock it first",
    "OTHER_OPERATION_IN_PROGRESS": WAIT,
    "PIF_HAS_NO_NETWORK_CONFIGURATION": NETWORK,
    "SR_DOES_NOT_SUPPORT_MIGRATION": "name another SR: the driver of this one can do no snapshots, "
    "or no mirror",
    "TOO_MANY_STORAGE_MIGRATES": WAIT,
    TRACKED: "say cbt=renew, or disable changed block tracking: xe vdi-disable-cbt",
    "VM_HAS_PCI_ATTACHED": DEVICE,
    "VM_HAS_VUSBS": "xapi moves no VM with virtual USB devices, a halted one neither: take them "
    "away (xe vusb-unplug, xe vusb-destroy), and make others at the destination (xe vusb-create)",
    "VM_HOST_INCOMPATIBLE_VERSION": OLDER,
    "VM_HOST_INCOMPATIBLE_VERSION_MIGRATE": OLDER,
    "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION": OLDER,
    "VM_INCOMPATIBLE_WITH_THIS_HOST": "its processors lack features that the running VM uses: name "
    "another host, move it halted, "
    "or say force=true",
    "VM_IS_USING_NESTED_VIRT": "shut the VM down and move it halted",
    "VM_LACKS_FEATURE": TOOLS,
    "VM_MISSING_PV_DRIVERS": TOOLS,
    "VM_OLD_PV_DRIVERS": TOOLS,
    "VM_REQUIRES_GPU": "its GPU group has no room for it on the master of the destination pool, "
    "where xapi looks for that: name another group (vgpu:...), or free some",
    "VM_REQUIRES_IOMMU": DEVICE,
    "VM_REQUIRES_NETWORK": "name a host that has all networks of the VM",
    "VM_REQUIRES_VGPU": DEVICE,
    "VM_TO_IMPORT_IS_NOT_NEWER_VERSION": "the destination has this VM already, and not an older "
    "one: remove that one first",
}


def ask(source: "XenAPI.Session", destination: "XenAPI.Session", plan: "Plan") -> None:
    """Have both pools look at a plan; `source`, `destination`: sessions. Raises Refused, or what
    else a pool fails with.

    Asked before the VM is claimed: what we block ourselves afterwards has no say in it."""
    vm = source.xenapi.VM.get_by_uuid(plan.vm)
    _asking(plan, source.xenapi.VM.assert_operation_valid, vm, OPERATION)
    host = destination.xenapi.host.get_by_uuid(plan.destination_host)
    network = destination.xenapi.network.get_by_uuid(plan.network)
    token = _asking(plan, destination.xenapi.host.migrate_receive, host, network, {})
    try:
        vifs = (
            {
                source.xenapi.VIF.get_by_uuid(vif.vif): destination.xenapi.network.get_by_uuid(
                    vif.network
                )
                for vif in plan.vifs + plan.snapshot_vifs
            }
            if plan.cross_pool
            else {}
        )
        _can_migrate(source, destination, plan, vm, token, vifs)
    finally:
        end(destination, token["session_id"])
    if plan.cross_pool:
        if plan.live:
            _require_memory(source, destination, plan, vm, host)
        _asking(plan, remap.rehearse, source, destination, plan)


def ask_again(m: "Migration") -> None:
    """Within a pool, before xenopsd is asked: copying may have taken hours, in which others have
    taken the memory. Raises Refused."""
    assert m.receiving_host is not None
    vm = m.source.xenapi.VM.get_by_uuid(m.plan.vm)
    _can_migrate(m.source, m.destination, m.plan, vm, m.receiving_host, {})


def _require_memory(
    source: "XenAPI.Session", destination: "XenAPI.Session", plan: "Plan", vm: str, host: str
) -> None:
    """xapi itself looks at the memory of the other pool's master only, whose import it is
    (import.ml, assert_can_live_import)."""
    needed = int(source.xenapi.VM.get_memory_dynamic_min(vm)) + int(
        source.xenapi.VM.get_memory_overhead(vm)
    )
    free = int(destination.xenapi.host.compute_free_memory(host))
    if free < needed:
        raise _refused(plan, ["HOST_NOT_ENOUGH_FREE_MEMORY", str(needed), str(free)])


def _can_migrate(
    source: "XenAPI.Session",
    destination: "XenAPI.Session",
    plan: "Plan",
    vm: str,
    token: Dict[str, Any],
    vifs: Dict[str, str],
) -> None:
    # with "force" xapi would not see to it that the VM is halted (xapi_vm_migrate.ml)
    options = {"copy": "true"} if plan.copy else {} if plan.check_cpu else {"force": "true"}
    disks = _disks(source, destination, plan)
    groups = {
        source.xenapi.VGPU.get_by_uuid(vgpu.vgpu): destination.xenapi.GPU_group.get_by_uuid(
            vgpu.group
        )
        for vgpu in plan.vgpus
    }
    try:
        source.xenapi.VM.assert_can_migrate(vm, token, plan.live, disks, vifs, options, groups)
    except XenAPI.Failure as failure:
        details = [str(detail) for detail in failure.details]
        # xapi looks at that last (xapi_vm_migrate.ml, assert_can_migrate_vdis), and the claim ends
        # it.
        if details[0] == TRACKED and any(disk.tracked for disk in plan.disks):
            return
        raise _refused(plan, details)


def _disks(source: "XenAPI.Session", destination: "XenAPI.Session", plan: "Plan") -> Dict[str, str]:
    """{VDI: SR} of all disks, as refs."""
    vdi, found = source.xenapi.VDI, {}
    for key in plan.staying:
        ref = vdi.get_by_uuid(key)
        found[ref] = vdi.get_SR(ref)
    for disk in plan.disks:
        found[vdi.get_by_uuid(disk.key)] = destination.xenapi.SR.get_by_uuid(disk.destination_sr)
    return found


def _asking(plan: "Plan", call: Callable[..., Answer], *arguments: Any) -> Answer:
    try:
        return call(*arguments)
    except XenAPI.Failure as failure:
        raise _refused(plan, [str(detail) for detail in failure.details])
    except TaskFailed as failure:
        raise _refused(plan, failure.failure())


def _refused(plan: "Plan", details: List[str]) -> Refused:
    return Refused(
        "host %s does not take VM %s" % (plan.destination_host_name, plan.vm_name),
        " ".join(details),
        ADVICE.get(details[0], "see what xapi says"),
    )
