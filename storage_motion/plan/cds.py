# SPDX-License-Identifier: LGPL-2.1-only
"""The CDs in a VM's drives: which of them stay, and what is put in where they cannot."""

from typing import Any, Dict, List

from storage_motion.plan import checks
from storage_motion.plan.inquiry import Inquiry
from storage_motion.plan.plan import Cd


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
        seen = not inquiry.cross_pool and checks.plugged(
            inquiry.destination, inquiry.source.of("SR", vdi["SR"]), host_ref
        )
        found.append(
            Cd(
                vbd=vbd["uuid"],
                vdi=vdi["uuid"],
                device=vbd["device"] or vbd["userdevice"],
                eject=not seen,
                userdevice=vbd["userdevice"],
                name=vdi["name_label"],
                insert="" if seen else _namesake(inquiry, host_ref, vdi),
            )
        )
    return found


def cautions(inquiry: Inquiry, drives: List[Cd]) -> List[str]:
    """Which CDs the guest loses for the move, and what comes in their place, for whoever asked. A
    list of sentences. The drives of a halted VM are left to xapi's importer, which looks for the
    name as well."""
    if not inquiry.live:
        return []
    return [
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
        for cd in drives
        if cd.eject
    ]


def _namesake(inquiry: Inquiry, host_ref: str, vdi: Dict[str, Any]) -> str:
    """The UUID of the CD at the destination that is called as `vdi` (a record) is, or "". Of
    several, one of the same size before the others."""
    records, name = inquiry.destination, vdi["name_label"]
    found = records.session.xenapi.VDI.get_by_name_label(name) if name else []
    named = []
    for other in [records.of("VDI", ref) for ref in found]:
        sr = other and records.of("SR", other["SR"])
        # "udev": a drive of the host's own (as xapi's import.ml has it)
        is_library = sr and sr["content_type"] == "iso" and sr["type"] != "udev"
        if is_library and checks.plugged(records, sr, host_ref):
            named.append((other["virtual_size"] != vdi["virtual_size"], other["uuid"]))
    return min(named)[1] if named else ""
