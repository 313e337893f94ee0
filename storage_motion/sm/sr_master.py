# SPDX-License-Identifier: LGPL-2.1-only
"""What only the master of a disk's SR can tell of it, since the storage manager works there, and
its lock is there: the worker's part, and the plugin's."""

import json
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from storage_motion.dom0 import inventory
from storage_motion.errors import BadArguments
from storage_motion.sm import repeated_commands, smapi
from storage_motion.uuids import UUID
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    import XenAPI

FUNCTION = "lost-snapshots"
RELINKING, END_RELINKING = "relinking", "end-relinking"
SM_TIMEOUT = 60.0


def lost_snapshots(
    session: "XenAPI.Session", sr_uuid: str, vdi_uuid: str, since: float
) -> Dict[str, List[str]]:
    """The snapshots of a disk that have been taken at `since` (seconds since the epoch) or later,
    and that xapi, which ended, has not noted as such: {"nameless", "unfinished": UUIDs}
    (sm/disks/unnamed.py). Raises SmFault, XenAPI.Failure."""
    master = _elsewhere(session, sr_uuid)
    if master is None:
        return json.loads(
            repeated_commands.ask(session, sr_uuid, "vdi_lost_snapshots", vdi_uuid, (repr(since),))
        )
    return json.loads(
        session.xenapi.host.call_plugin(
            master, "sxm.py", FUNCTION, {"vdi": vdi_uuid, "since": repr(since)}
        )
    )["snapshots"]


def relinking(session: "XenAPI.Session", sr_uuid: str, vdi_uuid: str) -> str:
    """Whether SM has left its `relinking` on a disk: "none", "left", "unknown"
    (sm/disks/relinking.py). Raises SmFault, XenAPI.Failure."""
    return _relinking(session, sr_uuid, vdi_uuid, "vdi_relinking", RELINKING)


def end_relinking(session: "XenAPI.Session", sr_uuid: str, vdi_uuid: str) -> str:
    """The same; one that was left is taken away."""
    return _relinking(session, sr_uuid, vdi_uuid, "vdi_end_relinking", END_RELINKING)


def _relinking(
    session: "XenAPI.Session", sr_uuid: str, vdi_uuid: str, command: str, function: str
) -> str:
    master = _elsewhere(session, sr_uuid)
    if master is None:
        return repeated_commands.ask(session, sr_uuid, command, vdi_uuid)
    answer = session.xenapi.host.call_plugin(master, "sxm.py", function, {"vdi": vdi_uuid})
    return json.loads(answer)["state"]


def _elsewhere(session: "XenAPI.Session", sr_uuid: str) -> Optional[str]:
    """The ref of the host that is an SR's master; None if it is this one."""
    view = Records(session)
    master = view.pool()["master"]
    if not view.by_uuid("SR", sr_uuid)[1]["shared"]:
        return None
    return None if view.of("host", master)["uuid"] == inventory.host_uuid() else master


# The plugin's, on the master.


def find_lost(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """For the worker on a member: {"snapshots": as `lost_snapshots` answers}"""
    try:
        float(given["since"])
    except ValueError:
        raise BadArguments("since: %r is not a time in seconds" % given["since"][:64])
    return {"snapshots": json.loads(_ask(session, given, "vdi_lost_snapshots", given["since"]))}


def look_at_relinking(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """For a migration on a member: {"state": as `relinking` answers}"""
    return {"state": _ask(session, given, "vdi_relinking")}


def end_what_relinking_left(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """For a migration on a member: {"state": as `end_relinking` answers}"""
    return {"state": _ask(session, given, "vdi_end_relinking")}


def end_pause(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """For the driver on a member (sm/disks/pauses.py): {"nobody": whether nobody is at the disk
    here}; what SM has left of a pause is ended."""
    return {"nobody": json.loads(_ask(session, given, "vdi_end_pause", given["host-key"]))}


def _ask(session: "XenAPI.Session", given: Dict[str, str], command: str, *arguments: str) -> Any:
    if not UUID.match(given["vdi"]):
        raise BadArguments("vdi: %r is not the UUID of a VDI" % given["vdi"][:64])
    vdi = session.xenapi.VDI.get_by_uuid(given["vdi"])
    return smapi.call(
        session,
        session.xenapi.VDI.get_SR(vdi),
        command,
        vdi_ref=vdi,
        args=arguments,
        timeout=SM_TIMEOUT,
    )
