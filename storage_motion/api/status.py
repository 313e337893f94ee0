# SPDX-License-Identifier: LGPL-2.1-only
"""What the plugin tells of a migration: its journal, and for what moves fast, the worker's last
report."""

from typing import Any, Dict, List, Optional

from storage_motion.dom0.launch import Process
from storage_motion.journal import journal, steps
from storage_motion.migration import bandwidth, progress
from storage_motion.migration.phases import table as phases
from storage_motion.plan.plan import Disk, Plan

# A disk's fields in the answer, and what they are before anything is known.
DISK_FIELDS = (
    ("to_copy", None),
    ("copied", 0),
    ("verified", 0),
    ("zeros", 0),
    ("skipped", 0),
    ("same", 0),
    ("saved", 0),
    ("mirrored_bytes", 0),
    ("mirrored_writes", 0),
    ("longest_stall", 0.0),
    ("waited", 0.0),
    ("recent_stall", 0.0),
)


def of(entry: Dict[str, Any]) -> Dict[str, Any]:
    """The answer of `status` for a journal's content."""
    plan = Plan.from_json(entry["plan"])
    disks = _disks(entry)
    moved, whole = progress.totals(plan, disks)
    answer = brief(entry)
    answer.update(
        phases=[phase.name for phase in phases.of(plan)],
        bytes_to_move=whole,
        bytes_moved=moved,
        downtime=entry["downtime"],
        left=entry["left"],
        committed=entry["committed"],
        disks=[_disk(plan, disk, disks[disk.key]) for disk in plan.disks],
        snapshots=[
            dict(_disk(plan, disk, disks[disk.key]), snapshot=disk.snapshot)
            for disk in plan.history
        ],
        cds=[dict(cd._asdict()) for cd in plan.cds],
        broken=entry.get("broken"),
        bandwidth=bandwidth.of(entry),
        warnings=list(plan.warnings) + entry.get("warnings", []),
        notes=list(plan.notes),
        tries=entry.get("tries", 0),
        saved=sum(disks[disk.key].get("saved", 0) for disk in plan.disks),
    )
    return answer


def brief(entry: Dict[str, Any]) -> Dict[str, Any]:
    """The answer of `list` for one migration."""
    plan = entry["plan"]
    return {
        "migration": entry["migration"],
        "vm": plan["vm"],
        "vm_name": plan["vm_name"],
        "kind": plan["kind"],
        "copy": plan.get("copy", False),
        "new_vm": entry.get("new_vm", ""),
        "source_host": plan["source_host_name"],
        "destination_host": plan["destination_host_name"],
        "source_host_uuid": plan["source_host"],
        "destination_host_uuid": plan["destination_host"],
        "destination_master": plan["master"],
        "state": entry["state"],
        "phase": entry["phase"],
        "doing": phases.title(entry["phase"]),
        "error": entry["error"] or stopped(entry),
        "task": entry["task"],
        "started": entry["started"],
        "updated": entry["updated"],
        "alive": entry["state"] == journal.RUNNING and worker_alive(entry),
    }


def stopped(entry: Dict[str, Any]) -> Optional[List[str]]:
    """Why a migration that has not ended is not gone on with, [code, detail, ...]: its journal
    could not be written. Else None."""
    return progress.stopped(entry["migration"]) if entry["state"] == journal.RUNNING else None


def worker_alive(entry: Dict[str, Any]) -> bool:
    """Whether the worker of a migration still runs. True as well before it has said who it is."""
    process = Process.from_json(entry["worker"])
    return process is None or process.alive()


def _disks(entry: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """{key: entry}: the worker's last report while it runs, as it is more recent; else the
    journal."""
    if entry["state"] == journal.RUNNING:
        report = progress.read(entry["migration"])
        if report and report["updated"] > entry["updated"]:
            return report["disks"]
    return entry["disks"]


def _disk(plan: Plan, disk: Disk, entry: Dict[str, Any]) -> Dict[str, Any]:
    answer = {
        "vdi": disk.key,
        "device": disk.device,
        "name": disk.name_label,
        "destination_sr": disk.destination_sr,
        "destination_vdi": entry.get("destination_vdi"),
        "size": disk.size,
        "base_there": disk.base_there,
        "state": entry["state"],
        "mirror": _mirror(plan, disk, entry),
    }
    answer.update({field: entry.get(field, default) for field, default in DISK_FIELDS})
    # What holds data in a disk is known when its copy begins; until then there is the pool's word.
    answer["estimated"] = answer["to_copy"] is None
    if answer["estimated"]:
        answer["to_copy"] = disk.data
    return answer


def _mirror(plan: Plan, disk: Disk, entry: Dict[str, Any]) -> str:
    """How the mirror of a disk is: "none" (nobody writes to it), "off" (not yet), "on", "ended" or
    "broken"."""
    if not plan.mirrors(disk):
        return "none"
    if entry["state"] == "broken":
        return "broken"
    if entry["state"] == "moved" or entry.get("gate", steps.ATTACHED) != steps.ATTACHED:
        return "ended"
    return "on" if entry.get("mirror") else "off"
