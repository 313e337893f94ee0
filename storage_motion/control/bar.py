"""A one-way door before a source disk, for the time of the move: it may be deactivated, and not activated again.

A guest that reboots has its disk deactivated and activated, the second time without the mirror; should that fall between our last
look at the mirror and the suspend, the mirror would have ended cleanly and the destination would lack what was written since.
`relinking` in sm_config is SM's own key that an activation waits for and a deactivation does not look at (facts: sm,
blktap2.VDI._add_tag, _check_tag). Behind the bar, a tapdisk that shows the mirror is the one that will be deactivated for the move.
"""
import json

from storage_motion.control import driver, gate, movers, waiting
from storage_motion.dom0 import smapi
from storage_motion.errors import MoverFailed

BAR = smapi.BOLT_KEY
COALESCE_TIMEOUT = 60.0    # seconds for SM to be done with relinking the disk itself
STAT_TIMEOUT = 60.0


def put(m, disk):
    """Bar the disk, and prove from its tapdisk that the mirror is attached.

    Raises MirrorBroken, or DestinationFull if that is why; TimedOut, SmFault."""
    vdi = m.source_vdi(disk)
    waiting.until(lambda: _put(m, vdi), COALESCE_TIMEOUT, "SM relinks VDI %s" % disk.key)
    _prove(m, disk)


def hold(m, disk):
    """Put it back, with the proof, if SM's garbage collector has taken it away, as it does when it has relinked the disk.

    To be called again and again until the disk is deactivated for the move. Raises as `put`."""
    vdi = m.source_vdi(disk)
    # While SM relinks the key is its own, and keeps everybody out as well.
    if BAR not in m.source.xenapi.VDI.get_sm_config(vdi) and _put(m, vdi):
        _prove(m, disk)


def _prove(m, disk):
    stat = json.loads(driver.ask(m.source, disk.source_sr, "vdi_mirror_stat", disk.key, timeout=STAT_TIMEOUT))
    if stat["state"] != "mirroring":
        raise movers.fault_of(disk.key, _told_by_mover(m, disk), "tapdisk has no mirror any more: %s" % stat["state"])


def _told_by_mover(m, disk):
    """The mover's status, which has the cause; {} if it tells nothing any more."""
    try:
        return m.mover(disk.key).status()
    except MoverFailed:
        return {}


def lift(m, disk):
    """Take our bar away, if it is there."""
    gate.unseal(m.source, m.source_vdi(disk), _value(m), BAR)


def put_again(m, disk):
    """Put the bar back if it has gone since, as after something that was interrupted. Whether it is there now."""
    return _put(m, m.source_vdi(disk))


def is_put(m, disk):
    """Whether it is there."""
    return m.source.xenapi.VDI.get_sm_config(m.source_vdi(disk)).get(BAR) == _value(m)


def _put(m, vdi):
    return gate.put(m.source.xenapi.VDI, vdi, BAR, _value(m))


def _value(m):
    return "sxm " + m.id
