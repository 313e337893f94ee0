# SPDX-License-Identifier: LGPL-2.1-only
"""Where the VM of a migration is that has failed or was cancelled: what xapi says of it now, and
what the journal says of its disks. For a person to read: nothing is decided by it."""

import logging
from typing import Any, Dict, List, Optional

import XenAPI

from storage_motion.journal import journal
from storage_motion.plan.plan import Plan
from storage_motion.xapi.records import Records
from storage_motion.xapi.session import NOT_XAPI, reason

OLD, NEW, MIXED, OTHERS = "old", "new", "old and new", "others"
ENDED_BADLY = (journal.FAILED, journal.CANCELLED)

log = logging.getLogger("sxm")


def of(entry: Dict[str, Any], session: "XenAPI.Session") -> Optional[Dict[str, Any]]:
    """Of a journal's content: {"here": whether this pool has the VM, "power_state",
    "host": the name of the one that it runs on, or "", "disks": OLD: those that it had before, NEW:
    those that were made for it, MIXED, or OTHERS}. None of one that has not ended, or ended well,
    and where xapi does not tell."""
    if entry["state"] not in ENDED_BADLY:
        return None
    try:
        return _looked_up(entry, Records(session))
    except (XenAPI.Failure, OSError) + NOT_XAPI as error:
        log.warning("%s: where its VM is now: %s", entry["migration"], reason(error))
        return None


def _looked_up(entry: Dict[str, Any], records: Records) -> Dict[str, Any]:
    plan = Plan.from_json(entry["plan"])
    vm = records.by_uuid("VM", plan.vm)[1]
    host = records.of("host", vm["resident_on"]) if vm else None
    return {
        "here": vm is not None,
        "power_state": vm["power_state"] if vm else "",
        "host": host["name_label"] if host else "",
        "disks": _disks(plan, entry, records, vm) if vm else "",
    }


def _disks(plan: Plan, entry: Dict[str, Any], records: Records, vm: Dict[str, Any]) -> str:
    vbds = [records.of("VBD", ref) for ref in vm["VBDs"]]
    refs: List[str] = [vbd["VDI"] for vbd in vbds if vbd] + [vm.get("suspend_VDI", "")]
    has = {vdi["uuid"] for vdi in (records.of("VDI", ref) for ref in refs) if vdi}
    # a VM that goes on has no image of its memory any more
    disks = [disk for disk in plan.disks if not disk.is_memory] or plan.disks
    old = [disk.key in has for disk in disks]
    new = [entry["disks"][disk.key].get("destination_vdi") in has for disk in disks]
    if all(old):
        return OLD
    if all(new):
        return NEW
    return MIXED if all(one or other for one, other in zip(old, new)) else OTHERS
