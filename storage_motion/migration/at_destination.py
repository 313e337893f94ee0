# SPDX-License-Identifier: LGPL-2.1-only
"""The plugin at the destination: new disks behind their gates (received_vdis.py), the receiver for
them (receivers.py), and their end.

From before it is filled until the VM has it, or it is taken away, a disk is not managed by xapi
(xapi/managed.py): nobody else copies, destroys, snapshots or attaches it.

What comes in is another pool's word: it is checked before anything is made. Everything that is made
can be found again, whatever is killed: VDIs carry the id of the migration in other_config from
their creation on, and the journal names the SRs.

A migration begins with one receiver. Disks whose mirror has broken get another one, and a new
tapdisk: what the old ones were still told, by a mover that is dead or a link that hangs, cannot
reach the disk any more. The disks that are well stay with theirs.
"""

import contextlib
import logging
import time
from typing import Any, Dict, Tuple

import XenAPI

from storage_motion.dom0 import gate_notes
from storage_motion.dom0.launch import Process
from storage_motion.errors import (
    BadArguments,
    GateOpen,
    ImageLeft,
    JournalNotWritten,
    MotionError,
    NoSuchMigration,
    ReceiverFailed,
)
from storage_motion.journal import arrival, journal, receiving, secret_files
from storage_motion.journal.journal import RECEIVING, Journal
from storage_motion.migration import (
    received_snapshots,
    received_vdis,
    receivers,
    receiving_calls,
    wanted_disks,
)
from storage_motion.migration.phases import blocking
from storage_motion.sm import active, marks, tracking
from storage_motion.sm.disks.record import Record
from storage_motion.switch import gate, stale_activation
from storage_motion.xapi.records import Records

PRIORITIES = ("", "best-effort", "restart")  # of HA (xapi, constants.ml)
REFUSED_FOR = 24 * 3600.0  # seconds for which it is remembered that a migration is not to begin

log = logging.getLogger("sxm")


def receive(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Make the disks (or take those that are to be filled), shut their gates, start the receiver.
    What it answers holds the token, and is for the source alone. On any failure everything is
    undone.

    `vm`: the UUID of the VM that the disks are for, by which its arrival is known; for a copy, of
    which that is not known, the id of the migration, which no VM has. `again`: the
    source has asked before, and does not know what has come of it: whatever that has made, or makes
    yet, is taken away first."""
    found = journal.check_id(given.get("migration", ""))
    wanted = wanted_disks.read(given.get("disks", ""))
    vm = receiving_calls.vm_of(given)
    former = receiving_calls.known(given) if given.get("again") == "true" else None
    former = former and receiving_calls.idle(former)
    if former:
        _take_away(session, former, False)
    address = given.get("address") or receiving_calls.own_address(session)
    entry = Journal.create(
        found,
        RECEIVING,
        vm=vm,
        disks={},
        srs=sorted({disk["sr"] for disk in wanted}),
        receivers=[],
        busy=receiving_calls.myself(),
    )
    try:
        made = {disk["key"]: received_vdis.make(session, entry, disk) for disk in wanted}
        answer = receivers.start(entry, address, made)
        entry.write(busy=None)
        return answer
    except BaseException:
        try:
            _undo(session, entry)
        except (MotionError, XenAPI.Failure, OSError) as error:
            # The source has it aborted once more, and tells what is left. Why it began is what the
            # user has to read.
            log.error("%s: not all is taken away yet: %s", found, error)
        raise


def receive_renew(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Open disks of a known migration anew, behind their gates, and start another receiver for
    them. Answers as `receive` does.

    `disks`: a JSON list of their keys. Idempotent: whatever it raises, nothing has been lost, and
    it may be called again."""
    found = journal.check_id(given.get("migration", ""))
    # An earlier call, whose answer was lost, may be at it still: what it notes is not to be noted
    # over.
    entry = receiving_calls.idle(Journal.load(found, RECEIVING))
    if entry is None:
        raise NoSuchMigration(found)
    keys = wanted_disks.known_keys(entry, given.get("disks", ""))
    address = given.get("address") or receiving_calls.own_address(session)
    entry.write(busy=receiving_calls.myself())
    try:
        receivers.retire(entry, keys)
        opened = {key: received_vdis.reopen(session, entry, key) for key in keys}
        answer = receivers.start(entry, address, opened)
    except BaseException:
        # it is not busy any more when this process has ended
        with contextlib.suppress(JournalNotWritten):
            entry.write(busy=None)
        raise
    entry.write(busy=None)
    return answer


def receive_stop(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """End the receivers, and what they have the storage manager do. After the answer no gate opens
    any more that is shut now, and `receive-renew` alone makes the disks receive again. Idempotent.
    Raises TimedOut if a command does not end.

    `vm`: the UUID of the VM that the disks are for. What it has left behind active here, they are
    let go of. Answers what this host has noted in files of its own: {"arrived": whether the VM ran
    here on the disks, "opened": the keys of those whose gates have been opened, or were about to
    be, whatever their sm_config says}."""
    entry = receiving_calls.known(given)
    vm = receiving_calls.vm_of(given)
    if entry is None:
        return {"arrived": False, "opened": []}
    # else every gate has been opened: there is nothing to stop
    if not arrival.read(entry.entry["migration"]):
        receivers.retire(entry, list(entry.entry["disks"]))
        for disk in entry.entry["disks"].values():
            stale_activation.end_dead(session, disk["vdi"])
            stale_activation.let_go_dead(session, disk["vdi"], vm)
    return {
        "arrived": arrival.read(entry.entry["migration"]) is not None,
        "opened": sorted(
            key
            for key, disk in receiving.of_vm(entry.entry).items()
            if disk["vdi"] and gate_notes.noted(disk["vdi"])
        ),
    }


def receive_status(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """{"state": of the receiver, "arrived": whether this host has noted that the VM ran here,
    "disks": {key: {"vdi", "gate": "shut" or "open", "read_only": whether it is active here by a
    tapdisk that cannot write}}}"""
    entry = Journal.load(journal.check_id(given.get("migration", "")), RECEIVING)
    alive = [one for one in entry.entry["receivers"] if Process.from_json(one["process"]).alive()]
    return {
        "state": "running" if alive else "ended",
        "arrived": arrival.read(entry.entry["migration"]) is not None,
        "disks": {
            key: {
                "vdi": disk["vdi"],
                "gate": "shut" if gate.is_shut(_config(session, disk["vdi"])) else "open",
                "read_only": active.is_read_only(disk["sr"], disk["vdi"]),
            }
            for key, disk in entry.entry["disks"].items()
            if disk["vdi"]
        },
    }


def receive_abort(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Take everything away again. Raises GateOpen if a gate has been opened, unless `force`, and
    always if a disk is active, or the VM has run on them; and ImageLeft, once, when all is done but
    for what cannot be told from somebody else's."""
    entry = receiving_calls.known(given)
    if entry is None:
        _refuse_from_now_on(given["migration"])
        return {}
    entry = receiving_calls.idle(entry)
    if entry is not None:
        _take_away(session, entry, given.get("force") == "true")
    return {}


def _take_away(session: "XenAPI.Session", entry: Journal, force: bool) -> None:
    """All that was made. Raises as `receive_abort`."""
    if arrival.read(entry.entry["migration"]):
        raise GateOpen(entry.entry["migration"], "VM %s, which has arrived" % entry.entry.get("vm"))
    if not force:
        for disk in receiving.of_vm(entry.entry).values():
            there = disk["shut"] and Records(session).ref("VDI", disk["vdi"])
            # One that was never opened here an older database has brought back so: nothing of the
            # VM has used it.
            if (
                there
                and not gate.is_shut(session.xenapi.VDI.get_sm_config(there))
                and gate_notes.noted(disk["vdi"])
            ):
                raise GateOpen(entry.entry["migration"], disk["vdi"])
    unproven = _undo(session, entry)
    if unproven:
        _remove_journal(entry)
        raise ImageLeft(*unproven)


def receive_give(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """The VM has the disks: xapi manages them again, as any others, and knows of those of snapshots
    what they are. Idempotent."""
    entry = receiving_calls.known(given)
    if entry is None:
        return {}
    for disk in entry.entry["disks"].values():
        if disk.get("frozen") and not Records(session).ref("VDI", disk["vdi"]):
            continue  # somebody has destroyed it, since it is one as any other
        vdi = session.xenapi.VDI.get_by_uuid(disk["vdi"])
        if disk.get("frozen"):
            of = received_snapshots.owner_of(session, entry, disk)
            received_snapshots.mark(session, vdi, disk, of)
        received_vdis.manage(session, vdi)
    return {}


def receive_owed(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Note what the source has taken off the VM for the move, and gives back in the end: what HA
    did for it, and which of its new disks are to have their changed blocks tracked. Nobody but its
    journal knows, and that host may never come back. Idempotent."""
    entry = Journal.load(journal.check_id(given.get("migration", "")), RECEIVING)
    priority = given.get("ha-restart-priority", "")
    if priority not in PRIORITIES:
        raise BadArguments("ha-restart-priority: %r is not one" % priority[:64])
    tracked = wanted_disks.uuids(given["vdis"])
    entry.write(owed={"ha_restart_priority": priority, "tracked": tracked})
    return {}


def receive_end(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """After the VM has arrived: the receiver goes, and the disks are disks like any other."""
    entry = receiving_calls.known(given)
    if entry is None:
        arrival.forget(given["migration"])  # all that a call which was killed may have left
        return {}
    for disk in entry.entry["disks"].values():
        if disk.get("frozen") and not Records(session).ref("VDI", disk["vdi"]):
            continue  # somebody has destroyed it, since it is one as any other
        if marks.SHUT in _config(session, disk["vdi"]).values():
            raise ReceiverFailed(entry.entry["migration"], "the gate of %s is shut" % disk["vdi"])
    secret_files.forget(entry.entry["migration"])
    receivers.stop(entry, "exit")
    receive_give(session, given)
    for disk in entry.entry["disks"].values():
        blocking.unmark_vdi(session, disk["vdi"], entry.entry["migration"])
        Record("receive", disk["vdi"]).remove()  # of a `finish` that has not come to its end
    secret_files.forget_all(entry.entry["migration"])
    _remove_journal(entry)
    return {}


def receive_track(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Have the changed blocks of disks of a VM of this host tracked. `vdis`: a JSON list of their
    UUIDs. {"failed": {UUID: why one is not, in words}}. Idempotent."""
    failed = {}
    for uuid in wanted_disks.uuids(given["vdis"]):
        why = tracking.begin(session, uuid)
        if why:
            failed[uuid] = why
    return {"failed": failed}


def _refuse_from_now_on(migration: str) -> None:
    """A `receive` of it may be on its way still, from a worker that was killed meanwhile: nobody
    would want its disks."""
    known = {other: Journal.load(other, RECEIVING) for other in journal.all_ids(RECEIVING)}
    for entry in known.values():
        if receiving_calls.refused(entry) and time.time() - entry.entry["updated"] > REFUSED_FOR:
            entry.remove()
    if migration not in known:
        Journal.create(
            migration, RECEIVING, state=journal.CANCELLED, disks={}, srs=[], receivers=[]
        )


def _undo(session: "XenAPI.Session", entry: Journal) -> Tuple[str, ...]:
    """Take away what there is: idempotent, and for a journal in any state. Raises GateOpen if a
    disk is active.

    What may be left, as details of ImageLeft: then the journal stays, for whoever has it aborted to
    be told. Else ()."""
    found = entry.entry["migration"]
    # first: whatever comes of the rest, nobody has a use for them any more
    secret_files.forget(found)
    receivers.stop(entry, "abort")
    secret_files.forget_all(found)
    unproven = received_vdis.take_away(session, entry)
    if not unproven:
        _remove_journal(entry)
    return unproven


def _remove_journal(entry: Journal) -> None:
    for disk in entry.entry["disks"].values():
        if disk["vdi"]:
            gate_notes.forget(disk["vdi"])
    entry.remove()
    # last: without it, and the gates shut, the disks could be taken for nobody's
    arrival.forget(entry.entry["migration"])


def _config(session: "XenAPI.Session", uuid: str) -> Dict[str, str]:
    config: Dict[str, str] = session.xenapi.VDI.get_sm_config(session.xenapi.VDI.get_by_uuid(uuid))
    return config
