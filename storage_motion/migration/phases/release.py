# SPDX-License-Identifier: LGPL-2.1-only
"""The last undo: the VM at the source is one like any other again, and xapi cannot forget that."""

from typing import TYPE_CHECKING, Dict, List

from storage_motion.migration import durable
from storage_motion.migration.phases import (
    block_tracking,
    blocking,
    claim,
    ha_protection,
    sharable_disks,
    snapshot_vms,
)
from storage_motion.plan.checks import CLAIM
from storage_motion.sm import marks
from storage_motion.switch import gate, source_lock
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk


def release(m: "Migration") -> None:
    """Take back what `claim` did, and the source's lock, if an older database has brought it
    back since it was lifted. Raises NotDurable."""
    durable.keep(
        (m.source,), lambda: _release(m), lambda: _marked(m), "that VM %s is released" % m.plan.vm
    )
    block_tracking.done(m)


def _release(m: "Migration") -> None:
    for disk in m.plan.disks:
        if Records(m.source).ref("VDI", disk.key):
            source_lock.lift(m, disk)
            if not m.disk(disk.key).get("kept"):
                gate.remove(m.source, m.source_vdi(disk), marks.of_source(m.id))
    block_tracking.enable_at_source(m)  # while nobody moves the VM
    claim.release(m)


def _is_locked(m: "Migration", disk: "Disk") -> bool:
    config: Dict[str, str] = m.source.xenapi.VDI.get_sm_config(m.source_vdi(disk))
    return marks.of_source(m.id) in (config.get(marks.PAUSED), config.get(marks.RELINKING))


def _marked(m: "Migration") -> List[str]:
    found = [
        "the lock of source VDI %s is back" % disk.key
        for disk in m.plan.disks
        if Records(m.source).ref("VDI", disk.key) and _is_locked(m, disk)
    ]
    vm = m.source.xenapi.VM.get_record(m.vm())
    if (
        vm["other_config"].get(CLAIM) == m.id
        or blocking.reason(m.id) in vm["blocked_operations"].values()
    ):
        found.append("the VM is claimed again")
    found += sharable_disks.lacking(m)
    found += snapshot_vms.blocked(m)
    found += ha_protection.lacking(m, m.source, m.vm())
    for uuid in m.entry.get("fastened", []):
        vbd = Records(m.source).ref("VBD", uuid)
        if vbd and not m.source.xenapi.VBD.get_unpluggable(vbd):
            found.append("VBD %s cannot be unplugged again" % uuid)
    return found + block_tracking.owed_at_source(m)
