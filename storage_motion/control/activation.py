"""An activation that nobody is at any more.

SM notes `activating` in a VDI's sm_config while it activates it, and takes it away itself; nothing else does, not even the reset at
the plug of an SR (facts: sm, blktap2.VDI._add_tag, resetvdis). When the host loses its power in between, the key stays: SM then
activates the VDI nowhere, and nobody can know that it is not active.
"""
import logging

from storage_motion.control import gate
from storage_motion.dom0 import inventory, launch
from storage_motion.xapi.records import Records

log = logging.getLogger("sxm")


def end_dead(session, uuid):
    """Take `activating` off a VDI (a UUID; None: there is none) of an SR that only this host has, if no process of this host is at it:
    a command of SM has the VDI's UUID in its argument. Whether it was taken off."""
    view = Records(session)
    ref, vdi = view.by_uuid("VDI", uuid) if uuid else (None, None)
    if not ref or gate.ACTIVATING not in vdi["sm_config"] or not _only_here(view, vdi["SR"]):
        return False
    # The key was there before the processes are looked for: whoever starts now did not write it.
    if launch.running(mentioning=[uuid]):
        return False
    log.warning("VDI %s: the activation that was under way when this host died is ended", uuid)
    session.xenapi.VDI.remove_from_sm_config(ref, gate.ACTIVATING)
    return True


def _only_here(view, sr):
    hosts = [view.of("host", view.of("PBD", pbd)["host"]) for pbd in view.of("SR", sr)["PBDs"]]
    return [host and host["uuid"] for host in hosts] == [inventory.host_uuid()]
