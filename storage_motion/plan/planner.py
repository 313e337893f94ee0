# SPDX-License-Identifier: LGPL-2.1-only
"""From a request to a plan: looks everything up in both pools, and names everything that is wrong
at once.

What a VM, a disk and an SR must be like is in checks.py."""

import sys
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from storage_motion.plan import (
    availability,
    bases,
    cds,
    checks,
    copies,
    destination_host,
    disk_goals,
    gpus,
    left_behind,
    tpms,
    tracked_disks,
    vifs,
    vm_snapshots,
)
from storage_motion.plan.inquiry import Attached, Inquiry, disks_of
from storage_motion.plan.plan import CROSS_POOL, IN_POOL, Plan
from storage_motion.xapi.records import NULL, SUSPENDED, Records

if TYPE_CHECKING:
    from storage_motion.plan.protocols import Problems, Request


def find_vm(
    request: "Request", source: Records, problems: "Problems"
) -> Tuple[Optional[str], Optional[Dict[str, Any]]]:
    """(ref, record) of the VM that the request means in the pool of `source` (Records); (None,
    None) if it is not there."""
    if not request.vm:
        return None, None
    ref, record = source.by_uuid("VM", request.vm)
    if ref:
        return ref, record
    named = (
        []
        if request.vm_argument == "uuid"
        else source.session.xenapi.VM.get_by_name_label(request.vm)
    )
    records = [(ref, source.of("VM", ref)) for ref in named]
    records = [
        (ref, vm)
        for ref, vm in records
        if vm and not vm["is_a_snapshot"] and not vm["is_a_template"]
    ]
    if len(records) == 1:
        return records[0]
    if records:
        problems.add(
            request.vm_argument,
            "%d VMs are called %r" % (len(records), request.vm),
            "the UUID of one, or have several moved by sxm evacuate",
        )
    else:
        problems.add(
            request.vm_argument,
            "no VM %r in this pool" % request.vm,
            "the UUID or the name of a VM",
        )
    return None, None


def home(source: Records, vm: Dict[str, Any], default: Optional[str]) -> Optional[str]:
    """The ref of the host that the migration of a VM (its record) is run from.

    The one that it runs on; for a halted VM, one that sees all its disks, `default` (a ref) if that
    does. None if none does."""
    if vm["power_state"] not in ("Halted", SUSPENDED):
        return vm["resident_on"] if vm["resident_on"] != NULL else None
    srs = [source.of("SR", vdi["SR"]) for _, _, vdi in disks_of(source, vm)]
    seers = [
        ref
        for ref, host in sorted(source.all("host").items())
        if checks.usable(source, host) and all(checks.plugged(source, sr, ref) for sr in srs)
    ]
    return default if default in seers else next(iter(seers), None)


def make(
    request: "Request",
    source: Records,
    destination: Optional[Records],
    vm: Dict[str, Any],
    here: str,
    problems: "Problems",
    room_to_keep: int = sys.maxsize,
) -> Optional[Plan]:
    """The Plan, or None if there are problems.

    `source`, `destination`: Records of the two pools, the same object for a move within one;
    `destination` is None if there is no session with it, which is a problem already. `vm`: its
    record; `here`: the ref of this host, which is its `home`. `room_to_keep`: see Inquiry."""
    inquiry = Inquiry(request, source, destination, vm, here, problems, room_to_keep)
    # All checks, in the order in which one builds on the other.
    checks.check(checks.VM_CHECKS, problems, request.vm_argument, "VM %s" % vm["name_label"], vm)
    if vm["power_state"] == SUSPENDED:
        checks.check(
            checks.SUSPENDED_CHECKS, problems, request.vm_argument, "VM %s" % vm["name_label"], vm
        )
    if request.copy:
        checks.check(
            checks.COPY_CHECKS,
            problems,
            "copy",
            "VM %s" % vm["name_label"],
            vm,
            {"cross_pool": inquiry.cross_pool, "ha": bool(source.pool().get("ha_enabled"))},
        )
    if checks.CLAIM not in vm["other_config"]:
        checks.blocked(problems, request.vm_argument, vm)
    if request.live is False and inquiry.live:
        problems.add(
            "live",
            "is false, and VM %s runs" % vm["name_label"],
            "live=true, or shut it down first",
        )
    disks = disks_of(source, vm)
    if len(disks) > checks.MAX_DISKS:
        problems.add(
            request.vm_argument, "has %d disks" % len(disks), "at most %d" % checks.MAX_DISKS
        )
    if not disks:
        problems.add(request.vm_argument, "has no disks to move", "use xe vm-migrate")
    _foreign_keys(inquiry, disks)
    if not inquiry.reaches_destination:
        return None
    if inquiry.cross_pool:
        _other_pool(inquiry)
    goals = disk_goals.find_goals(inquiry, disks)
    host_ref, host = destination_host.find_host(
        inquiry, [goal[1] for goal in goals.values() if goal]
    )
    network, address = destination_host.data_network(inquiry, host_ref, host)
    moving, staying = disk_goals.moving_disks(inquiry, disks, goals, host_ref, host)
    drives = cds.of_drives(inquiry, host_ref) if host_ref else []
    interfaces = vifs.find_networks(inquiry, host_ref, host)
    vgpus = gpus.find_groups(inquiry)
    snapshots = vm_snapshots.find(inquiry, moving, interfaces, host_ref, host)
    own, history = bases.find(inquiry, snapshots.disks, snapshots.history, snapshots.dropped)
    if problems:
        return None
    assert host_ref is not None and host is not None
    source_host = source.of("host", here)
    return Plan(
        kind=CROSS_POOL if inquiry.cross_pool else IN_POOL,
        live=inquiry.live,
        vm=vm["uuid"],
        vm_name=vm["name_label"],
        source_host=source_host["uuid"],
        source_host_name=source_host["name_label"],
        destination_host=host["uuid"],
        destination_host_name=host["name_label"],
        master=request.remote.url if request.remote is not None else "",
        network=network,
        address=address,
        disks=sorted(own, key=lambda disk: (disk.size, disk.device)),
        staying=staying,
        cds=drives,
        vifs=interfaces,
        check_cpu=not request.force and vm["power_state"] != "Halted",
        compress=host["uuid"] != source_host["uuid"]
        and bool(source.pool().get("migration_compression")),
        warnings=tuple(
            availability.cautions(inquiry, moving)
            + gpus.cautions(inquiry, vgpus)
            + cds.cautions(inquiry, drives, host_ref)
            + tracked_disks.cautions(inquiry, moving)
            + left_behind.cautions(inquiry)
            + vm_snapshots.cautions(inquiry, snapshots)
            + copies.cautions(inquiry)
        ),
        history=history,
        snapshots=snapshots.snapshots,
        snapshot_vifs=snapshots.interfaces,
        dropped=snapshots.dropped,
        copy=request.copy,
        vgpus=vgpus,
        notes=tuple(vifs.notes(inquiry, interfaces) + gpus.notes(inquiry, vgpus)),
    )


def _foreign_keys(inquiry: Inquiry, disks: List[Attached]) -> None:
    """Arguments that name a disk or an interface have to name one of this VM."""
    keys = {vdi["uuid"] for _, _, vdi in disks}
    for uuid in sorted(set(inquiry.request.vdis) - keys - set(vm_snapshots.images(inquiry))):
        inquiry.problems.add(
            "vdi:" + uuid,
            "is not a disk of VM %s" % inquiry.vm["name_label"],
            "its disks are %s" % (", ".join(sorted(keys)) or "none"),
        )
    for uuid in sorted(set(inquiry.request.formats) - keys):
        inquiry.problems.add(
            "image-format:" + uuid,
            "is not a disk of VM %s" % inquiry.vm["name_label"],
            "its disks are %s" % (", ".join(sorted(keys)) or "none"),
        )
    vms = [inquiry.vm] + [
        vm for vm in (inquiry.source.of("VM", ref) for ref in inquiry.vm.get("snapshots", [])) if vm
    ]
    interfaces = {inquiry.source.of("VIF", ref)["uuid"] for vm in vms for ref in vm["VIFs"]}
    for uuid in sorted(set(inquiry.request.vifs) - interfaces):
        inquiry.problems.add(
            "vif:" + uuid,
            "is not an interface of VM %s" % inquiry.vm["name_label"],
            "its interfaces are %s" % (", ".join(sorted(interfaces)) or "none"),
        )


def _other_pool(inquiry: Inquiry) -> None:
    if inquiry.source.pool()["uuid"] == inquiry.destination.pool()["uuid"]:
        inquiry.problems.add(
            "remote-master",
            "is the master of the VM's own pool",
            "another pool's, or leave remote-... out for a move within the pool",
        )
    elif not inquiry.request.copy and inquiry.destination.ref("VM", inquiry.vm["uuid"]):
        inquiry.problems.add(
            inquiry.request.vm_argument,
            "the destination pool has a VM %s already" % inquiry.vm["uuid"],
            "remove that one first",
        )
    tpms.require(inquiry)
