# SPDX-License-Identifier: LGPL-2.1-only
"""The plugin at the destination, of a VM with snapshots: the disks of these are made, received and
kept one after the other, and then those of the VM."""

import contextlib
import logging
from typing import Any, Dict, List, Optional

import XenAPI

from storage_motion.dom0 import gate_notes
from storage_motion.errors import (
    ImageLeft,
    JournalNotWritten,
    MotionError,
    ReceiverFailed,
    TakenAway,
)
from storage_motion.journal import journal
from storage_motion.journal.journal import RECEIVING, Journal
from storage_motion.migration import (
    received_snapshots,
    received_vdis,
    receivers,
    receiving_calls,
    source_disks,
    wanted_disks,
)
from storage_motion.switch import gate
from storage_motion.xapi.records import NULL

log = logging.getLogger("sxm")


def receive_add(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Make more disks, and start a receiver for them: the disks of the VM's snapshots, each after
    the one that it is to be a clone of, and last those of the VM. Answers as `receive` does; on any
    failure these disks are taken away, and no others.

    `kept`: a JSON list of the keys of the disks that the source knows to be kept here. Raises
    TakenAway if one is not: a recovery on this host has taken them away, and nothing is begun anew.

    What a call before has made of the wanted ones, which the source may know nothing of, is taken
    away first."""
    found = journal.check_id(given.get("migration", ""))
    wanted = wanted_disks.read(given.get("disks", ""))
    vm, sources = receiving_calls.vm_of(given), source_disks.given_by(given)
    address = given.get("address") or receiving_calls.own_address(session)
    entry = receiving_calls.known(given)
    entry = entry and receiving_calls.idle(entry)
    _require_kept(found, entry, wanted_disks.uuids(given.get("kept", "[]"), "kept"))
    srs = {disk["sr"] for disk in wanted} | set(entry.entry["srs"] if entry else ())
    if entry is None:
        fields: Dict[str, Any] = {"vm": vm, "disks": {}, "receivers": [], "sources": sources}
        entry = Journal.create(
            found, RECEIVING, srs=sorted(srs), busy=receiving_calls.myself(), **fields
        )
    else:
        entry.write(srs=sorted(srs), busy=receiving_calls.myself())
    keys = [disk["key"] for disk in wanted]
    try:
        _forget_disks(session, entry, keys)
        made = {disk["key"]: received_vdis.make(session, entry, disk) for disk in wanted}
        answer = receivers.start(entry, address, made)
    except BaseException:
        try:
            _forget_disks(session, entry, keys)
        except (MotionError, XenAPI.Failure, OSError) as error:
            log.error("%s: not all is taken away yet: %s", found, error)
        with contextlib.suppress(JournalNotWritten):
            entry.write(busy=None)
        raise
    entry.write(busy=None)
    return answer


def _require_kept(migration: str, entry: Optional[Journal], keys: List[str]) -> None:
    """Raises TakenAway unless all these disks are kept."""
    disks = entry.entry["disks"] if entry else {}
    gone = [key for key in keys if not disks.get(key, {}).get("kept")]
    if gone:
        raise TakenAway(migration, *("the new disk of VDI %s" % key for key in gone))


def _forget_disks(session: "XenAPI.Session", entry: Journal, keys: List[str]) -> None:
    """Take away these disks, if there is something of them, and their receivers. Raises
    ImageLeft."""
    known = {key: entry.entry["disks"][key] for key in keys if key in entry.entry["disks"]}
    if not known:
        return
    receivers.retire(entry, list(known))
    unproven = received_vdis.take_away(session, entry, list(known))
    for disk in known.values():
        if disk["vdi"]:
            gate_notes.forget(disk["vdi"])
    if unproven:
        raise ImageLeft(*unproven)  # they stay in the journal, for who has all taken away to tell
    entry.write(disks={key: disk for key, disk in entry.entry["disks"].items() if key not in known})


def receive_keep(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Disks of snapshots are whole: nobody writes to them any more, and others may be based on
    them. `disks`: a JSON list of their keys. Idempotent. Raises ReceiverFailed for one that was not
    finished."""
    entry = Journal.load(journal.check_id(given.get("migration", "")), RECEIVING)
    keys = wanted_disks.known_keys(entry, given.get("disks", ""))
    disks = [entry.entry["disks"][key] for key in keys]
    for disk in disks:
        # which the receiver notes when all of the disk is verified, and no sooner
        if not disk.get("frozen") or not gate_notes.noted(disk["vdi"]):
            raise ReceiverFailed(entry.entry["migration"], "%s is not finished" % disk["vdi"])
    receivers.retire(entry, keys)
    for disk in disks:
        vdi = session.xenapi.VDI.get_by_uuid(disk["vdi"])
        gate.open_again(session, vdi)  # which an older database has shut
        received_snapshots.mark(session, vdi, disk, NULL)
    entry.write_disks({key: {"kept": True} for key in keys})
    return {}
