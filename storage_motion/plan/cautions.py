# SPDX-License-Identifier: LGPL-2.1-only
"""What a plan warns of: a blktap that is not known to be safe for QCOW2 (dom0/blktap.py), on a host
that has such a disk open."""

from typing import Any, Dict, List, Mapping, Optional

from storage_motion.plan import formats
from storage_motion.plan.plan import Disk, Plan
from storage_motion.xapi.records import Records

WARNING = (
    "host %s has blktap %s, which is not known to be safe for QCOW2: one request at a time "
    "is sent to a QCOW2 disk there, so it moves slowly (docs/operations.md)"
)


def of(
    source: Records, destination: Records, plan: Plan, hosts: Mapping[str, Dict[str, Any]]
) -> List[str]:
    """The warnings: a list of sentences. `source`, `destination`: Records; `hosts`: {uuid: what the
    host says of itself (installed.here)}."""
    there = destination.ref("host", plan.destination_host)
    opened = {
        (plan.source_host_name, plan.source_host)
        for disk in plan.disks
        if _at_source(source, disk) == formats.QCOW2
    }
    opened |= {
        (plan.destination_host_name, plan.destination_host)
        for disk in plan.disks
        if _at_destination(destination, there, disk) == formats.QCOW2
    }
    said = [(name, hosts.get(uuid, {})) for name, uuid in sorted(opened)]
    return [
        WARNING % (name, answer.get("blktap") or "of an unknown version")
        for name, answer in said
        if not answer.get("qcow2_safe")
    ]


def _at_source(source: Records, disk: Disk) -> Optional[str]:
    _, vdi = source.by_uuid("VDI", disk.key)
    return vdi and formats.of(vdi)


def _at_destination(destination: Records, host: Optional[str], disk: Disk) -> str:
    if disk.target:
        _, vdi = destination.by_uuid("VDI", disk.target)
        return vdi and formats.of(vdi)
    _, sr = destination.by_uuid("SR", disk.destination_sr)
    return formats.will_be(destination, sr, host, disk.size, disk.image_format)
