# SPDX-License-Identifier: LGPL-2.1-only
"""Moving the VM, by the XenMotion that is there: xenopsd's, while the gates of its disks are led
through the switch."""

import logging
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import XenAPI

from storage_motion import waiting
from storage_motion.errors import (
    JournalNotWritten,
    MoveCutShort,
    MoveFailed,
    MoverFailed,
    Unreachable,
)
from storage_motion.journal import steps
from storage_motion.migration import (
    durable,
    mirror_health,
    unplugged_disks,
    xapi_verdict,
    xenopsd_leftovers,
)
from storage_motion.migration.move_watch import MoveWatch
from storage_motion.migration.phases import (
    claim,
    copying,
    ha_protection,
    receive,
    remap,
    sharable_disks,
)
from storage_motion.plan import changes, installed
from storage_motion.switch import disk_switch, gate, pool_lock, source_lock, whereabouts
from storage_motion.xapi import receiving_host, repeated, xenops
from storage_motion.xapi.records import UNKNOWN

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

STANDBYS = 16
STARTING = "starting"  # in the journal in place of xenopsd's task, while its name is not known yet

log = logging.getLogger("sxm")


def move(m: "Migration") -> None:
    """Move the running VM. Raises Cancelled, MirrorBroken, MoveFailed..., and then it is still at
    the source; or Undecided."""
    switches = [disk_switch.of_disk(m, disk) for disk in m.plan.disks if m.plan.uses(disk)]
    here = xenops.Xenops.local(m.source, "sxm " + m.id)
    task, unwritten = _task(m, here)
    before = m.receiving_host
    watch = MoveWatch(m, here, task, switches)
    if unwritten:
        watch.stop(unwritten)
    watch.drive()
    if watch.error is None:
        m.note(downtime=watch.downtime)
        return
    if whereabouts.decide(m) == whereabouts.DESTINATION:
        log.warning("%s: xenopsd reports %s, but the VM is at the destination", m.id, watch.error)
        # what a `finish` that died had begun, or an older database has brought back
        whereabouts.open_again(m)
        return
    if (
        isinstance(watch.error, MoveFailed)
        and all(one.step == steps.ATTACHED for one in switches)
        and _has_ended(m, before)
    ):
        raise MoveCutShort(*watch.error.details)
    raise watch.error


def _has_ended(m: "Migration", answer: Optional[Dict[str, Any]]) -> bool:
    """Whether the destination's xapi has been restarted since it gave that `answer`: it forgets its
    sessions then. Not, if that is not known."""
    try:
        return answer is not None and not m.destination.xenapi.session.get_uuid(
            answer["session_id"]
        )
    except XenAPI.Failure as failure:
        return failure.details[0] in UNKNOWN


def _task(m: "Migration", here: xenops.Xenops) -> Tuple[str, Optional[JournalNotWritten]]:
    """(xenopsd's task that moves the VM, why it must not go on or None). Begun now, or by a worker
    that died, in which case it may be unknown by now."""
    known = m.entry.get("xenops_task")
    if known == STARTING:
        return next(iter(here.tasks_of_label()), STARTING), None
    if known:
        return known, None
    if m.receiving_host is None:
        receiving_host.ask_again(m)
    changes.require_none(m)
    _require_same_images(m)
    installed.require_again(m)
    if not m.plan.cross_pool and not m.plan.same_host:
        xapi_verdict.ask_again(m)
        m.destination.xenapi.network.attach_for_vm(m.host(), m.vm())
    xenopsd_leftovers.end_earlier(m, here)
    xenopsd_leftovers.keep(m, here)
    pool_lock.put(m)
    _stand_by(m)  # before the locks, behind which a guest that reboots would wait
    _protect(m)
    maps = _maps(m)
    # with a session of now: a xapi that was restarted knows no other
    receiving_host.ask_again(m)
    unplugged_disks.hand_over(m)
    # and a mirror that has ended by now lacks what the guest has written since
    mirror_health.await_answers(m)
    m.note(xenops_task=STARTING)
    task = _ask(m, here, maps)
    try:
        m.note(xenops_task=task)
    except JournalNotWritten as error:
        return task, error  # the guest runs still, and would wait before its gates
    return task, None


def _require_same_images(m: "Migration") -> None:
    """Raises MirrorBroken where SM has merged images of others below a disk whose gate is shut: the
    collector has taken half of that away, too."""
    for disk in m.plan.disks:
        if not disk_switch.has_begun(m, disk):
            copying.require_same_images(m, disk)


def _stand_by(m: "Migration") -> None:
    """Have the destination ready to open the gates: so the guest's pause is shorter. Not more than
    STANDBYS of them, since each takes 20 MiB or so until the VM's memory has moved."""

    def of_one(disk: "Disk") -> None:
        try:
            m.mover(disk.key).stand_by()
        except MoverFailed as error:  # the gates are opened without it; or the mover is no more
            log.warning("%s: nothing stands by to open a gate: %s", m.id, error)

    if m.plan.live:
        waiting.at_once(of_one, m.plan.disks[:STANDBYS])


def _ask(m: "Migration", here: xenops.Xenops, maps: Tuple[Dict[str, str], Dict[str, str]]) -> str:
    """Have xenopsd move the VM: its task. Where the answer was lost with this host's xapi it is
    looked whether there is one; else it is asked again."""
    assert m.receiving_host is not None
    before = here.tasks_of_label()
    for left in reversed(range(repeated.TRIES)):
        try:
            return here.migrate(
                m.plan.vm,
                *maps,
                xenops_url=m.receiving_host["xenops"],
                compress=m.plan.compress,
                verify_dest=_verify(m),
                same_host=m.plan.same_host,
            )
        except Unreachable as error:
            log.warning("%s: whether xenopsd moves the VM is not known: %s", m.id, error)
            begun = [task for task in here.tasks_of_label() if task not in before]
            if begun:
                return begun[0]
            if not left:
                raise
    raise AssertionError("the last try answers or raises")


def _protect(m: "Migration") -> None:
    """Have on disk what keeps the VM from being started on a stale disk, or forgotten, before it
    may leave. The guest runs on meanwhile."""

    def put() -> None:
        claim.put_back(m)
        waiting.at_once(lambda disk: _begin_lock(m, disk), m.plan.disks)
        if m.plan.live and m.plan.cross_pool:
            remap.keep_live(m)
        receive.tell_owed(m)

    durable.keep(
        (m.source, m.destination), put, lambda: _unprotected(m), "what protects VM %s" % m.plan.vm
    )


def _begin_lock(m: "Migration", disk: "Disk") -> None:
    """Raises MirrorBroken where a disk that nobody uses has not been kept closed: the lock would
    hide that; or where others could write to it."""
    sharable_disks.require_off(m, disk)
    if m.plan.keeps_closed(disk) and not disk_switch.has_begun(m, disk):
        unplugged_disks.require_kept(m, disk)
    source_lock.begin(m, disk)


def _unprotected(m: "Migration") -> List[str]:
    found = receive.unkept(m, m.plan.history)
    found += [
        "the lock (relinking) of source VDI %s" % disk.key
        for disk in m.plan.disks
        if not source_lock.is_begun(m, disk)
    ]
    for disk in m.plan.disks:
        vdi = whereabouts.vdi_there(m, disk)
        if not vdi or not gate.is_shut(m.destination.xenapi.VDI.get_sm_config(vdi)):
            found.append("the gate of %s" % m.disk(disk.key)["destination_vdi"])
    found += ha_protection.found_again(m)
    return found + (remap.lacking(m) if m.plan.live and m.plan.cross_pool else [])


def hand_over(m: "Migration") -> None:
    """Open the gates of a halted VM's disks, each after its source is locked."""
    changes.require_none(m)
    _require_same_images(m)
    installed.require_again(m)
    pool_lock.put(m)
    _protect(m)
    unplugged_disks.hand_over(m)


def _maps(m: "Migration") -> Tuple[Dict[str, str], Dict[str, str]]:
    """(vdi_map, vif_map) for VM.migrate: locators "SR uuid/location", and bridges of the
    destination by device."""
    vdis = {}
    for disk in m.plan.disks:
        location = m.destination.xenapi.VDI.get_location(m.destination_vdi(disk))
        vdis["%s/%s" % (disk.source_sr, disk.location)] = "%s/%s" % (disk.destination_sr, location)
    bridges = {}
    for vif in m.plan.vifs:
        network = m.destination.xenapi.network.get_by_uuid(vif.network)
        bridges[vif.device] = m.destination.xenapi.network.get_bridge(network)
    return vdis, bridges


def _verify(m: "Migration") -> bool:
    """Whether xenopsd is to check the destination's certificate: within a pool that has told its
    hosts theirs."""
    if m.plan.cross_pool or m.plan.same_host:
        return False
    pool = list(m.source.xenapi.pool.get_all_records().values())[0]
    return bool(pool.get("tls_verification_enabled", False))
