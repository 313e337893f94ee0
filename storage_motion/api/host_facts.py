# SPDX-License-Identifier: LGPL-2.1-only
"""What `sxm doctor` asks each host for: facts that only dom0 knows. They are judged on the
administrator's machine (storage_motion/cli/doctor)."""

import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Set

from storage_motion.api import ports, status
from storage_motion.dom0 import programs, root
from storage_motion.dom0.launch import Process
from storage_motion.errors import JournalError, NoSuchMigration
from storage_motion.journal import journal
from storage_motion.journal.journal import RECEIVING, SOURCE, Journal
from storage_motion.migration.phases.copying import OPENED
from storage_motion.plan import installed
from storage_motion.sm.disks import record

if TYPE_CHECKING:
    import XenAPI

FUNCTION = "doctor"
RPM = "/usr/bin/rpm"
QUERY = ["-q", "--qf", "%{VERSION}-%{RELEASE}"]
RPM_TIMEOUT = 20.0  # seconds
PACKAGES = ("xapi-core", "sm")  # blktap's is in `installed`


def facts(_: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """{"time": seconds since the epoch, "installed": as plan/installed.py has it, "packages":
    {name: its version, or None}, "ports": [first, last] that a receiver may listen on, "port": one
    of these that is nobody's now, "room": bytes that are free for journals, "journals": [those that
    have not come to their end], one for each journal that cannot be trusted],
    "read": [the UUIDs of the VDIs that are open here to be read, for no migration]}"""
    unreadable: List[List[str]] = []
    read = set(record.Record.all_of(record.COPY))
    journals = _open(SOURCE, unreadable) + _open(RECEIVING, unreadable)
    return {
        "installed": installed.here(),
        "packages": {name: _version(name) for name in PACKAGES},
        "ports": list(ports.of_receivers()),
        "port": ports.unused(),
        "room": _room(),
        "journals": journals,
        "unreadable": unreadable,
        "read": sorted(read.intersection(record.Record.all_of(record.COPY)) - _for_migrations()),
        "time": time.time(),  # as late as can be: the caller compares it with his own
    }


def _version(package: str) -> Optional[str]:
    code, out, _ = programs.run([root.path(RPM)] + QUERY + [package], RPM_TIMEOUT)
    return out.strip() or None if code == 0 else None


def _room() -> Optional[int]:
    """Bytes; None where no journal has ever been."""
    try:
        found = os.statvfs(root.path(journal.DIRECTORY))
    except FileNotFoundError:
        return None
    return found.f_bavail * found.f_frsize


def _open(side: str, unreadable: List[List[str]]) -> List[Dict[str, Any]]:
    """Those of one side that run, or that have left something."""
    found = []
    for known in journal.all_ids(side):
        try:
            entry = Journal.load(known, side).entry
        except NoSuchMigration:
            continue  # forgotten meanwhile
        except JournalError as error:
            unreadable.append(error.failure())
            continue
        if entry["state"] == journal.RUNNING or entry.get("left"):
            found.append(_source(entry) if side == SOURCE else _receiving(entry))
    return found


def _for_migrations() -> Set[str]:
    """The UUIDs of the VDIs that migrations have open here to be read. Each notes one before."""
    found: Set[str] = set()
    for known in journal.all_ids(SOURCE):
        try:
            disks = Journal.load(known, SOURCE).entry["disks"]
        except (NoSuchMigration, JournalError):
            continue  # of one that cannot be trusted something else is told
        found.update(disk[key] for disk in disks.values() for key in OPENED if disk.get(key))
    return found


def _source(entry: Dict[str, Any]) -> Dict[str, Any]:
    brief = status.brief(entry)
    return {
        "side": "source",
        "migration": entry["migration"],
        "vm": brief["vm"],
        "vm_name": brief["vm_name"],
        "state": entry["state"],
        "alive": brief["alive"],
        "left": entry["left"],
        "updated": entry["updated"],
    }


def _receiving(entry: Dict[str, Any]) -> Dict[str, Any]:
    processes = [Process.from_json(one["process"]) for one in entry["receivers"]]
    busy = Process.from_json(entry.get("busy"))  # it is just being made
    return {
        "side": "destination",
        "migration": entry["migration"],
        "vm": entry.get("vm", ""),
        "vm_name": "",
        "state": entry["state"],
        "alive": any(one.alive() for one in processes + [busy] if one),
        "left": entry.get("left", []),
        "updated": entry["updated"],
    }
