"""Moving the VM, by the XenMotion that is there: xenopsd's, while the gates of its disks are led through the switch."""
import json
import logging
import time
from typing import List, NamedTuple, Optional

import XenAPI

from storage_motion.control import adopt, bar, changes, cleanup, gate, remap, sync, waiting
from storage_motion.errors import (Cancelled, GateOpen, MotionError, MoveFailed, TimedOut, Undecided, Unreachable, XenopsError)
from storage_motion.xapi import xenops
from storage_motion.xapi.session import NOT_XAPI, reason

BAR_INTERVAL = 1.0         # seconds: less than a guest needs to reboot
POLL = 0.03                # seconds: the guest is paused meanwhile
MOVE_TIMEOUT = 24 * 3600.0  # a big VM's memory over a slow link
SILENCE_TIMEOUT = 120.0    # of a xenopsd that is being restarted
SETTLE_TIMEOUT = 150.0     # SM's activation at the destination waits for its gate for up to 120 s
COMPLETE_TIMEOUT = 60.0
SOURCE, DESTINATION = "source", "destination"
LIVE = ("Running", "Paused")
GONE = (None, "Halted")
STARTING = "starting"      # in the journal in place of xenopsd's task, while its name is not known yet

log = logging.getLogger("sxm")


def move(m):
    """Move the running VM. Raises Cancelled, MirrorBroken, MoveFailed..., and then it is still at the source; or Undecided."""
    gates = [_gate(m, disk, m.plan.live) for disk in m.plan.disks]
    here = xenops.Xenops.local(m.source, "sxm " + m.id)
    driver = _Driver(m, here, _task(m, here), gates)
    driver.drive()
    if driver.error is None:
        m.note(downtime=driver.downtime)
        return
    if whereabouts(m) == DESTINATION:
        log.warning("%s: xenopsd reports %s, but the VM is at the destination", m.id, driver.error)
        _note_opened(m)
        return
    raise driver.error


def _task(m, here):
    """xenopsd's task that moves the VM: begun now, or by a worker that died, in which case it may be unknown by now."""
    known = m.entry.get("xenops_task")
    if known == STARTING:
        return next(iter(here.tasks_of_label()), STARTING)
    if known:
        return known
    if m.arrival is None:
        m.arrival = remap.arrive(m.destination, m.host(), m.destination.xenapi.network.get_by_uuid(m.plan.network))
    if not m.plan.cross_pool and not m.plan.same_host:
        m.destination.xenapi.network.attach_for_vm(m.host(), m.vm())
    changes.require_none(m)
    waiting.at_once(lambda disk: bar.put(m, disk), m.plan.disks)
    sync.watch(m)   # a mirror that has ended by now lacks what the guest has written since
    m.note(xenops_task=STARTING)
    task = here.migrate(m.plan.vm, *_maps(m), xenops_url=m.arrival["xenops"], compress=m.plan.compress,
                        verify_dest=_verify(m), same_host=m.plan.same_host)
    m.note(xenops_task=task)
    return task


def _note_opened(m):
    """The VM is at its new disks. A gate that was being opened when nobody could tell any more is open, then: it opens only
    when the mover says `finish`, and that only for what was verified."""
    for disk in m.plan.disks:
        if _opened(m, disk, m.destination.xenapi.VDI.get_sm_config(m.destination_vdi(disk))):
            m.note(disk.key, gate=gate.OPEN)
            gate.open_again(m.destination, m.destination_vdi(disk))  # what a `finish` that died had begun


def hand_over(m):
    """Open the gates of a halted VM's disks, each after its source is sealed."""
    changes.require_none(m)
    for disk in m.plan.disks:
        waiting.until(lambda: bar.put_again(m, disk), bar.COALESCE_TIMEOUT, "SM relinks VDI %s" % disk.key)
        one = _gate(m, disk, False)
        waiting.until(one.advance, gate.SETTLE_TIMEOUT, "hand-over of %s" % disk.key)


def shut_gates(m):
    """Undo of both: shut the destination's gates again, then unseal the source. Raises Undecided unless it is sure where
    the VM is."""
    if not m.plan.live:
        _stop_finishing(m)
    elif whereabouts(m) == DESTINATION:
        raise Undecided("the VM is at the destination, and was to be taken back")
    for disk in m.plan.disks:
        if _begun_to_open(m, disk):
            try:
                gate.shut(m.destination, m.destination_vdi(disk), m.disk(disk.key)["destination_vdi"])
            except GateOpen as error:
                raise Undecided(str(error))
            m.note(disk.key, opened=True)
    for disk in m.plan.disks:
        if m.disk(disk.key).get("gate", gate.ATTACHED) in (gate.SEALING, gate.SEALED, gate.OPENING, gate.OPEN):
            gate.unseal(m.source, m.source_vdi(disk), _seal(m))
        # Also of one that was detached only: who tries again has to see anew that its mirror ended cleanly.
        m.note(disk.key, gate=gate.ATTACHED)
    if m.plan.live:
        _shut_down_if_suspended(m)
        # Noted before the bar is lifted: who takes it up again must not lead the gates of disks that anybody may have used since.
        m.note(xenops_task=None)
    for disk in m.plan.disks:
        bar.lift(m, disk)


def seal_again(m):
    """Put back what keeps the source's disks from being activated, as far as the journal says that it was there. SM clears seals
    when an SR's master plugs it; the bar outlives that, but for a coalesce."""
    for disk in m.plan.disks:
        step = m.disk(disk.key).get("gate", gate.ATTACHED)
        if m.entry.get("xenops_task") or step != gate.ATTACHED:
            bar.put_again(m, disk)
        if step in (gate.SEALED, gate.OPENING, gate.OPEN):
            gate.put(m.source.xenapi.VDI, m.source_vdi(disk), gate.PAUSED, _seal(m))


def _stop_finishing(m):
    """Have the destination end what may be opening gates. Whatever is shut after this stays shut. Raises Undecided.

    A `finish` may be under way there that nobody waits for any more: it would take `paused` away behind our back."""
    if not any(_begun_to_open(m, disk) for disk in m.plan.disks):
        return
    try:
        m.plugin("receive-stop")
    except (MotionError, XenAPI.Failure, OSError) + NOT_XAPI as error:
        raise Undecided("whether a gate is being opened at the destination: %s" % " ".join(m.describe(error)))


def _begun_to_open(m, disk):
    """Whether the disk's gate may be open, for all that the journal knows."""
    return m.disk(disk.key).get("gate") in (gate.OPENING, gate.OPEN)


def complete(m):
    """Have the destination's xapi take the VM as its own: running, or halted if it has ended since, or never began to run."""
    seen = waiting.until(lambda: _settled(_look(m)), COMPLETE_TIMEOUT, "VM %s to run at the destination, or to have ended" % m.plan.vm)
    if seen.live:
        _take_running(m)
    else:
        _take_halted(m)
    if not m.plan.same_host:
        xenops.Xenops.local(m.source, "sxm " + m.id).forget(m.plan.vm)
        _detach_networks(m)
    if m.arrival:
        remap.depart(m.destination, m.arrival)
        m.arrival = None
    for disk in m.plan.disks:
        m.disk(disk.key)["state"] = "moved"
    m.note(arrived_halted=not seen.live)


def _take_running(m):
    vm = remap.destination_vm(m)
    m.destination.xenapi.VM.pool_migrate_complete(vm, m.host())

    def arrived():
        return (m.destination.xenapi.VM.get_resident_on(vm) == m.host()
                and m.destination.xenapi.VM.get_power_state(vm) in LIVE
                and (m.plan.cross_pool or all(_has_its_disk(m, disk) for disk in m.plan.disks)))
    waiting.until(arrived, COMPLETE_TIMEOUT, "VM %s in the records of its pool" % m.plan.vm)


def _take_halted(m):
    """The records of a halted VM with its new disks."""
    log.warning("%s: VM %s does not run at the destination: it is halted there", m.id, m.plan.vm)
    _shut_down_if_suspended(m)
    if m.plan.cross_pool:
        vm = remap.destination_vm(m)
        if m.destination.xenapi.VM.get_power_state(vm) != "Halted":
            m.destination.xenapi.VM.power_state_reset(vm)
        return
    if m.source.xenapi.VM.get_power_state(m.vm()) != "Halted":
        cleanup.halt(m, m.vm())
    adopt.adopt(m)


class Seen(NamedTuple):
    """How it looks at the destination. `disks`: the sm_config of each, in the plan's order; `state`: the VM's, of its xenopsd, None if
    that does not know it; `arriving`: whether a copy of the VM is on its way in."""
    disks: List[dict]
    state: Optional[str]
    arriving: bool
    same_host: bool

    @property
    def live(self):
        """It runs on the new disks. Where both hosts are one the state alone may be that of the VM on its old disks."""
        return self.state in LIVE and any(gate.active(config) for config in self.disks)

    @property
    def ended(self):
        """It does not run there, nor will, unless somebody starts it."""
        away = self.state in GONE or self.same_host and self.state == "Suspended"
        return away and not self.arriving and all(gate.is_free(config) for config in self.disks)


def _look(m):
    # In this order: what has been seen in the disks may end, but not begin, without the VM's being seen then.
    disks = [m.destination.xenapi.VDI.get_sm_config(m.destination_vdi(disk)) for disk in m.plan.disks]
    there = _xenopsd_there(m)
    arriving = there.power_state(xenops.incoming(m.plan.vm)) is not None
    return Seen(disks, there.power_state(m.plan.vm), arriving, m.plan.same_host)


def _settled(seen):
    return seen if seen.live or seen.ended else None


def whereabouts(m):
    """SOURCE or DESTINATION: where the VM is, now that xenopsd's task has not succeeded. Raises Undecided if that is not sure.

    The last gate to open is the point from which on the destination's disks are the VM's: it may have run on them, and have ended
    before anybody saw that. So it is at the destination if it runs there, and also if it does not run but all gates are open; and
    at the source if a gate is shut, and none of the new disks is active. What is shut stays shut meanwhile."""
    _stop_finishing(m)
    asked = [None]

    def decided():
        try:
            seen = _look(m)
        except (MotionError, XenAPI.Failure, OSError) + NOT_XAPI as error:
            asked[0] = " ".join(m.describe(error))
            return None
        active = any(gate.active(config) for config in seen.disks)
        opened = all(_opened(m, disk, config) for disk, config in zip(m.plan.disks, seen.disks))
        asked[0] = "it is %s there, and its disks are %s" % (
            "arriving" if seen.arriving else seen.state, "active" if active else "not active, and open" if opened else "not active")
        if seen.live or opened and seen.ended:
            return DESTINATION
        if not opened and not active and (m.plan.same_host or seen.state not in LIVE):
            return SOURCE
        return None
    try:
        return waiting.until(decided, SETTLE_TIMEOUT, "whereabouts of the VM")
    except TimedOut:
        raise Undecided("whether VM %s is at the destination: %s" % (m.plan.vm, asked[0]))


def _opened(m, disk, sm_config):
    """Whether the gate of a disk has been opened, and not shut again."""
    return _begun_to_open(m, disk) and not gate.is_shut(sm_config)


class _Driver:
    """Watches xenopsd's task and leads the gates until it has ended. `error`: None if the VM has moved."""

    def __init__(self, m, here, task, gates):
        self.m = m
        self.here = here
        self.task = task
        self.gates = gates
        self.error = None
        self.downtime = None
        self._detached_at = None
        self._held = time.monotonic()
        self._cancelled = False

    def drive(self):
        """Returns when the task has ended, or nobody can tell any more."""
        end = time.monotonic() + MOVE_TIMEOUT
        heard = time.monotonic()
        while True:
            try:
                state, argument = self.here.task(self.task)
                heard = time.monotonic()
            except Unreachable as error:
                if time.monotonic() - heard > SILENCE_TIMEOUT:
                    self.error = self.error or error
                    return
                state, argument = xenops.PENDING, None
            except XenopsError as error:
                self.error = self.error or error
                return
            if state == xenops.COMPLETED:
                self._completed()
                return
            if state == xenops.FAILED:
                self.error = self.error or MoveFailed(self.m.plan.vm, *argument)
                return
            if time.monotonic() > end:
                self._stop(TimedOut("VM.migrate", "%g" % MOVE_TIMEOUT))
            self._lead()
            time.sleep(POLL)

    def _lead(self):
        """One look at every gate, and at whether somebody wants to stop."""
        if self.error is not None:
            return
        if self.m.cancel_asked() and all(one.step == gate.ATTACHED for one in self.gates):
            self._stop(Cancelled(self.m.id))
            return
        try:
            self._advance()
            if self._detached_at is None:
                self._hold_bars()
                self.m.pulse(cancellable=False)
        except (MotionError, XenAPI.Failure) as error:
            self._stop(error)
        except (OSError,) + NOT_XAPI as error:
            # A xapi that is away for a moment: a gate can be led on later. SM at the destination waits 120 s for it, and
            # then xenopsd's task fails.
            log.warning("%s: xapi does not answer: %s", self.m.id, reason(error))

    def _hold_bars(self):
        """A guest cannot reboot within so short a time, so what happens between two looks is seen by the second one's proof."""
        if time.monotonic() - self._held > BAR_INTERVAL:
            self._held = time.monotonic()
            for disk in self.m.plan.disks:
                bar.hold(self.m, disk)

    def _advance(self):
        """Lead every gate on. Whether all are open."""
        opened = [one.advance() for one in self.gates]
        if self._detached_at is None and any(one.step != gate.ATTACHED for one in self.gates):
            self._detached_at = time.monotonic()
        return all(opened)

    def _stop(self, error):
        """Have xenopsd give up; the gates that are shut stay shut. `error`: why."""
        log.warning("%s: stopping the move: %s", self.m.id, error)
        self.error = self.error or error
        if not self._cancelled:
            self._cancelled = True
            try:
                self.here.cancel(self.task)
            except MotionError as refused:
                log.warning("%s: xenopsd does not cancel: %s", self.m.id, refused)

    def _completed(self):
        if self._detached_at is not None:
            self.downtime = round(time.monotonic() - self._detached_at, 3)
        try:
            # A gate is open a moment before we are told so. If one was not, `whereabouts` has to find out.
            waiting.until(self._advance, gate.SETTLE_TIMEOUT, "gates of %s" % self.m.plan.vm)
            self.error = None  # if something wanted to stop the move, that was too late: the disks are whole
        except (MotionError, XenAPI.Failure) as error:
            self.error = self.error or error
        try:
            self.here.destroy(self.task)
        except MotionError as error:
            log.warning("%s: the task of xenopsd stays: %s", self.m.id, error)


def _gate(m, disk, mirrored):
    return gate.Gate(m.source, m.source_vdi(disk), m.mover(disk.key), mirrored, _seal(m),
                     lambda step: m.note(disk.key, gate=step), m.disk(disk.key).get("gate"))


def _seal(m):
    """What our seal on a source VDI says. SM only looks whether there is one."""
    return "sxm " + m.id


def _maps(m):
    """(vdi_map, vif_map) for VM.migrate: locators "SR uuid/location", and bridges of the destination by device."""
    vdis = {}
    for disk in m.plan.disks:
        location = m.destination.xenapi.VDI.get_location(m.destination_vdi(disk))
        vdis["%s/%s" % (disk.source_sr, disk.location)] = "%s/%s" % (disk.destination_sr, location)
    bridges = {}
    for vif in m.plan.vifs:
        network = m.destination.xenapi.network.get_by_uuid(vif.network)
        bridges[vif.device] = m.destination.xenapi.network.get_bridge(network)
    return vdis, bridges


def _verify(m):
    """Whether xenopsd is to check the destination's certificate: within a pool that has told its hosts theirs."""
    if m.plan.cross_pool or m.plan.same_host:
        return False
    pool = list(m.source.xenapi.pool.get_all_records().values())[0]
    return bool(pool.get("tls_verification_enabled", False))


def _xenopsd_there(m):
    if m.plan.same_host:
        return xenops.Xenops.local(m.source, "sxm " + m.id)
    if m.arrival is None:
        _arrive_again(m)
    return xenops.Xenops.at(m.arrival["xenops"], "sxm " + m.id, renew=lambda: _arrive_again(m)["xenops"])


def _arrive_again(m):
    """What leads to the destination's xenopsd, with a session of now: a xapi that is restarted forgets all that it has given."""
    m.arrival = remap.arrive(m.destination, m.host(), m.destination.xenapi.network.get_by_uuid(m.plan.network))
    return m.arrival


def _has_its_disk(m, disk):
    vbd = m.destination.xenapi.VBD.get_by_uuid(disk.vbd)
    return m.destination.xenapi.VBD.get_VDI(vbd) == m.destination_vdi(disk)


def _shut_down_if_suspended(m):
    """A VM that was suspended for the move and did not arrive cannot go on: like xapi, shut it down, its data is whole."""
    if xenops.Xenops.local(m.source, "sxm " + m.id).power_state(m.plan.vm) != "Suspended":
        return
    vm = m.vm()
    if "hard_shutdown" in m.entry.get("blocked", []):
        m.source.xenapi.VM.remove_from_blocked_operations(vm, "hard_shutdown")
        m.note(blocked=[operation for operation in m.entry["blocked"] if operation != "hard_shutdown"])
    m.source.xenapi.VM.hard_shutdown(vm)


def _detach_networks(m):
    """The source host may let go of the VM's networks."""
    host = m.source.xenapi.host.get_by_uuid(m.plan.source_host)
    try:
        m.source.xenapi.network.detach_for_vm(host, m.vm())
    except XenAPI.Failure as failure:
        log.warning("%s: network.detach_for_vm: %s", m.id, json.dumps(failure.details))
