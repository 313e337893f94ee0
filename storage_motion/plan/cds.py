# SPDX-License-Identifier: LGPL-2.1-only
"""The CDs in a VM's drives: which of them stay, and what is put in where they cannot."""

from typing import Any, Dict, List

from storage_motion.plan import checks
from storage_motion.plan.inquiry import Inquiry
from storage_motion.plan.plan import Cd
from storage_motion.xapi.records import SUSPENDED, Records


def of_drives(inquiry: Inquiry, host_ref: str) -> List[Cd]:
    """The CDs in the VM's drives, as its destination, `host_ref`, sees them."""
    found = []
    for ref in inquiry.vm["VBDs"]:
        vbd = inquiry.source.of("VBD", ref)
        if not vbd or vbd["type"] != "CD" or vbd["empty"]:
            continue
        vdi = inquiry.source.of("VDI", vbd["VDI"])
        if not vdi:
            continue
        stays = _stays(inquiry, host_ref, vdi)
        found.append(
            Cd(
                vbd=vbd["uuid"],
                vdi=vdi["uuid"],
                device=vbd["device"] or vbd["userdevice"],
                eject=not stays,
                userdevice=vbd["userdevice"],
                name=vdi["name_label"],
                insert="" if stays else _in_its_place(inquiry, host_ref, vdi),
            )
        )
    return found


def cautions(inquiry: Inquiry, drives: List[Cd], host_ref: str) -> List[str]:
    """Which CDs the VM loses, for the move or for good, what comes in their place, and which keep
    it from running on its destination, `host_ref`, for whoever asked. A list of sentences."""
    return [text for text in (_caution(inquiry, cd, host_ref) for cd in drives) if text]


def _caution(inquiry: Inquiry, cd: Cd, host_ref: str) -> str:
    if not inquiry.live and not (cd.eject and not cd.insert):
        return _unseen(inquiry, cd, host_ref)
    if not cd.eject:
        return ""
    if not inquiry.live:
        return (
            "CD %s (%s) in drive %s does not come along, as the destination has none of the same "
            "file name%s; the drive is empty there"
            % (
                cd.name,
                cd.vdi,
                cd.device,
                "" if _is_suspended(inquiry) else ", and its host sees none of the same name",
            )
        )
    return (
        "CD %s (%s) in drive %s is ejected for the move, as the destination host does not see its "
        "SR; %s"
        % (
            cd.name,
            cd.vdi,
            cd.device,
            "that of the same name there (%s) is put in at the end" % cd.insert
            if cd.insert
            else "that host sees none of the same name, and the drive stays empty",
        )
    )


def _unseen(inquiry: Inquiry, cd: Cd, host_ref: str) -> str:
    """Of a VM that does not run, whose drive has a CD there: "" if the destination host sees that.
    xapi starts and resumes a VM on a host that sees what all its drives have, CDs as well
    (xapi_vm_helpers.ml, assert_can_see_SRs)."""
    records = inquiry.destination
    there = records.by_uuid("VDI", cd.insert or cd.vdi)[1]
    sr = records.of("SR", there["SR"]) if there else None
    if sr and checks.plugged(records, sr, host_ref):
        return ""
    return (
        "the destination host does not see CD %s (%s) in drive %s, and xapi %s a VM on a host that "
        "sees all of its disks and CDs alone: %s"
        % (
            cd.name,
            cd.insert or cd.vdi,
            cd.device,
            "resumes" if _is_suspended(inquiry) else "starts",
            "none can be ejected from a suspended VM, so resume this one, eject the CD "
            "(xe vm-cd-eject), and suspend it again before it moves"
            if _is_suspended(inquiry)
            else "if there is none, eject it before the start (xe vm-cd-eject)",
        )
    )


def _stays(inquiry: Inquiry, host_ref: str, vdi: Dict[str, Any]) -> bool:
    """Whether the CD `vdi` (a record) stays in its drive. Within a pool that of a VM that does not
    run does: nothing is ejected, and its records stay."""
    if inquiry.cross_pool:
        return False
    return not inquiry.live or checks.plugged(
        inquiry.destination, inquiry.source.of("SR", vdi["SR"]), host_ref
    )


def _in_its_place(inquiry: Inquiry, host_ref: str, vdi: Dict[str, Any]) -> str:
    """The UUID of the CD that is in the drive afterwards, or "". The metadata of a VM that does not
    run have its CD, so that xapi's importer looks for one; what that leaves empty is filled at the
    end (cd_drives.py), but for a suspended VM, whose drives are not opened (xapi_vbd.ml,
    assert_not_suspended)."""
    found = "" if inquiry.live else _of_its_file(inquiry.destination, vdi)
    if found or _is_suspended(inquiry):
        return found
    return _namesake(inquiry, host_ref, vdi)


def _is_suspended(inquiry: Inquiry) -> bool:
    return bool(inquiry.vm["power_state"] == SUSPENDED)


def _of_its_file(records: Records, vdi: Dict[str, Any]) -> str:
    """The UUID of the CD that xapi's importer takes for `vdi` (a record), or "": one in the same
    place in its SR, whichever host sees that (import.ml, VDI.precheck)."""
    libraries = [ref for ref, sr in records.all("SR").items() if _is_library(sr)]
    found = [
        other["uuid"]
        for other in records.all("VDI").values()
        if other["location"] == vdi["location"] and other["SR"] in libraries
    ]
    return min(found, default="")


def _is_library(sr: Dict[str, Any]) -> bool:
    """Whether an SR (its record) has CDs, and is no drive of a host's own ("udev"), as xapi's
    import.ml has it."""
    return bool(sr["content_type"] == "iso" and sr["type"] != "udev")


def _namesake(inquiry: Inquiry, host_ref: str, vdi: Dict[str, Any]) -> str:
    """The UUID of the CD at the destination that is called as `vdi` (a record) is, or "". Of
    several, one of the same size before the others."""
    records, name = inquiry.destination, vdi["name_label"]
    found = records.session.xenapi.VDI.get_by_name_label(name) if name else []
    named = []
    for other in [records.of("VDI", ref) for ref in found]:
        sr = other and records.of("SR", other["SR"])
        if sr and _is_library(sr) and checks.plugged(records, sr, host_ref):
            named.append((other["virtual_size"] != vdi["virtual_size"], other["uuid"]))
    return min(named)[1] if named else ""
