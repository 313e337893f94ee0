"""What only the master of a disk's SR can tell of it, since the storage manager works there, and its lock is there: the worker's part, and the plugin's."""
import json

from storage_motion.control import driver, journal
from storage_motion.dom0 import inventory, smapi
from storage_motion.errors import BadArguments
from storage_motion.xapi.records import Records

FUNCTION = "lost-snapshots"
RELINKING = "relinking"
SM_TIMEOUT = 60.0


def lost_snapshots(session, sr_uuid, vdi_uuid, since):
    """The snapshots of a disk that have been taken at `since` (seconds since the epoch) or later, and that xapi, which ended, has not noted as
    such: {"nameless", "unfinished": UUIDs} (dom0/disks/unnamed.py). Raises SmFault, XenAPI.Failure."""
    master = _elsewhere(session, sr_uuid)
    if master is None:
        return json.loads(driver.ask(session, sr_uuid, "vdi_lost_snapshots", vdi_uuid, (repr(since),)))
    return json.loads(session.xenapi.host.call_plugin(master, "sxm.py", FUNCTION, {"vdi": vdi_uuid, "since": repr(since)}))["snapshots"]


def relinking(session, sr_uuid, vdi_uuid):
    """Whether SM has left its `relinking` on a disk: "none", "left", "unknown"
    (dom0/disks/relinking.py). Raises SmFault, XenAPI.Failure."""
    master = _elsewhere(session, sr_uuid)
    if master is None:
        return driver.ask(session, sr_uuid, "vdi_relinking", vdi_uuid)
    answer = session.xenapi.host.call_plugin(master, "sxm.py", RELINKING, {"vdi": vdi_uuid})
    return json.loads(answer)["state"]


def _elsewhere(session, sr_uuid):
    """The ref of the host that is an SR's master; None if it is this one."""
    view = Records(session)
    master = view.pool()["master"]
    if not view.by_uuid("SR", sr_uuid)[1]["shared"]:
        return None
    return None if view.of("host", master)["uuid"] == inventory.host_uuid() else master


# The plugin's, on the master.

def find_lost(session, given):
    """For the worker on a member: {"snapshots": as `lost_snapshots` answers}"""
    try:
        float(given["since"])
    except ValueError:
        raise BadArguments("since: %r is not a time in seconds" % given["since"][:64])
    return {"snapshots": json.loads(_ask(session, given, "vdi_lost_snapshots", given["since"]))}


def look_at_relinking(session, given):
    """For a migration on a member: {"state": as `relinking` answers}"""
    return {"state": _ask(session, given, "vdi_relinking")}


def end_pause(session, given):
    """For the driver on a member (dom0/disks/pauses.py): {"nobody": whether nobody is at the disk here}; what SM has left of a pause is ended."""
    return {"nobody": json.loads(_ask(session, given, "vdi_end_pause", given["host-key"]))}


def _ask(session, given, command, *arguments):
    if not journal.ID.match(given["vdi"]):
        raise BadArguments("vdi: %r is not the UUID of a VDI" % given["vdi"][:64])
    vdi = session.xenapi.VDI.get_by_uuid(given["vdi"])
    return smapi.call(session, session.xenapi.VDI.get_SR(vdi), command, vdi_ref=vdi, args=arguments,
                      timeout=SM_TIMEOUT)
