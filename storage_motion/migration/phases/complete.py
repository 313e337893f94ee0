# SPDX-License-Identifier: LGPL-2.1-only
"""Completing a move: the destination's xapi takes the VM as its own."""

import json
import logging
from typing import TYPE_CHECKING, Optional

import XenAPI

from storage_motion import waiting
from storage_motion.errors import NotCleanedUp, TimedOut
from storage_motion.migration import known_at_destination, xenopsd_leftovers
from storage_motion.migration.phases import adopt, history, receive, remap
from storage_motion.sm import marks
from storage_motion.switch import gate, whereabouts
from storage_motion.xapi import receiving_host, tasks
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

COMPLETE_TIMEOUT = 60.0

log = logging.getLogger("sxm")


def complete(m: "Migration") -> None:
    """Have the destination's xapi take the VM as its own: running, or halted if it has ended since,
    or never began to run."""
    known_at_destination.keep(m, lambda: _take(m))
    _leave(m)
    if m.plan.cross_pool:
        xenopsd_leftovers.note_halted(m)
    if not m.plan.same_host:
        _detach_networks(m)
    if m.receiving_host:
        receiving_host.leave(m.destination, m.receiving_host)
        m.receiving_host = None
    for disk in m.plan.disks:
        m.note(disk.key, state="moved")


def _take(m: "Migration") -> None:
    seen = waiting.until(
        lambda: _settled(m),
        COMPLETE_TIMEOUT,
        "VM %s to run at the destination, or to have ended" % m.plan.vm,
    )
    remap.bring_again(m)
    receive.give(m)  # before xapi looks at the VM, and at what may be done with its VBDs
    if seen.live:
        _take_running(m)
        adopt.replace_unplugged(m)
    else:
        _end_there(m)
        if not m.plan.cross_pool:
            _leave(m)
            xenopsd_leftovers.note_halted(m)
            adopt.adopt(m)
    history.adopt_within(m)
    m.note(arrived_halted=not seen.live)


def _leave(m: "Migration") -> None:
    """What the source still has of the VM, but for its records."""
    if not m.plan.same_host:
        for disk in m.plan.disks:
            # A xenopsd that was killed may take a disk for active, and deactivates it once more:
            # its `relinking` lets it, and nobody in.
            vdi = Records(m.source).ref("VDI", disk.key)
            if vdi:  # else it has been cleaned up already, and this is a recovery
                gate.remove(m.source, vdi, marks.of_source(m.id))
    xenopsd_leftovers.leave(m)


def _settled(m: "Migration") -> Optional[whereabouts.Seen]:
    whereabouts.open_again(m)
    seen = whereabouts.settle(m)
    return seen if seen.live or seen.ended else None


def _take_running(m: "Migration") -> None:
    """Raises NotCleanedUp where xapi does not take the VM that runs there.

    It waits in the call until it has heard of xenopsd what was told so far: for ever, if it was
    killed while the VM arrived, and failed at its start to end the copy under the temporary id,
    which had just become the VM (xapi_xenops.ml, on_xapi_restart)."""
    vm, api = remap.destination_vm(m), m.destination.xenapi

    def arrived() -> bool:
        return (
            api.VM.get_resident_on(vm) == m.host()
            and api.VM.get_power_state(vm) in whereabouts.LIVE
            and all(
                m.plan.cross_pool or disk.unplugged or _has_its_disk(m, disk)
                for disk in m.plan.disks
            )
        )

    try:
        tasks.run(
            m.destination,
            lambda: api.Async.VM.pool_migrate_complete(vm, m.host()),
            COMPLETE_TIMEOUT,
        )
        waiting.until(arrived, COMPLETE_TIMEOUT, "VM %s in the records of its pool" % m.plan.vm)
    except TimedOut:
        raise NotCleanedUp(
            "VM %s runs at the destination, and the xapi of host %s there takes no notice of it "
            "within %g s; restart the toolstack "
            "of that host, then recover"
            % (m.plan.vm, m.plan.destination_host_name, COMPLETE_TIMEOUT)
        )


def _end_there(m: "Migration") -> None:
    """What the destination still has of a VM that has ended there."""
    log.warning("%s: VM %s does not run at the destination: it is halted there", m.id, m.plan.vm)
    whereabouts.xenopsd_there(m).end(m.plan.vm)
    if m.plan.cross_pool:
        vm = remap.destination_vm(m)
        if m.destination.xenapi.VM.get_power_state(vm) != "Halted":
            m.destination.xenapi.VM.power_state_reset(vm)


def _has_its_disk(m: "Migration", disk: "Disk") -> bool:
    vbd = m.destination.xenapi.VBD.get_by_uuid(disk.vbd)
    return bool(m.destination.xenapi.VBD.get_VDI(vbd) == m.destination_vdi(disk))


def _detach_networks(m: "Migration") -> None:
    """The source host may let go of the VM's networks."""
    host = m.source.xenapi.host.get_by_uuid(m.plan.source_host)
    try:
        m.source.xenapi.network.detach_for_vm(host, m.vm())
    except XenAPI.Failure as failure:
        log.warning("%s: network.detach_for_vm: %s", m.id, json.dumps(failure.details))
