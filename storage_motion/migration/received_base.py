# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that is made as a clone of a VDI that was at the destination before: an older copy of it,
or what it was based on (plan/bases.py). That VDI is somebody's. SM puts its image below both; else
nothing here changes it, and nothing of ours ever has it as its disk: the journal names the clone.

Where it cannot be cloned the disk is made as any other, and the source told why.
"""

import logging
from typing import Any, Dict, List, Optional, Tuple

import XenAPI

from storage_motion.journal.journal import Journal
from storage_motion.migration import received_snapshots
from storage_motion.plan import bases
from storage_motion.plan.chains import PARENT
from storage_motion.xapi import repeated
from storage_motion.xapi.records import NULL, Records

OPENED = "VDI %s was opened while it was cloned, by %s"
LOOK_AT_IT = (
    "; what that has written may be in an image that is shared: shut it down now, and look at its "
    "disk before it is started again"
)

log = logging.getLogger("sxm")


def clone(session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any]) -> Optional[str]:
    """The ref of a clone of the VDI `base_there`, which is the disk from now on; None where SM
    makes none: why is noted. Raises what says that xapi is away, as it may have begun.

    That VDI's VM may be started at any moment, and xapi clones what is attached. So nothing is
    between the look and the clone, and one that was opened meanwhile is given up."""
    key, uuid = disk["key"], disk["base_there"]
    view = Records(session)
    vdi = view.by_uuid("VDI", uuid)[1]
    # What is not among these, and looks like a clone that xapi has not noted whose it is, may be
    # ours, should we be killed.
    before = [one["uuid"] for one in _nobodys(view, vdi)] if vdi else []
    entry.write_disks({key: {"cloned_from": uuid, "before": before}})
    ref, wrong = _look(session, disk)
    if wrong:
        _go_without(entry, key, wrong)
        return None
    try:
        made: str = session.xenapi.VDI.clone(ref, {})
    except XenAPI.Failure as failure:
        if repeated.is_away(failure):
            raise
        why = [" ".join(str(detail) for detail in failure.details)]
        _go_without(entry, key, "; ".join(why + _left_by_failure(session, entry, key)))
        return None
    entry.write_disks({key: {"vdi": session.xenapi.VDI.get_uuid(made)}})
    opened = _opened_meanwhile(session, uuid)
    if opened:
        session.xenapi.VDI.destroy(made)
        _go_without(entry, key, opened)
        return None
    received_snapshots.name(session, made, disk, entry)
    return made


def _look(session: "XenAPI.Session", disk: Dict[str, Any]) -> Tuple[Optional[str], str]:
    """(the ref of the VDI that a disk is to be a clone of, why it cannot be one now, or "")"""
    view = Records(session)
    ref, vdi = view.by_uuid("VDI", disk["base_there"])
    if vdi is None or vdi["SR"] != view.ref("SR", disk["sr"]):
        return ref, "it is not in SR %s" % disk["sr"]
    wanted = bases.Wanted(disk["size"], disk["type"], disk["sharable"], disk["image_format"])
    return ref, bases.unfit(view, vdi, wanted)


def _opened_meanwhile(session: "XenAPI.Session", uuid: str) -> str:
    """Who has opened the VDI that has been cloned just now, and what is to be done, or ""."""
    view = Records(session)
    vdi = view.by_uuid("VDI", uuid)[1]
    users = bases.users(view, vdi) if vdi else []
    if not users:
        return ""
    text = OPENED % (uuid, ", ".join(users))
    return text + LOOK_AT_IT if bases.is_on_lvm_of_several(view, vdi) else text


def _go_without(entry: Journal, key: str, why: str) -> None:
    log.warning("%s: disk %s is made anew: %s", entry.entry["migration"], key, why)
    entry.write_disks({key: {"cloned_from": None, "vdi": None, "no_base": why}})


def _left_by_failure(session: "XenAPI.Session", entry: Journal, key: str) -> List[str]:
    """What a clone that has failed may have left, in words: xapi may fail behind SM. Nobody looks
    for it later, when the disk is another one."""
    disk = entry.entry["disks"][key]
    try:
        return list(left(session, disk))
    except XenAPI.Failure as failure:
        if repeated.is_away(failure):
            raise
        return [
            "SR %s: whether a clone of VDI %s is left is not known: %s"
            % (disk["sr"], disk["cloned_from"], " ".join(str(one) for one in failure.details))
        ]


def left(session: "XenAPI.Session", disk: Dict[str, Any]) -> Tuple[str, ...]:
    """Of a disk (its entry in the journal) for which a clone was begun, and none is known: what may
    be one, for people to look at, as details of ImageLeft, or (). Nothing proves that it is ours:
    others may clone that VDI as well, and xapi copies to the clone what its record says."""
    sr = Records(session).ref("SR", disk["sr"])
    if sr is None:
        return ()
    received_snapshots.await_relinked(session, disk["cloned_from"])
    session.xenapi.SR.scan(sr)  # which tells xapi of images that it does not know
    view = Records(session)
    vdi = view.by_uuid("VDI", disk["cloned_from"])[1]
    found = [one["uuid"] for one in _nobodys(view, vdi)] if vdi else []
    return tuple(
        "SR %s: VDI %s may be a clone of VDI %s that was begun for this migration"
        % (disk["sr"], uuid, disk["cloned_from"])
        for uuid in found
        if uuid not in disk.get("before", ())
    )


def may_be_unmarked(session: "XenAPI.Session", disk: Dict[str, Any]) -> bool:
    """Whether a disk (its entry in the journal) is ours without our mark, which comes after the
    clone: a xapi that is killed between the two has none. Who has the disk later has a VBD."""
    if not disk.get("cloned_from"):
        return False
    vbds: List[str] = session.xenapi.VDI.get_VBDs(session.xenapi.VDI.get_by_uuid(disk["vdi"]))
    return not [vbd for vbd in vbds if vbd != NULL]


def _nobodys(view: Records, vdi: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The VDIs on the same image as a VDI (its record) of which xapi's records say no more than
    what it copies from that."""
    parent = vdi["sm_config"].get(PARENT)
    if not parent:
        return []  # nothing has been cloned of it
    copied = vdi["other_config"]
    found = []
    for ref in view.session.xenapi.SR.get_VDIs(vdi["SR"]):
        one = view.of("VDI", ref)
        if (
            one
            and one["uuid"] != vdi["uuid"]
            and one["sm_config"].get(PARENT) == parent
            and one["managed"]
            and not one["is_a_snapshot"]
            and not [vbd for vbd in one["VBDs"] if vbd != NULL]
            and all(
                name in received_snapshots.OF_LAYER or copied.get(name) == value
                for name, value in one["other_config"].items()
            )
        ):
            found.append(one)
    return found
