# SPDX-License-Identifier: LGPL-2.1-only
"""Checks of SRs: what they take, their room, who is plugged to them, and what SM has left."""

from typing import Any, Dict, Iterator, List, Tuple

from storage_motion.api import left_marks
from storage_motion.cli import output
from storage_motion.cli.doctor.findings import OK, PROBLEM, WARNING, Finding
from storage_motion.cli.doctor.looking import Seen

NO_DISKS = ("iso", "udev")  # types of SR that hold no VM's disks
FULL = 0.95  # of an SR: then hardly a snapshot has room
RELINKING_GUIDE = "docs/operations.md, SM has left `relinking` on a disk"
PAUSED_GUIDE = "docs/operations.md, SXM_DISK_PAUSED: look who is at it first"


def _srs(seen: Seen) -> List[Tuple[str, Dict[str, Any]]]:
    found = seen.view.all("SR").items()
    return sorted(
        [
            (ref, sr)
            for ref, sr in found
            if sr["type"] not in NO_DISKS and sr["content_type"] != "iso"
        ],
        key=lambda one: (one[1]["name_label"], one[1]["uuid"]),
    )


def formats(seen: Seen) -> Iterator[Finding]:
    """What each SR takes."""
    for ref, sr in _srs(seen):
        where = seen.where("SR", ref)
        if sr["type"] in left_marks.SR_TYPES:
            kinds = ", ".join(left_marks.formats_of(seen.view, sr))
            yield Finding(OK, "type %s, takes %s" % (sr["type"], kinds), where)
        else:
            yield Finding(OK, "type %s: disks cannot move from or to it" % sr["type"], where)


def room(seen: Seen) -> Iterator[Finding]:
    """SRs that are nearly full."""
    for ref, sr in _srs(seen):
        size, used = int(sr["physical_size"]), int(sr["physical_utilisation"])
        if size > 0 and used >= FULL * size:
            yield Finding(
                WARNING,
                "only %s of %s are free: a move from here wants room for snapshots, too"
                % (output.size(max(0, size - used)), output.size(size)),
                seen.where("SR", ref),
                "make room there; sxm plan says how much a move takes",
            )


def plugged(seen: Seen) -> Iterator[Finding]:
    """Hosts that have no part in an SR, or are not plugged to it."""
    for ref, sr in _srs(seen):
        pbds = [(one, seen.view.of("PBD", one)) for one in sr["PBDs"]]
        by_host = {pbd["host"]: pbd for _, pbd in pbds if pbd}
        where = seen.where("SR", ref)
        if not by_host:
            yield Finding(
                WARNING,
                "is detached from all hosts",
                where,
                "xe pbd-create and xe pbd-plug for the hosts that shall have it, or xe sr-forget "
                "uuid=%s" % sr["uuid"],
            )
            continue
        for host, record in seen.hosts:
            pbd = by_host.get(host)
            if pbd is None and sr["shared"]:
                yield Finding(
                    WARNING,
                    "is shared, and host %s has no PBD for it: no VM with disks in it moves there"
                    % record["name_label"],
                    where,
                    "xe pbd-create host-uuid=%s sr-uuid=%s device-config:... as the other hosts "
                    "have it, then xe pbd-plug" % (record["uuid"], sr["uuid"]),
                )
            elif pbd is not None and not pbd["currently_attached"]:
                yield Finding(
                    WARNING,
                    "is not plugged to host %s" % record["name_label"],
                    where,
                    "xe pbd-plug uuid=%s" % pbd["uuid"],
                )


def sm_marks(seen: Seen) -> Iterator[Finding]:
    """VDIs that SM has left `relinking` or `paused`."""
    for ref, state in sorted(seen.relinking.items()):
        where = seen.where("VDI", ref)
        if state == "left":
            yield Finding(
                PROBLEM,
                "SM has left `relinking` on it, and nobody is at it: SM starts no VM with it",
                where,
                RELINKING_GUIDE,
            )
        elif state == "unknown":
            yield Finding(
                WARNING,
                "SM relinks it, or has left that: somebody is at its SR just now",
                where,
                "run sxm doctor again in some minutes; if it stays: %s" % RELINKING_GUIDE,
            )
    for ref in seen.paused:
        yield Finding(
            WARNING,
            "SM has it paused, for longer than that should take",
            seen.where("VDI", ref),
            PAUSED_GUIDE,
        )
