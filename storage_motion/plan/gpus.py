# SPDX-License-Identifier: LGPL-2.1-only
"""The virtual GPUs of a VM that does not run: within a pool they stay as they are, since only disks
move; in another pool each is of the GPU group that `vgpu:` gives, or else of the one group there
with the same types of GPU, as xapi's importer has it (import.ml, GPUGroup, VGPU)."""

from typing import Any, Dict, List, Optional

from storage_motion.plan import checks
from storage_motion.plan.inquiry import Inquiry
from storage_motion.plan.plan import Vgpu

RESTRICTION = "restrict_gpu"  # a key of pool.restrictions


def find_groups(inquiry: Inquiry) -> List[Vgpu]:
    """The virtual GPUs of the VM, and of its snapshots that come along, with the group that each
    gets in another pool; none within a pool. What is wrong goes to the problems."""
    request, problems = inquiry.request, inquiry.problems
    own = _records(inquiry, inquiry.vm)
    others = [] if request.copy or request.drop_snapshots else _of_snapshots(inquiry)
    for uuid in sorted(set(request.vgpus) - {vgpu["uuid"] for vgpu in own + others}):
        problems.add(
            "vgpu:" + uuid,
            "is not a virtual GPU of VM %s" % inquiry.vm["name_label"],
            "its virtual GPUs are %s" % (", ".join(sorted(vgpu["uuid"] for vgpu in own)) or "none"),
        )
    if inquiry.vm.get("VGPUs"):
        name = "VM %s" % inquiry.vm["name_label"]
        checks.check(checks.VGPU_CHECKS, problems, request.vm_argument, name, inquiry.vm)
    if not inquiry.cross_pool:
        for vgpu in own + others:
            group = inquiry.source.of("GPU_group", vgpu["GPU_group"])
            if request.vgpus.get(vgpu["uuid"], group["uuid"]) != group["uuid"]:
                problems.add(
                    "vgpu:" + vgpu["uuid"],
                    "virtual GPUs keep their GPU groups in a move within the pool",
                    "leave it out",
                )
        return []
    if not own + others:
        return []
    restrictions = inquiry.destination.pool().get("restrictions", {})
    if restrictions.get(RESTRICTION) != "false":  # which xapi looks at after all copying
        problems.add(
            request.vm_argument,
            "has a virtual GPU, and the destination pool may have none (%s)" % RESTRICTION,
            "a pool whose licence has that feature; or destroy it (xe vgpu-destroy)",
        )
    found: List[Vgpu] = []
    chosen: Dict[str, Dict[str, Any]] = {}  # by the group at the source
    for vgpu in own + others:
        group_there = _group_there(inquiry, vgpu, chosen.get(vgpu["GPU_group"]))
        if group_there:
            chosen.setdefault(vgpu["GPU_group"], group_there)
            found.append(Vgpu(vgpu["uuid"], vgpu["device"], group_there["uuid"]))
    return found


def notes(inquiry: Inquiry, vgpus: List[Vgpu]) -> List[str]:
    """The GPU groups that nobody has named, for whoever asked: a list of sentences, one for each
    group."""
    said = [
        "virtual GPUs go to GPU group %s of the destination (%s), which has the same types of GPU; "
        "vgpu:<VGPU>=<GPU group> names another"
        % (inquiry.destination.by_uuid("GPU_group", vgpu.group)[1]["name_label"], vgpu.group)
        for vgpu in vgpus
        if vgpu.vgpu not in inquiry.request.vgpus
    ]
    return sorted(set(said))


def cautions(inquiry: Inquiry, vgpus: List[Vgpu]) -> List[str]:
    """What differs of them there, for whoever asked: a list of sentences."""
    said = []
    for vgpu in vgpus:
        extra = inquiry.source.by_uuid("VGPU", vgpu.vgpu)[1].get("extra_args")
        if extra:
            said.append(
                "virtual GPU %s loses its extra_args (%s); xe vgpu-param-set extra_args=<text> in "
                "the destination pool" % (vgpu.device, extra)
            )
    return said


def _records(inquiry: Inquiry, vm: Dict[str, Any]) -> List[Dict[str, Any]]:
    found = [inquiry.source.of("VGPU", ref) for ref in vm.get("VGPUs") or []]
    return sorted((vgpu for vgpu in found if vgpu), key=lambda vgpu: int(vgpu["device"]))


def _of_snapshots(inquiry: Inquiry) -> List[Dict[str, Any]]:
    snapshots = [inquiry.source.of("VM", ref) for ref in inquiry.vm.get("snapshots", [])]
    return [vgpu for vm in snapshots if vm for vgpu in _records(inquiry, vm)]


def _group_there(
    inquiry: Inquiry, vgpu: Dict[str, Any], chosen: Optional[Dict[str, Any]]
) -> Optional[Dict[str, Any]]:
    """The record of the group of the destination; `chosen`: where another one of its group goes.
    That there is none is a problem."""
    argument, given = "vgpu:" + vgpu["uuid"], inquiry.request.vgpus.get(vgpu["uuid"])
    types = inquiry.source.of("GPU_group", vgpu["GPU_group"])["GPU_types"]
    alike = [
        group
        for group in inquiry.destination.all("GPU_group").values()
        if group["GPU_types"] == types
    ]
    if not alike:  # whatever is given: the importer does not go on without one
        inquiry.problems.add(
            argument,
            "the destination has no GPU group of the same types of GPU (%s)" % ", ".join(types),
            "a pool that has one; or destroy it (xe vgpu-destroy)",
        )
        return None
    if given:
        named: Optional[Dict[str, Any]] = inquiry.destination.by_uuid("GPU_group", given)[1]
        if not named:
            inquiry.problems.add(
                argument, "no GPU group of the destination is %s" % given, "the UUID of one there"
            )
        return named
    if chosen or len(alike) == 1:
        return chosen or alike[0]
    inquiry.problems.add(
        argument,
        "the destination has more than one GPU group of the same types of GPU",
        "give %s=<GPU group>: one of %s"
        % (argument, ", ".join(sorted(group["uuid"] for group in alike))),
    )
    return None
