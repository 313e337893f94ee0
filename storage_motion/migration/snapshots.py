# SPDX-License-Identifier: LGPL-2.1-only
"""The snapshots that the mirrors of a migration were begun with. Those that xapi has lost are found
again, and only ours are destroyed.

Every one stays until the VM has moved, or the migration is taken back. Each hidden image that came
of one has two children by that, so SM's garbage collector has nothing to coalesce there; a coalesce
relinks the guest's disk, which breaks its mirror, and a snapshot more for the next mirror would be
the next thing to coalesce. No room is lost: SM itself keeps a mirrored leaf from being coalesced.
"""

import logging
from typing import TYPE_CHECKING, List, Optional

from storage_motion.migration.phases import blocking
from storage_motion.sm import smapi, sr_master
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

log = logging.getLogger("sxm")


def drop(m: "Migration", disk: "Disk") -> None:
    """Destroy the snapshots of a disk that were taken for a mirror of ours. One that somebody else
    took meanwhile is his, and only loses the claim, which xapi has copied to it."""
    _note_lost(m, disk)
    api, entry = m.source.xenapi.VDI, m.disk(disk.key)
    known = [uuid for uuid in entry.get("lost", []) + [entry.get("snapshot")] if uuid]
    for uuid in known:
        find_again(m, disk, uuid)
    # which may no longer say of which disk they are
    there = [Records(m.source).ref("VDI", uuid) for uuid in known]
    found_again = {ref for ref in there if ref is not None}
    for ref in sorted(set(api.get_snapshots(m.source_vdi(disk))) | found_again):
        record = api.get_record(ref)
        if record["uuid"] in known or m.id in record["other_config"].get(
            smapi.MIRROR_MARK, ""
        ).split("/"):
            api.destroy(ref)
        else:
            blocking.unmark_vdi(m.source, record["uuid"], m.id)
    m.note(disk.key, snapshot=None, lost=[])


def _note_lost(m: "Migration", disk: "Disk") -> None:
    """Note the snapshots of tries that have not come about, whose xapi ended before it could note
    whose they are. They have stayed until now as the others have, and for the same reason."""
    entry = m.disk(disk.key)
    if not entry.get("snapshot_since"):
        return
    found = sr_master.lost_snapshots(m.source, disk.source_sr, disk.key, entry["snapshot_since"])
    # Each try can have left one of which xapi knows nothing.
    if len(found["nameless"]) > entry.get("given_up", 0) + 1:
        log.warning(
            "%s: which of %s are snapshots of %s is not known: they stay",
            m.id,
            ", ".join(found["nameless"]),
            disk.key,
        )
        found["nameless"] = []
    lost = sorted(set(found["nameless"] + found["unfinished"]) - {entry.get("snapshot")})
    if lost:
        log.warning("%s: snapshots of %s that xapi has lost: %s", m.id, disk.key, ", ".join(lost))
    m.note(disk.key, lost=lost, snapshot_since=None)


def find_again(m: "Migration", disk: "Disk", uuid: Optional[str]) -> None:
    """A xapi that was killed may have lost the record of a snapshot (a UUID) that it had just made;
    its image is there."""
    if uuid and not Records(m.source).ref("VDI", uuid):
        m.source.xenapi.SR.scan(m.source.xenapi.SR.get_by_uuid(disk.source_sr))


def forgotten(m: "Migration", uuid: str) -> List[str]:
    """What xapi does not know of a snapshot (a UUID): a list, in words."""
    return [] if Records(m.source).ref("VDI", uuid) else ["VDI %s" % uuid]
