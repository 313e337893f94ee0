# SPDX-License-Identifier: LGPL-2.1-only
"""Where a VM is, now that its move did not simply succeed: what is seen at the destination, and
what that proves."""

import json
import logging
from typing import TYPE_CHECKING, Callable, Dict, List, NamedTuple, Optional, Tuple

import XenAPI

from storage_motion import waiting
from storage_motion.errors import MotionError, TimedOut, Undecided
from storage_motion.journal.steps import OPEN, OPENING
from storage_motion.sm import marks
from storage_motion.switch import gate
from storage_motion.xapi import receiving_host, xenops
from storage_motion.xapi.session import NOT_XAPI

if TYPE_CHECKING:
    from storage_motion.plan.plan import Disk
    from storage_motion.switch.protocols import Migration

log = logging.getLogger("sxm")

SETTLE_TIMEOUT = 150.0  # SM's activation at the destination waits for its gate for up to 120 s
SOURCE, DESTINATION = "source", "destination"
LIVE = ("Running", "Paused")
# the sm_config of a VDI that is not there any more, as good as one that is shut
TAKEN_AWAY = {marks.RELINKING: marks.SHUT}


def stop_finishing(m: "Migration") -> None:
    """Have the destination end what may be opening gates. Whatever is shut after this stays shut.
    Raises Undecided.

    A `finish` may be under way there that nobody waits for any more: it would take `paused` away
    behind our back. What the host tells has it noted in files of its own: which gates it has opened
    (dom0/gate_notes.py), and that the VM has arrived (journal/arrival.py). Its sm_config may have
    gone back, with xapi's database, to what it was before."""
    if m.lost or not any(begun_to_open(m, disk) for disk in m.plan.disks):
        return
    try:
        told = json.loads(m.plugin("receive-stop", vm=m.plan.vm))
    except (MotionError, XenAPI.Failure, OSError) + NOT_XAPI as error:
        raise Undecided(
            "whether a gate is being opened at the destination: %s" % " ".join(m.describe(error))
        )
    if "opened" not in told:
        raise Undecided(
            "which gates the destination has opened: its version of Storage XenMotion is another "
            "one"
        )
    if told["arrived"]:
        m.note(arrived=True)
    for disk in m.plan.disks:
        if begun_to_open(m, disk) and (told["arrived"] or disk.key in told["opened"]):
            m.note(disk.key, gate=OPEN)


def begun_to_open(m: "Migration", disk: "Disk") -> bool:
    """Whether the disk's gate may be open, for all that the journal knows."""
    return m.disk(disk.key).get("gate") in (OPENING, OPEN)


class Seen(NamedTuple):
    """How it looks at the destination. `disks`: the sm_config of each, in the plan's order;
    `state`: the VM's, of its xenopsd, None if that does not know it; `arriving`: whether a copy of
    the VM is on its way in; `open`: whether all gates are. `stuck`: the ids of copies that xenopsd
    is not at any more: under the VM's own id and paused, when a disk did not come, or under that of
    an arrival, when it was killed. Nothing of them will go on by itself."""

    disks: List[Dict[str, str]]
    state: Optional[str]
    arriving: bool
    same_host: bool
    stuck: Tuple[str, ...] = ()
    open: bool = False

    @property
    def live(self) -> bool:
        """It runs on the new disks. Where both hosts are one the state alone may be that of the VM
        on its old disks; where they are two, the keys of a member's host go with an older database
        of its master's, until that member's xapi is started again."""
        on_them = (
            any(gate.active(config) for config in self.disks) or self.open and not self.same_host
        )
        return self.state == "Running" and on_them

    @property
    def gave_up(self) -> bool:
        """It does not run there, nor will, and a disk is noted as active, or about to be: SM is at
        it still, or could not take that away."""
        return (
            self.state in xenops.GONE
            and not self.arriving
            and not all(gate.is_free(config) for config in self.disks)
        )

    @property
    def ended(self) -> bool:
        """It does not run there, nor will, unless somebody starts it."""
        away = self.state in xenops.GONE or self.same_host and self.state == "Suspended"
        return away and not self.arriving and all(gate.is_free(config) for config in self.disks)


def look(m: "Migration") -> Seen:
    """Look: a Seen. Raises whatever the destination does not answer with."""
    # In this order: what has been seen in the disks may end, but not begin, without the VM's being
    # seen then.
    vdis = [vdi_there(m, disk) for disk in m.plan.disks]
    disks = [m.destination.xenapi.VDI.get_sm_config(vdi) if vdi else TAKEN_AWAY for vdi in vdis]
    there = xenopsd_there(m)
    incoming = there.power_state(xenops.incoming(m.plan.vm))
    state = there.power_state(m.plan.vm)
    # Where both hosts are one the VM's own id is the copy's once the VM has its temporary one.
    copied = not m.plan.same_host or there.power_state(xenops.leaving(m.plan.vm)) is not None
    copies = [
        (xenops.incoming(m.plan.vm), incoming not in (None, "Running")),
        (m.plan.vm, copied and state == "Paused"),
    ]
    found = tuple(vm for vm, waits in copies if waits)
    return Seen(
        disks,
        state,
        incoming is not None,
        m.plan.same_host,
        found if found and not _sending(m, there) else (),
        all(opened(m, disk) for disk in m.plan.disks),
    )


def _sending(m: "Migration", there: xenops.Xenops) -> bool:
    """Whether a xenopsd of either side is at the move."""
    here = xenops.Xenops.local(m.source, "sxm " + m.id)
    return there.busy() or here.busy()


def settle(m: "Migration") -> Seen:
    """Look, and end copies that are stuck there: then it is looked again."""
    seen = look(m)
    if not seen.stuck:
        return seen
    for vm in seen.stuck:
        xenopsd_there(m).end(vm)
    return look(m)


def vdi_there(m: "Migration", disk: "Disk") -> Optional[str]:
    """The ref of a disk's VDI at the destination; None if it has been taken away, as recovery there
    does with those that are shut."""
    try:
        return m.destination_vdi(disk)
    except XenAPI.Failure as failure:
        if failure.details[0] != "UUID_INVALID":
            raise
        return None


def decide(m: "Migration") -> str:
    """SOURCE or DESTINATION: where the VM is, now that xenopsd's task has not succeeded. Raises
    Undecided if that is not sure.

    The last gate to open is the point from which on the destination's disks are the VM's: it may
    have run on them, and have ended before anybody saw that. So it is at the destination if it runs
    there, and also if it does not run but all gates are open; and at the source if a gate is shut,
    and none of the new disks is active. What is shut stays shut meanwhile. Before all that: it is
    at the destination if that host has noted its arrival, since its databases may have gone back
    since. A destination that is lost, by the administrator's word, has no VM."""
    if m.lost:
        return SOURCE
    stop_finishing(m)
    asked: List[Optional[str]] = [None]

    def decided() -> Optional[str]:
        if m.entry.get("arrived"):
            return DESTINATION
        try:
            open_again(m, gate.active)  # else whoever has it active could not be rid of it
            seen = settle(m)
            if seen.gave_up:
                stop_finishing(m)  # it could not end, while SM was at it, what SM has left
        except (MotionError, XenAPI.Failure, OSError) + NOT_XAPI as error:
            asked[0] = " ".join(m.describe(error))
            return None
        active = any(gate.active(config) for config in seen.disks)
        all_open = all(opened(m, disk) for disk in m.plan.disks)
        asked[0] = "it is %s there, and its disks are %s" % (
            "arriving" if seen.arriving else seen.state,
            "active" if active else "not active, and open" if all_open else "not active",
        )
        if seen.live or all_open and seen.ended:
            return DESTINATION
        if not all_open and not active and (m.plan.same_host or seen.state not in LIVE):
            return SOURCE
        return None

    try:
        return waiting.until(decided, SETTLE_TIMEOUT, "whereabouts of the VM")
    except TimedOut:
        raise Undecided("whether VM %s is at the destination: %s" % (m.plan.vm, asked[0]))


def opened(m: "Migration", disk: "Disk") -> bool:
    """Whether the gate of a disk has been opened, and not shut again. The journal says so, or that
    the VM has arrived: marks of sm_config may have come back with an older database."""
    return bool(m.entry.get("arrived")) or m.disk(disk.key).get("gate") == OPEN


def open_again(
    m: "Migration", wanted: Callable[[Dict[str, str]], bool] = lambda sm_config: True
) -> None:
    """Open the gates that are open by the journal, and that xapi, with an older database, has shut
    again: those whose sm_config is `wanted`."""
    for disk in m.plan.disks:
        vdi = vdi_there(m, disk) if opened(m, disk) else None
        config = m.destination.xenapi.VDI.get_sm_config(vdi) if vdi else {}
        if marks.SHUT in config.values() and wanted(config):
            log.warning(
                "VDI %s: its gate is shut again, and is opened", m.disk(disk.key)["destination_vdi"]
            )
            assert vdi is not None
            gate.open_again(m.destination, vdi)


def xenopsd_there(m: "Migration") -> xenops.Xenops:
    """The Xenops of the destination host."""
    if m.plan.same_host:
        return xenops.Xenops.local(m.source, "sxm " + m.id)
    answer = m.receiving_host or receiving_host.ask_again(m)
    return xenops.Xenops.at(
        answer["xenops"],
        "sxm " + m.id,
        new_url=lambda: receiving_host.ask_again(m)["xenops"],
        outage=m.outage_there,
    )
