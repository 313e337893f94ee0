# SPDX-License-Identifier: LGPL-2.1-only
"""An image that no VDI names, where it is known for sure: as a `vdi_create` leaves it that is
killed before it tells xapi, for its removal; and those snapshots that were taken for a mirror as
xapi ended, for them to be noted and destroyed in their time.

The uuid of an image is the driver's own choice, and xapi hands none over (sm, SRCommand.parse;
xapi, storage_smapiv1.ml), so ours cannot be told by it. SM's next scan would make a VDI without a
name of it.
"""

import os
from typing import Any, Dict, List, Optional

import XenAPI

from storage_motion.dom0 import images, launch, tapctl
from storage_motion.errors import ImageLeft
from storage_motion.sm.disks.disk import locked

# bytes: SM rounds a size up, to blocks of 2 MiB for VHD (vhdutil.py), to extents of 4 MiB on LVM
ROUNDING = 4 << 20
MAKER_BOUND = 20.0  # seconds for a program that makes an empty image, to end


def remove(sr: Any, size: int, since: float) -> Optional[str]:
    """Remove the one image that `size` bytes were asked for, which SM may have rounded up, made at
    `since` (seconds since the epoch) or later, that no VDI of the SR object `sr` names. Its uuid,
    or None if there is none.

    Nobody can miss it. With the SR's lock held no `vdi_create` is under way, so whoever made it is
    dead, and has told nobody its uuid; no other image is based on it; nothing has it open here; and
    there is no data in it. Raises ImageLeft where that cannot be known: on LVM an image is there
    only while it is active, another host may be the SR's master, and of several one may be somebody
    else's.
    """
    if sr.dconf.get("SRmaster") != "true":
        raise ImageLeft(sr.uuid, "another host is its master")
    if not _has_files(sr):
        raise ImageLeft(sr.uuid, "its images are not files")
    with locked(sr.lock):
        _await_makers(sr)
        found = [
            vdi
            for vdi in _unnamed(sr)
            if size <= int(vdi.size) < size + ROUNDING and os.stat(vdi.path).st_mtime >= since
        ]
        found = [
            vdi
            for vdi in found
            if not tapctl.find(vdi.path) and images.is_blank(vdi.vdi_type, vdi.path)
        ]
        if len(found) > 1:
            raise ImageLeft(
                sr.uuid,
                "which of %s it is is not known" % ", ".join(sorted(vdi.uuid for vdi in found)),
            )
        for vdi in found:
            os.unlink(vdi.path)
    return found[0].uuid if found else None


def _await_makers(sr: Any) -> None:
    """What a command that was killed had begun to make an image (`vhd-util create`, `qemu-img
    create`) lives on, and may not have made it yet. Raises ImageLeft."""
    for process in launch.running("create", below=[os.path.join(sr.path, "")]):
        if not process.gone(MAKER_BOUND):
            raise ImageLeft(sr.uuid, "process %d has not made its image yet" % process.pid)


def snapshots_of(sr: Any, vdi_uuid: str, since: float) -> Dict[str, List[str]]:
    """The snapshots of a disk that were taken at `since` (seconds since the epoch) or later, and
    that xapi ended before it had noted whose they are: {"nameless": uuids of images that it knows
    nothing of, or no more than SM's `vdi_snapshot` tells it, or a scan; "unfinished": of those that
    its storage layer has named, and no more}. A xapi that comes after one that was killed takes
    such a snapshot once more, unasked: the message switch hands it the request again.

    Each stands on an image of the disk's chain, has nothing in it, is used by nobody, and has
    nothing of what xapi copies at the end. Nothing is found where images are no files, or the SR
    has its master on another host.
    """
    if sr.dconf.get("SRmaster") != "true" or not _has_files(sr):
        return {"nameless": [], "unfinished": []}
    found: Dict[str, List[str]] = {"nameless": [], "unfinished": []}
    with locked(sr.lock):
        sr._loadvdis()
        chain = _chain(sr, vdi_uuid)
        for uuid, vdi in sorted(sr.vdis.items()):
            if (
                uuid != vdi_uuid
                and vdi.parent in chain
                and not vdi.hidden
                and os.stat(vdi.path).st_mtime >= since
            ):
                kind = _lost_as(sr, vdi)
                if kind and _is_empty(sr, vdi):
                    found[kind].append(uuid)
    return found


def _chain(sr: Any, uuid: str) -> List[str]:
    """The uuids of the images below one."""
    found: List[str] = []
    while uuid in sr.vdis and sr.vdis[uuid].parent and sr.vdis[uuid].parent not in found:
        uuid = sr.vdis[uuid].parent
        found.append(uuid)
    return found


def _has_files(sr: Any) -> bool:
    return os.path.isdir(sr.path) and hasattr(sr, "_loadvdis") and not sr.path.startswith("/dev/")


def _lost_as(sr: Any, vdi: Any) -> Optional[str]:
    """What xapi's record of an image, if there is one, says: "nameless", "unfinished", or None, as
    it is somebody's.

    The storage layer names a snapshot, and gives it a content_id; whose it is, and the disk's
    other_config, come last (storage_smapiv1.ml, snapshot_and_clone; xapi_vdi.ml, snapshot)."""
    api = sr.session.xenapi.VDI
    try:
        known = api.get_record(api.get_by_uuid(vdi.uuid))
    except XenAPI.Failure as failure:
        if failure.details[0] not in ("UUID_INVALID", "HANDLE_INVALID"):
            raise
        return "nameless"
    if (
        set(known["other_config"]) - {"content_id"}
        or known["VBDs"]
        or known["snapshot_of"] not in ("", "OpaqueRef:NULL")
    ):
        return None
    if known["is_a_snapshot"]:
        return "unfinished"
    return None if known["name_label"] else "nameless"


def _is_empty(sr: Any, vdi: Any) -> bool:
    """Whether nothing was written to an image since it was put on its parent, and nothing has it
    open here."""
    return (
        not tapctl.find(vdi.path)
        and not images.extents(vdi.vdi_type, vdi.path, sr.vdis[vdi.parent].path)[1]
    )


def _unnamed(sr: Any) -> List[Any]:
    """The VDI objects of images that are nobody's parent or child, and that xapi knows nothing
    of."""
    sr._loadvdis()
    api = sr.session.xenapi
    named = {api.VDI.get_uuid(ref) for ref in api.SR.get_VDIs(sr.sr_ref)}
    parents = {vdi.parent for vdi in sr.vdis.values() if vdi.parent}
    return [
        vdi
        for uuid, vdi in sr.vdis.items()
        if uuid not in named and uuid not in parents and not vdi.parent and not vdi.hidden
    ]
