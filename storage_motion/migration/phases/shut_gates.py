# SPDX-License-Identifier: LGPL-2.1-only
"""Taking a move back: the destination's gates are shut, then the source's disks are free again."""

import logging
from typing import TYPE_CHECKING, List, Sequence

from storage_motion.errors import GateOpen, NotDurable, Undecided
from storage_motion.journal import steps
from storage_motion.migration import durable, unplugged_disks, xenopsd_leftovers
from storage_motion.sm import marks
from storage_motion.switch import gate, pool_lock, source_lock, stale_activation, whereabouts

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

log = logging.getLogger("sxm")


def shut_gates(m: "Migration") -> None:
    """Undo of both: shut the destination's gates again, then unlock the source. Raises Undecided
    unless it is sure where the VM is."""
    if not m.plan.live:
        whereabouts.stop_finishing(m)
    elif whereabouts.decide(m) == whereabouts.DESTINATION:
        raise Undecided("the VM is at the destination, and was to be taken back")
    begun = [
        disk
        for disk in m.plan.disks
        if whereabouts.begun_to_open(m, disk) and whereabouts.vdi_there(m, disk)
    ]
    if begun:
        _shut_durably(m, begun)
    for disk in m.plan.disks:
        if not m.disk(disk.key).get("kept") and m.disk(disk.key).get("gate", steps.ATTACHED) in (
            steps.LOCKING,
            steps.LOCKED,
            steps.OPENING,
            steps.OPEN,
        ):
            gate.remove(m.source, m.source_vdi(disk), marks.of_source(m.id))
        # Also of one that was detached only: who tries again has to see anew that its mirror ended
        # cleanly.
        m.note(disk.key, gate=steps.ATTACHED)
    if m.plan.live:
        xenopsd_leftovers.come_back(m)
        # Noted before the lock is lifted: who takes it up again must not lead the gates of disks
        # that anybody may have used since.
        m.note(xenops_task=None)
    for disk in m.plan.disks:
        source_lock.lift(m, disk)
    pool_lock.lift(m)
    # last, since SM may refuse: no lock is to stay for that
    for disk in m.plan.disks if m.plan.live else ():
        stale_activation.let_go_dead(m.source, disk.key, m.plan.vm)
    if m.plan.live:
        xenopsd_leftovers.end_arrival(m)


def _shut_durably(m: "Migration", disks: Sequence["Disk"]) -> None:
    """Raises Undecided where that is not proven: the new disks would be destroyed next, and the VM
    let go, while a crash of xapi may bring another decision back."""
    try:
        durable.keep(
            (m.destination,),
            lambda: _shut(m, disks),
            lambda: _not_shut(m, disks),
            "the gates of VM %s" % m.plan.vm,
        )
    except NotDurable as error:
        raise Undecided("whether the gates of VM %s are shut on disk: %s" % (m.plan.vm, error))


def _shut(m: "Migration", disks: Sequence["Disk"]) -> None:
    for disk in disks:
        vdi = whereabouts.vdi_there(m, disk)
        if vdi:
            try:
                gate.shut(m.destination, vdi, m.disk(disk.key)["destination_vdi"])
            except GateOpen as error:
                raise Undecided(str(error))
            m.note(disk.key, opened=True)


def _not_shut(m: "Migration", disks: Sequence["Disk"]) -> List[str]:
    there = {disk.key: whereabouts.vdi_there(m, disk) for disk in disks}
    return [
        "the gate of %s" % key
        for key, vdi in there.items()
        if vdi and not gate.is_shut(m.destination.xenapi.VDI.get_sm_config(vdi))
    ]


def lock_again(m: "Migration") -> None:
    """Put back what keeps the source's disks from being activated, as far as the journal says that
    it was there. SM clears `paused` when an SR's master plugs it; `relinking` outlives that, but
    for a coalesce."""
    for disk in m.plan.disks:
        unplugged_disks.put_back(m, disk)
        step = m.disk(disk.key).get("gate", steps.ATTACHED)
        if m.entry.get("xenops_task") or step != steps.ATTACHED:
            source_lock.begin_again(m, disk)
        if step in (steps.LOCKED, steps.OPENING, steps.OPEN):
            gate.put(m.source.xenapi.VDI, m.source_vdi(disk), marks.PAUSED, marks.of_source(m.id))
