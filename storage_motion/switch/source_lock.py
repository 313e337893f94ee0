# SPDX-License-Identifier: LGPL-2.1-only
"""A one-way door before a source disk, for the time of the move: it may be deactivated, and not
activated again.

A guest that reboots has its disk deactivated and activated, the second time without the mirror;
should that fall between our last look at the mirror and the suspend, the mirror would have ended
cleanly and the destination would lack what was written since. `relinking` in sm_config is SM's own
key that an activation waits for and a deactivation does not look at (docs/facts/tapdisk-and-sm.md,
8, blktap2.VDI._add_tag, _check_tag). Behind it, a tapdisk that shows the mirror is the one
that will be deactivated for the move.
"""

import json
from typing import TYPE_CHECKING, Any, Dict

from storage_motion import waiting
from storage_motion.errors import MoverFailed
from storage_motion.sm import marks, repeated_commands, sr_master
from storage_motion.switch import gate
from storage_motion.wire import mover_status

if TYPE_CHECKING:
    from storage_motion.plan.plan import Disk
    from storage_motion.switch.protocols import Migration

COALESCE_TIMEOUT = 60.0  # seconds for SM to be done with relinking the disk itself
RELINK_POLL = 1.0
STAT_TIMEOUT = 60.0


def begin(m: "Migration", disk: "Disk") -> None:
    """Begin the lock, and prove from its tapdisk that the mirror is attached, if it has one.

    Raises MirrorBroken, or DestinationFull if that is why; TimedOut, SmFault."""
    begin_when_relinked(m, disk)
    if m.plan.mirrors(disk):
        _prove(m, disk)


def begin_when_relinked(m: "Migration", disk: "Disk") -> None:
    """Begin it as soon as SM does not relink it any more. A mark of SM's that nobody will take
    away, as its collector leaves on a QCOW2 disk in use, gives way. Raises TimedOut, SmFault."""
    vdi = m.source_vdi(disk)

    def is_begun() -> bool:
        if _begin(m, vdi):
            return True
        if _is_sms(m, vdi):
            sr_master.end_relinking(m.source, disk.source_sr, disk.key)
        return _begin(m, vdi)

    waiting.until(is_begun, COALESCE_TIMEOUT, "SM relinks VDI %s" % disk.key, RELINK_POLL)


def _is_sms(m: "Migration", vdi: str) -> bool:
    config: Dict[str, str] = m.source.xenapi.VDI.get_sm_config(vdi)
    return config.get(marks.RELINKING) == marks.RELINKED_BY_SM


def hold(m: "Migration", disk: "Disk") -> None:
    """Put it back, with the proof, if SM's garbage collector has taken it away, as it does when it
    has relinked the disk.

    To be called again and again until the disk is deactivated for the move. Raises as `begin`."""
    vdi = m.source_vdi(disk)
    # While SM relinks the key is its own, and keeps everybody out as well.
    if marks.RELINKING not in m.source.xenapi.VDI.get_sm_config(vdi) and _begin(m, vdi):
        if m.plan.mirrors(disk):
            _prove(m, disk)


def _prove(m: "Migration", disk: "Disk") -> None:
    stat = json.loads(
        repeated_commands.ask(
            m.source, disk.source_sr, "vdi_mirror_stat", disk.key, timeout=STAT_TIMEOUT
        )
    )
    if stat["state"] != "mirroring":
        raise mover_status.fault_of(
            disk.key, _told_by_mover(m, disk), "tapdisk has no mirror any more: %s" % stat["state"]
        )


def _told_by_mover(m: "Migration", disk: "Disk") -> Dict[str, Any]:
    """The mover's status, which has the cause; {} if it tells nothing any more."""
    try:
        return m.mover(disk.key).status()
    except MoverFailed:
        return {}


def lift(m: "Migration", disk: "Disk") -> None:
    """Take our `relinking` away, if it is there, or what SM has left in its place: else the disk
    could not be activated. One that SM puts later is seen before the next migration
    (plan/relinking.py). Of a disk that is `kept` closed it stays
    (migration/unplugged_disks.py)."""
    if not m.disk(disk.key).get("kept"):
        take_away(m, disk)


def take_away(m: "Migration", disk: "Disk") -> None:
    """The same, whatever the disk is."""
    vdi = m.source_vdi(disk)
    gate.remove(m.source, vdi, marks.of_source(m.id), marks.RELINKING)
    if _is_sms(m, vdi):
        with m.tolerated("SM's mark of relinking on %s" % disk.key):
            sr_master.end_relinking(m.source, disk.source_sr, disk.key)


def begin_again(m: "Migration", disk: "Disk") -> bool:
    """Put it back if it has gone since, as after something that was interrupted. Whether it is
    there now."""
    return _begin(m, m.source_vdi(disk))


def is_begun(m: "Migration", disk: "Disk") -> bool:
    """Whether it is there."""
    config: Dict[str, str] = m.source.xenapi.VDI.get_sm_config(m.source_vdi(disk))
    return config.get(marks.RELINKING) == marks.of_source(m.id)


def _begin(m: "Migration", vdi: str) -> bool:
    return gate.put(m.source.xenapi.VDI, vdi, marks.RELINKING, marks.of_source(m.id))
