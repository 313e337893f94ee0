# SPDX-License-Identifier: LGPL-2.1-only
"""Recovery at the destination: what was made for a migration whose source does not come any more is
taken away, but not while a gate may have been opened."""

import time
from typing import TYPE_CHECKING, Any, Dict, Optional

from storage_motion.dom0 import gate_notes
from storage_motion.dom0.launch import Process
from storage_motion.errors import Waits
from storage_motion.journal import arrival, journal, receiving
from storage_motion.journal.journal import RECEIVING, SOURCE, Journal
from storage_motion.migration import (
    at_destination,
    received_vdis,
    receiving_calls,
    recovery_decision,
)
from storage_motion.sm import smapi
from storage_motion.switch import gate
from storage_motion.wire.service import ORPHAN_BOUND
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    import XenAPI


def recover(
    session: "XenAPI.Session", migration: str, given: Dict[str, str]
) -> Optional[Dict[str, Any]]:
    """What was made for a migration whose source does not come any more. Nothing, while a gate may
    have been opened."""
    if migration in journal.all_ids(SOURCE):
        return None  # within a pool: the source's journal decides
    entry = Journal.load(migration, RECEIVING)
    if receiving_calls.refused(entry):
        return None
    if arrival.read(migration):
        raise Waits(
            "a recovery at the source: the VM has run here, as this host has noted" + _owed(entry)
        )
    for known in [entry.entry.get("busy")] + [one["process"] for one in entry.entry["receivers"]]:
        process = Process.from_json(known)
        if process is not None and process.alive():
            return {
                "outcome": recovery_decision.RUNNING,
                "why": "its receiver runs; without a word from the source it ends after %g s"
                % ORPHAN_BOUND,
            }
    smapi.await_commands([disk["vdi"] for disk in entry.entry["disks"].values() if disk["vdi"]])
    for disk in entry.entry["disks"].values():
        there = disk["shut"] and Records(session).ref("VDI", disk["vdi"])
        if there:
            received_vdis.mend_gate(session, entry, disk, there)
    open_there = [
        disk["vdi"]
        for disk in receiving.of_vm(entry.entry).values()
        if disk["shut"] and (gate_notes.noted(disk["vdi"]) or not _shut(session, disk["vdi"]))
    ]
    if open_there:
        raise Waits(
            "a recovery at the source: the VM may be here, as the gate of %s has been opened%s"
            % (", ".join(open_there), _owed(entry))
        )
    age = min(time.time() - entry.entry["updated"], _uptime())
    if not given.get("migration") and age < ORPHAN_BOUND:
        raise Waits(
            "the source, for %d s more; named by `migration` it is taken away now"
            % (ORPHAN_BOUND - age)
        )
    at_destination.receive_abort(session, {"migration": migration})
    return {
        "outcome": recovery_decision.TAKEN_BACK,
        "why": "its receiver is gone and every gate is shut: the VM cannot be here",
    }


def _owed(entry: Journal) -> str:
    """What the source has yet to give back to the VM, in words for who knows that it never will."""
    owed = entry.entry.get("owed", {"ha_restart_priority": "", "tracked": []})
    commands = ["xe vdi-enable-cbt uuid=%s" % uuid for uuid in owed["tracked"]]
    if owed["ha_restart_priority"]:
        found = (entry.entry["vm"], owed["ha_restart_priority"])
        commands.insert(0, "xe vm-param-set uuid=%s ha-restart-priority=%s" % found)
    if not commands:
        return ""
    return "; if the source is lost, nobody gives back what the VM had: %s" % "; ".join(commands)


def _shut(session: "XenAPI.Session", uuid: str) -> bool:
    vdi = Records(session).ref("VDI", uuid)
    if vdi is None:
        return True
    config = session.xenapi.VDI.get_sm_config(vdi)
    return gate.is_shut(config) and not gate.active(config)


def _uptime() -> float:
    with open("/proc/uptime") as stream:
        return float(stream.read().split()[0])
