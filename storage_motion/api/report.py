# SPDX-License-Identifier: LGPL-2.1-only
"""All that a report of one migration needs (`fn=report`): its status, the plan, when what began,
the samples, and what it all comes to. For a person to read afterwards: nothing is decided by it.

No secret is in it: neither is one in the journal, and of a disk's plan only DISK is told.
"""

import json
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Tuple

import XenAPI

from storage_motion.api import status
from storage_motion.journal import course, journal, steps
from storage_motion.migration.phases import table as phases
from storage_motion.plan.plan import Disk, Plan
from storage_motion.xapi.records import UNKNOWN

if TYPE_CHECKING:
    Event = Tuple[float, Any]

VERSION = 2
"""Of the answer. 2: `sent` and `zeros` of disks, `sent` of samples (`verified` before); `limits`.
What an `sxm` makes of an older one is in storage_motion/cli/report/answers.py."""
MAX_BYTES = 2 << 20  # of the answer: each second sample goes until it is not larger
DISK = (
    "size",
    "data",
    "source_sr_name",
    "destination_sr",
    "destination_sr_name",
    "image_format",
    "read_only",
    "unplugged",
    "base",
    "base_there",
    "base_why",
)
"""What is told of a disk's plan, beside its name. `data`: the bytes that it was taken to hold."""
SOFTWARE = ("product_brand", "product_version", "build_number", "xapi_build", "xen", "linux")
MOVED = "moved"  # the last state of a disk, which lasts for good
BYTES = (
    "size",
    "to_copy",
    "sent",
    "verified",
    "zeros",
    "skipped",
    "same",
    "saved",
    "found",
    "sparse",
    "of_base",
    "mirrored",
)


def of(entry: Dict[str, Any], session: "XenAPI.Session") -> Dict[str, Any]:
    """The answer for a journal's content."""
    plan = Plan.from_json(entry["plan"])
    found = course.read(entry["migration"])
    indices = {disk.key: entry["disks"][disk.key].get("index") for disk in plan.sent}
    answer = status.of(entry)
    for disk, told in zip(plan.disks + plan.history, answer["disks"] + answer["snapshots"]):
        _account(disk, told, entry["disks"][disk.key])
    answer.update(
        report=VERSION,
        ended=None if entry["state"] == journal.RUNNING else entry["updated"],
        plan=_planned(plan),
        timeline=_timeline(entry, found, indices),
        sample_fields=list(course.SAMPLE),
        samples={
            key: found.samples.get(index, []) for key, index in indices.items() if index is not None
        },
        bytes={
            name: sum(one.get(name) or 0 for one in answer["disks"] + answer["snapshots"])
            for name in BYTES
        },
        pause={"all": entry["downtime"], "storage": _storage_part(plan, found)},
        hosts=_hosts(plan, session),
    )
    return bounded(answer)


def bounded(answer: Dict[str, Any], most: int = MAX_BYTES) -> Dict[str, Any]:
    """The answer with so few samples that it has at most so many bytes of JSON, where that is
    possible."""
    while len(json.dumps(answer)) > most and any(len(r) > 1 for r in answer["samples"].values()):
        answer["samples"] = {key: course.halved(r) for key, r in answer["samples"].items()}
    return answer


def _account(disk: Disk, told: Dict[str, Any], entry: Dict[str, Any]) -> None:
    """Add to what the status tells of a disk where its bytes have come from: `size` is `sent` (and
    read back), `zeros` (that were asked for there, and read back), `skipped` (the guest wrote it
    anew), `found` (was at the destination already), `of_base` (has the disk that it arrives as a
    clone of) and `sparse` (zeros that nobody looked at). Then how the switch left it."""
    known = not told["estimated"]
    found = min(told["saved"], told["same"])  # `saved` has those of earlier movers, too
    left_out = disk.size - told["to_copy"] if known else 0
    told.update(
        found=found,
        sparse=(0 if disk.base else left_out) + told["same"] - found,
        of_base=left_out if disk.base else 0,
        sent=told["verified"] - told["zeros"],
        mirrored=told["mirrored_bytes"],
        gate=entry.get("gate"),
        given_up=entry.get("given_up", 0),
    )


def _planned(plan: Plan) -> Dict[str, Any]:
    return {
        "live": plan.live,
        "compress": plan.compress,
        "disks": [_planned_disk(plan, disk) for disk in plan.disks + plan.history],
        "staying": plan.staying,
        "vifs": [dict(vif._asdict()) for vif in plan.vifs],
        "snapshots": [dict(one._asdict()) for one in plan.snapshots],
        "warnings": list(plan.warnings),
        "notes": list(plan.notes),
    }


def _planned_disk(plan: Plan, disk: Disk) -> Dict[str, Any]:
    told = {name: getattr(disk, name) for name in DISK}
    told.update(
        vdi=disk.key,
        device=disk.device,
        name=disk.name_label,
        mirrored=plan.mirrors(disk),
        snapshot=disk.snapshot,
    )
    return told


def _timeline(
    entry: Dict[str, Any], found: course.Read, indices: Dict[str, Optional[int]]
) -> Dict[str, Any]:
    """Spans: {"name", "state" or "bandwidth" (bytes per second, 0: none), "begun", "ended" (None:
    it goes on)}, seconds since the epoch."""
    end = None if entry["state"] == journal.RUNNING else entry["updated"]
    ended = [at for at, _ in _events(found, "state", None)]
    spans = _spans(_events(found, "phase", None), ended[-1] if ended else end, "name")
    disks = []
    for key, index in indices.items():
        gates = _events(found, "gate", index) if index is not None else []
        states = _events(found, "state", index) if index is not None else []
        spans_of_disk = _spans(states, end, "state")
        disks.append(
            {
                "vdi": key,
                "states": [span for span in spans_of_disk if span["state"] != MOVED],
                "gates": [{"step": step, "at": at} for at, step in gates],
            }
        )
    return {
        "phases": [dict(span, title=phases.title(span["name"])) for span in spans],
        "disks": disks,
        "limits": _spans(_events(found, "bandwidth", None), end, "bandwidth"),
        "tries": [at for at, tries in _events(found, "tries", None) if tries],
    }


def _events(found: course.Read, kind: str, disk: Optional[int]) -> "List[Event]":
    return [(event[1], event[3]) for event in found.events if event[0] == kind and event[2] == disk]


def _spans(events: "Iterable[Event]", end: Optional[float], name: str) -> List[Dict[str, Any]]:
    """Each lasts until the next one begins. One that is noted again goes on."""
    spans: List[Dict[str, Any]] = []
    for at, value in events:
        if spans and spans[-1][name] == value:
            continue
        if spans:
            spans[-1]["ended"] = max(spans[-1]["begun"], at)
        spans.append({name: value, "begun": at, "ended": None})
    if spans and end is not None:
        spans[-1]["ended"] = max(spans[-1]["begun"], end)
    return spans


def _storage_part(plan: Plan, found: course.Read) -> Optional[float]:
    """Seconds from when the first disk was closed at the source to when the last one was open at
    the destination. None where nobody has waited for that, or it is not known."""
    at = {
        step: [event[1] for event in found.events if event[0] == "gate" and event[3] == step]
        for step in (steps.DETACHED, steps.OPEN)
    }
    if not plan.live or not at[steps.DETACHED] or not at[steps.OPEN]:
        return None
    return max(0.0, round(max(at[steps.OPEN]) - min(at[steps.DETACHED]), 3))


def _hosts(plan: Plan, session: "XenAPI.Session") -> Dict[str, Optional[Dict[str, str]]]:
    """The versions of both hosts' software now: of one in this pool, else None."""
    return {
        "source": _software(session, plan.source_host),
        "destination": None if plan.cross_pool else _software(session, plan.destination_host),
    }


def _software(session: "XenAPI.Session", uuid: str) -> Optional[Dict[str, str]]:
    try:
        host = session.xenapi.host.get_by_uuid(uuid)
        versions = session.xenapi.host.get_software_version(host)
    except XenAPI.Failure as failure:
        if failure.details[0] not in UNKNOWN:
            raise
        return None  # it has left the pool since
    return {name: versions[name] for name in SOFTWARE if name in versions}
