# SPDX-License-Identifier: LGPL-2.1-only
"""The disks of snapshots at the destination: made as clones of the disks that they are based on, so
that the chain arrives as a chain, and known to xapi as snapshots.

xapi's importer sets no field of a VDI, and only SM's drivers may say that one is a snapshot
(message_forwarding.ml, assert_session_has_internal_sr_access).
"""

import contextlib
import logging
import time
import xmlrpc.client
from typing import Any, Dict, List, Optional, Tuple

import XenAPI

from storage_motion import waiting
from storage_motion.errors import BadArguments, TimedOut
from storage_motion.journal.journal import Journal
from storage_motion.migration import source_disks
from storage_motion.migration.phases import blocking
from storage_motion.plan import chains
from storage_motion.plan.chains import PARENT
from storage_motion.sm import marks
from storage_motion.xapi import managed
from storage_motion.xapi.records import NULL, Records

# What a clone has in its other_config before xapi has copied the other's (storage_smapiv1.ml).
OF_LAYER = {"content_id"}
RELINK_TIMEOUT = 60.0  # seconds for SM to be done with relinking
RELINK_POLL = 1.0
LOOKS = 3  # at what is on one image, while SM goes on relinking

log = logging.getLogger("sxm")


def clone(session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any]) -> str:
    """Make a disk as a clone of its `base`, which has been kept; its ref. Raises BadArguments.

    xapi clones only what it manages. The marks of the migration, by which whatever is made is found
    again, are on the base, and xapi copies them to the clone."""
    key = disk["key"]
    base = entry.entry["disks"].get(disk["base"])
    if base is None or not base.get("kept") or base["sr"] != disk["sr"]:
        raise BadArguments("base: disk %s is not kept in SR %s" % (disk["base"], disk["sr"]))
    sr, below = (
        session.xenapi.SR.get_by_uuid(disk["sr"]),
        session.xenapi.VDI.get_by_uuid(base["vdi"]),
    )
    stood_on = _images_below(session, base["vdi"])
    entry.write_disks({key: {"base": disk["base"], "since": time.time(), "stood_on": stood_on}})
    managed.set_managed(sr, below, True)
    try:
        vdi: str = session.xenapi.VDI.clone(below, {})
    finally:
        managed.set_managed(sr, below, False)
    entry.write_disks({key: {"vdi": session.xenapi.VDI.get_uuid(vdi)}})
    name(session, vdi, disk, entry)
    return vdi


def name(session: "XenAPI.Session", vdi: str, disk: Dict[str, Any], entry: Journal) -> None:
    """Give a clone (a ref) the mark of the migration, and what a disk is to have, in place of what
    xapi has copied."""
    api = session.xenapi.VDI
    config = blocking.of_received(disk["other_config"], entry.entry["migration"])
    api.set_other_config(vdi, config)
    api.set_name_label(vdi, disk["name_label"])
    api.set_name_description(vdi, disk["name_description"])
    api.set_xenstore_data(vdi, disk["xenstore_data"])
    api.set_tags(vdi, disk["tags"])
    api.set_allow_caching(vdi, disk["allow_caching"])


def mark(session: "XenAPI.Session", vdi: str, disk: Dict[str, Any], of: str) -> None:
    """Have xapi know that a VDI (a ref) is a snapshot, since when, and, unless `of` is NULL, of
    which VDI. `disk`: its entry in the journal. Idempotent."""
    record = session.xenapi.VDI.get_record(vdi)
    wanted = xmlrpc.client.DateTime(disk["snapshot_time"])
    of = record["snapshot_of"] if of == NULL else of
    if (record["is_a_snapshot"], str(record["snapshot_time"]), record["snapshot_of"]) == (
        True,
        str(wanted),
        of,
    ):
        return
    with managed.as_driver(record["SR"]) as driver:
        driver.xenapi.VDI.set_is_a_snapshot(vdi, True)
        driver.xenapi.VDI.set_snapshot_time(vdi, wanted)
        driver.xenapi.VDI.set_snapshot_of(vdi, of)


def owner_of(session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any]) -> str:
    """The ref of the VDI that a disk of a snapshot is one of; NULL if that has not come along."""
    of = entry.entry["disks"].get(disk["snapshot_of"])
    return session.xenapi.VDI.get_by_uuid(of["vdi"]) if of else NULL


def destroy_lost(
    session: "XenAPI.Session", entry: Journal, disk: Dict[str, Any]
) -> Tuple[str, ...]:
    """Destroy what was cloned for a disk, if xapi ended before it could mark it: a VDI on the same
    image as its base, of which xapi knows nothing else. Nobody else can have made it, as xapi
    refuses to clone what it does not manage; but for one on an image that the chain shares with
    somebody's VDI, as its first disk is a clone of that. What may be one of these stays, and is
    answered, as details of ImageLeft; else ().

    SM puts an image of its own below the base when it clones that. On any that the base stood on
    before, as where it was not cloned, or SM's collector has merged that image since, others may
    stand."""
    base = entry.entry["disks"].get(disk["base"])
    sr = Records(session).ref("SR", disk["sr"])
    if base is None or sr is None:
        return ()
    image, found = _beside(session, sr, base["vdi"])
    disks = entry.entry["disks"].values()
    others = {one["vdi"] for one in disks} | {one.get("cloned_from") for one in disks}
    others |= source_disks.named(entry)
    lost = {uuid: ref for uuid, ref in found.items() if uuid not in others}
    if image in disk.get("stood_on", ()) and any(one.get("cloned_from") for one in disks):
        return tuple(
            "SR %s: VDI %s may be a clone of VDI %s that was begun for this migration"
            % (disk["sr"], uuid, base["vdi"])
            for uuid in sorted(lost)
        )
    for uuid, ref in lost.items():
        log.warning("%s: VDI %s, which xapi has lost, is destroyed", entry.path, uuid)
        try:
            session.xenapi.VDI.destroy(ref)
        except XenAPI.Failure as failure:
            if failure.details[0] != "HANDLE_INVALID":
                raise
    return ()


def _beside(session: "XenAPI.Session", sr: str, uuid: str) -> Tuple[Optional[str], Dict[str, str]]:
    """(the UUID of the image that a VDI (a UUID) of an SR (a ref) is on, {UUID: ref} of those that
    are on it as well, and nobody's); (None, {}) if nothing was cloned of it."""
    for _ in range(LOOKS):
        await_relinked(session, uuid)
        session.xenapi.SR.scan(sr)  # which tells xapi of images that it does not know
        view = Records(session)
        image = _image_of(view, uuid)
        if not image:
            return None, {}
        found = {view.of("VDI", ref)["uuid"]: ref for ref in _on(view, sr, image)}
        if _image_of(Records(session), uuid) == image:
            break  # else SM has relinked them meanwhile
    return image, found


def await_relinked(session: "XenAPI.Session", uuid: str) -> None:
    """Wait while SM's collector relinks a VDI (a UUID), but for RELINK_TIMEOUT at most: its mark
    may be one that nobody takes away.

    Meanwhile some of those that were on one image are on its parent already, and others not; the
    mark goes when all are (cleanup.py, _relinkSkip, _reload)."""

    def is_relinked() -> bool:
        vdi = Records(session).by_uuid("VDI", uuid)[1]
        return not vdi or vdi["sm_config"].get(marks.RELINKING) != marks.RELINKED_BY_SM

    with contextlib.suppress(TimedOut):
        waiting.until(is_relinked, RELINK_TIMEOUT, "SM relinks VDI %s" % uuid, RELINK_POLL)


def _image_of(view: Records, uuid: str) -> Optional[str]:
    vdi = view.by_uuid("VDI", uuid)[1]
    image: Optional[str] = vdi["sm_config"].get(PARENT) if vdi else None
    return image


def _images_below(session: "XenAPI.Session", uuid: str) -> List[str]:
    """The UUIDs of the images that a VDI (a UUID) is on, by xapi's records."""
    view = Records(session)
    vdi = view.by_uuid("VDI", uuid)[1]
    found = [one["sm_config"].get(PARENT) for one in chains.of(view, vdi)] if vdi else []
    return [image for image in found if image]


def _on(view: Records, sr: str, parent: str) -> List[str]:
    """Those of the VDIs of an SR (refs) whose image is on that of the VDI `parent` (a UUID), and
    that are nobody's."""
    found = []
    for ref in view.session.xenapi.SR.get_VDIs(sr):
        vdi = view.of("VDI", ref)
        if (
            vdi
            and vdi["sm_config"].get(PARENT) == parent
            and vdi["managed"]
            and not vdi["is_a_snapshot"]
            and vdi["snapshot_of"] == NULL
            and not [vbd for vbd in vdi["VBDs"] if vbd != NULL]
            and not set(vdi["other_config"]) - OF_LAYER
        ):
            found.append(ref)
    return found
