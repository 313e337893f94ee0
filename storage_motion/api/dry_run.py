# SPDX-License-Identifier: LGPL-2.1-only
"""What `migrate` answers with dry-run=true: the plan, and what whoever reads it would have to look
up: of each disk where it lies, as what, and what it will be there; the room; what is wrong."""

from typing import TYPE_CHECKING, Any, Dict, List, Optional

from storage_motion.plan import formats, inquiry, room, volumes
from storage_motion.plan.plan import Disk, Plan

if TYPE_CHECKING:
    from storage_motion.api.arguments import Problems
    from storage_motion.xapi.records import Records

THICK, THIN = "thick", "thin"
OK, REFUSED, NOT_ASKED = "ok", "refused", "not asked"


def answer(
    source: "Records",
    destination: Optional["Records"],
    vm: Optional[Dict[str, Any]],
    plan: Optional[Plan],
    rooms: List[room.Room],
    problems: "Problems",
    refused: Optional[List[str]],
) -> Dict[str, Any]:
    """`destination`: None if it was not reached; `vm`: its record, None if there is none; `plan`:
    None if it could not be made; `refused`: xapi's own refusal. Sizes in bytes."""
    judged = plan is not None and not problems
    return {
        "plan": plan.to_json() if plan else None,
        "vm": _vm(source, vm) if vm else None,
        "disks": _disks(source, destination, vm, plan) if vm else [],
        "vifs": _vifs(source, destination, vm, plan) if vm else [],
        "room": [
            dict(one._asdict(), free_after=one.free - one.stays)
            for one in sorted(rooms, key=lambda one: (not one.destination, one.name))
        ],
        "verdict": REFUSED if refused else OK if judged else NOT_ASKED,
        "refused": refused,
        "problems": list(problems.details),
    }


def _vm(source: "Records", vm: Dict[str, Any]) -> Dict[str, Any]:
    host = source.of("host", vm["resident_on"])
    return {
        "uuid": vm["uuid"],
        "name": vm["name_label"],
        "power_state": vm["power_state"],
        "host": host["name_label"] if host else "",
    }


def _disks(
    source: "Records", destination: Optional["Records"], vm: Dict[str, Any], plan: Optional[Plan]
) -> List[Dict[str, Any]]:
    """Of the VM's disks, also those that stay; in the order of their devices."""
    goals = {disk.key: disk for disk in plan.disks} if plan else {}
    return [
        _disk(source, destination, vbd, vdi, goals.get(vdi["uuid"]), plan)
        for _, vbd, vdi in inquiry.disks_of(source, vm)
    ]


def _disk(
    source: "Records",
    destination: Optional["Records"],
    vbd: Dict[str, Any],
    vdi: Dict[str, Any],
    goal: Optional[Disk],
    plan: Optional[Plan],
) -> Dict[str, Any]:
    sr = source.of("SR", vdi["SR"])
    found = {
        "vdi": vdi["uuid"],
        "device": vbd["device"] or vbd["userdevice"],
        "name": vdi["name_label"],
        "sr": _sr(sr),
        "format": room.kind_of(vdi),
        "size": int(vdi["virtual_size"]),
        "data": goal.data if goal else room.data_of(source, vdi),
        "snapshots": len(vdi.get("snapshots", [])),
        "moves": goal is not None if plan else None,
        "destination": None,
    }
    if goal and plan and destination:
        there = destination.by_uuid("SR", goal.destination_sr)[1]
        host = destination.ref("host", plan.destination_host)
        target = destination.by_uuid("VDI", goal.target)[1] if goal.target else None
        kind = (
            room.kind_of(target)
            if target
            else formats.will_be(destination, there, host, goal.size, goal.image_format)
        )
        found["destination"] = dict(
            _sr(there),
            format=kind,
            fills=goal.target,
            clone_of=goal.base_there,
            snapshots=len([one for one in plan.history if one.snapshot_of == goal.key]),
        )
    return found


def _sr(sr: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "uuid": sr["uuid"],
        "name": sr["name_label"],
        "type": sr["type"],
        # whatever an SR on LVM says, a disk that is written to has its whole size (plan/room.py)
        "allocation": THICK if sr["type"] in volumes.TYPES else THIN,
    }


def _vifs(
    source: "Records", destination: Optional["Records"], vm: Dict[str, Any], plan: Optional[Plan]
) -> List[Dict[str, Any]]:
    goals = {vif.vif: vif.network for vif in plan.vifs} if plan else {}
    records = [record for record in (source.of("VIF", ref) for ref in vm["VIFs"]) if record]
    return [
        {
            "vif": vif["uuid"],
            "device": vif["device"],
            "mac": vif["MAC"],
            "network": source.of("network", vif["network"])["name_label"],
            "destination": _network(destination, goals.get(vif["uuid"])),
        }
        for vif in sorted(records, key=lambda vif: vif["device"])
    ]


def _network(destination: Optional["Records"], uuid: Optional[str]) -> Optional[Dict[str, str]]:
    network = destination.by_uuid("network", uuid)[1] if destination and uuid else None
    return {"uuid": network["uuid"], "name": network["name_label"]} if network else None
