"""Moving the VM, by the XenMotion that is there: xenopsd's, while the gates of its disks are led through the switch."""
import json
import logging
import time

import XenAPI

from storage_motion.control import (activation, adopt, again, bar, changes, claim, durable, gate, installed, pool_lock, receive, remains, remap,
                                    sync, taken, verdict, waiting, whereabouts)
from storage_motion.dom0.launch import Process
from storage_motion.errors import (Cancelled, GateOpen, JournalNotWritten, MirrorBroken, MotionError, MoveCutShort, MoveFailed, NotCleanedUp, TimedOut,
                                   Undecided, Unreachable, XenopsError)
from storage_motion.xapi import tasks, xenops
from storage_motion.xapi.records import UNKNOWN, Records
from storage_motion.xapi.session import NOT_XAPI, reason

BAR_INTERVAL = 1.0         # seconds: less than a guest needs to reboot
POLL = 0.03                # seconds: the guest is paused meanwhile
MOVE_TIMEOUT = 24 * 3600.0  # a big VM's memory over a slow link
SILENCE_TIMEOUT = 120.0    # of a xenopsd that is being restarted
COMPLETE_TIMEOUT = 60.0
STARTING = "starting"      # in the journal in place of xenopsd's task, while its name is not known yet

log = logging.getLogger("sxm")


def move(m):
    """Move the running VM. Raises Cancelled, MirrorBroken, MoveFailed..., and then it is still at the source; or Undecided."""
    gates = [_gate(m, disk, m.plan.live) for disk in m.plan.disks]
    here = xenops.Xenops.local(m.source, "sxm " + m.id)
    task, unwritten = _task(m, here)
    arrival = m.arrival
    driver = _Driver(m, here, task, gates)
    if unwritten:
        driver.stop(unwritten)
    driver.drive()
    if driver.error is None:
        m.note(downtime=driver.downtime)
        return
    if whereabouts.decide(m) == whereabouts.DESTINATION:
        log.warning("%s: xenopsd reports %s, but the VM is at the destination", m.id, driver.error)
        whereabouts.open_again(m)   # what a `finish` that died had begun, or an older database has brought back
        return
    if isinstance(driver.error, MoveFailed) and all(one.step == gate.ATTACHED for one in gates) and _has_ended(m, arrival):
        raise MoveCutShort(*driver.error.details)
    raise driver.error


def _has_ended(m, arrival):
    """Whether the destination's xapi has been restarted since `arrival`: it forgets its sessions then. Not, if that is not known."""
    try:
        return arrival is not None and not m.destination.xenapi.session.get_uuid(arrival["session_id"])
    except XenAPI.Failure as failure:
        return failure.details[0] in UNKNOWN


def _task(m, here):
    """(xenopsd's task that moves the VM, why it must not go on or None). Begun now, or by a worker that died, in which case it may
    be unknown by now."""
    known = m.entry.get("xenops_task")
    if known == STARTING:
        return next(iter(here.tasks_of_label()), STARTING), None
    if known:
        return known, None
    if m.arrival is None:
        remap.arrive_again(m)
    changes.require_none(m)
    installed.require_again(m)
    if not m.plan.cross_pool and not m.plan.same_host:
        verdict.ask_again(m)
        m.destination.xenapi.network.attach_for_vm(m.host(), m.vm())
    remains.end_earlier(m, here)
    remains.keep(m, here)
    pool_lock.put(m)
    _protect(m, lambda disk: bar.put(m, disk))
    maps = _maps(m)
    remap.arrive_again(m)   # with a session of now: a xapi that was restarted knows no other
    sync.await_answers(m)   # and a mirror that has ended by now lacks what the guest has written since
    m.note(xenops_task=STARTING)
    task = _ask(m, here, maps)
    try:
        m.note(xenops_task=task)
    except JournalNotWritten as error:
        return task, error  # the guest runs still, and would wait before its gates
    return task, None


def _ask(m, here, maps):
    """Have xenopsd move the VM: its task. Where the answer was lost with this host's xapi it is looked whether there is one; else it is asked again."""
    before = here.tasks_of_label()
    for left in reversed(range(again.TRIES)):
        try:
            return here.migrate(m.plan.vm, *maps, xenops_url=m.arrival["xenops"], compress=m.plan.compress,
                                verify_dest=_verify(m), same_host=m.plan.same_host)
        except Unreachable as error:
            log.warning("%s: whether xenopsd moves the VM is not known: %s", m.id, error)
            begun = [task for task in here.tasks_of_label() if task not in before]
            if begun:
                return begun[0]
            if not left:
                raise


def _protect(m, put_bar):
    """Have on disk what keeps the VM from being started on a stale disk, or forgotten, before it may leave. The guest runs on meanwhile."""
    def put():
        claim.put_back(m)
        waiting.at_once(put_bar, m.plan.disks)
        if m.plan.live and m.plan.cross_pool:
            remap.keep_live(m)
    durable.keep((m.source, m.destination), put, lambda: _unprotected(m), "what protects VM %s" % m.plan.vm)


def _unprotected(m):
    found = ["the bar of %s" % disk.key for disk in m.plan.disks if not bar.is_put(m, disk)]
    for disk in m.plan.disks:
        vdi = whereabouts.vdi_there(m, disk)
        if not vdi or not gate.is_shut(m.destination.xenapi.VDI.get_sm_config(vdi)):
            found.append("the gate of %s" % m.disk(disk.key)["destination_vdi"])
    return found + (remap.lacking(m) if m.plan.live and m.plan.cross_pool else [])


def hand_over(m):
    """Open the gates of a halted VM's disks, each after its source is sealed."""
    changes.require_none(m)
    installed.require_again(m)
    pool_lock.put(m)
    _protect(m, lambda disk: waiting.until(lambda: bar.put_again(m, disk), bar.COALESCE_TIMEOUT, "SM relinks VDI %s" % disk.key))
    for disk in m.plan.disks:
        one = _gate(m, disk, False)
        waiting.until(one.advance, gate.SETTLE_TIMEOUT, "hand-over of %s" % disk.key)


def shut_gates(m):
    """Undo of both: shut the destination's gates again, then unseal the source. Raises Undecided unless it is sure where
    the VM is."""
    if not m.plan.live:
        whereabouts.stop_finishing(m)
    elif whereabouts.decide(m) == whereabouts.DESTINATION:
        raise Undecided("the VM is at the destination, and was to be taken back")
    begun = [disk for disk in m.plan.disks if whereabouts.begun_to_open(m, disk) and whereabouts.vdi_there(m, disk)]
    if begun:
        durable.keep((m.destination,), lambda: _shut(m, begun), lambda: _not_shut(m, begun), "the gates of VM %s" % m.plan.vm)
    for disk in m.plan.disks:
        if m.disk(disk.key).get("gate", gate.ATTACHED) in (gate.SEALING, gate.SEALED, gate.OPENING, gate.OPEN):
            gate.unseal(m.source, m.source_vdi(disk), _seal(m))
        # Also of one that was detached only: who tries again has to see anew that its mirror ended cleanly.
        m.note(disk.key, gate=gate.ATTACHED)
    if m.plan.live:
        remains.come_back(m)
        # Noted before the bar is lifted: who takes it up again must not lead the gates of disks that anybody may have used since.
        m.note(xenops_task=None)
    for disk in m.plan.disks:
        bar.lift(m, disk)
    pool_lock.lift(m)
    for disk in m.plan.disks if m.plan.live else ():    # last, since SM may refuse: no bar is to stay for that
        activation.let_go_dead(m.source, disk.key, m.plan.vm)
    if m.plan.live:
        remains.end_arrival(m)


def _shut(m, disks):
    for disk in disks:
        vdi = whereabouts.vdi_there(m, disk)
        if vdi:
            try:
                gate.shut(m.destination, vdi, m.disk(disk.key)["destination_vdi"])
            except GateOpen as error:
                raise Undecided(str(error))
            m.note(disk.key, opened=True)


def _not_shut(m, disks):
    there = {disk.key: whereabouts.vdi_there(m, disk) for disk in disks}
    return ["the gate of %s" % key for key, vdi in there.items() if vdi and not gate.is_shut(m.destination.xenapi.VDI.get_sm_config(vdi))]


def seal_again(m):
    """Put back what keeps the source's disks from being activated, as far as the journal says that it was there. SM clears seals
    when an SR's master plugs it; the bar outlives that, but for a coalesce."""
    for disk in m.plan.disks:
        step = m.disk(disk.key).get("gate", gate.ATTACHED)
        if m.entry.get("xenops_task") or step != gate.ATTACHED:
            bar.put_again(m, disk)
        if step in (gate.SEALED, gate.OPENING, gate.OPEN):
            gate.put(m.source.xenapi.VDI, m.source_vdi(disk), gate.PAUSED, _seal(m))


def complete(m):
    """Have the destination's xapi take the VM as its own: running, or halted if it has ended since, or never began to run."""
    taken.keep(m, lambda: _take(m))
    _leave(m)
    if m.plan.cross_pool:
        remains.note_halted(m)
    if not m.plan.same_host:
        _detach_networks(m)
    if m.arrival:
        remap.depart(m.destination, m.arrival)
        m.arrival = None
    for disk in m.plan.disks:
        m.note(disk.key, state="moved")


def _take(m):
    seen = waiting.until(lambda: _settled(m), COMPLETE_TIMEOUT, "VM %s to run at the destination, or to have ended" % m.plan.vm)
    remap.bring_again(m)
    receive.give(m)             # before xapi looks at the VM, and at what may be done with its VBDs
    if seen.live:
        _take_running(m)
    else:
        _end_there(m)
        if not m.plan.cross_pool:
            _leave(m)
            remains.note_halted(m)
            adopt.adopt(m)
    m.note(arrived_halted=not seen.live)


def _leave(m):
    """What the source still has of the VM, but for its records."""
    if not m.plan.same_host:
        for disk in m.plan.disks:
            # A xenopsd that was killed may take a disk for active, and deactivates it once more: the bar lets it, and nobody in.
            vdi = Records(m.source).ref("VDI", disk.key)
            if vdi:  # else it has been cleaned up already, and this is a recovery
                gate.unseal(m.source, vdi, _seal(m))
    remains.leave(m)


def _settled(m):
    whereabouts.open_again(m)
    seen = whereabouts.settle(m)
    return seen if seen.live or seen.ended else None


def _take_running(m):
    """Raises NotCleanedUp where xapi does not take the VM that runs there.

    It waits in the call until it has heard of xenopsd what was told so far: for ever, if it was killed while the VM arrived, and failed
    at its start to end the copy under the temporary id, which had just become the VM (facts: xapi_xenops.ml, on_xapi_restart)."""
    vm, api = remap.destination_vm(m), m.destination.xenapi

    def arrived():
        return (api.VM.get_resident_on(vm) == m.host()
                and api.VM.get_power_state(vm) in whereabouts.LIVE
                and (m.plan.cross_pool or all(_has_its_disk(m, disk) for disk in m.plan.disks)))
    try:
        tasks.run(m.destination, lambda: api.Async.VM.pool_migrate_complete(vm, m.host()), COMPLETE_TIMEOUT)
        waiting.until(arrived, COMPLETE_TIMEOUT, "VM %s in the records of its pool" % m.plan.vm)
    except TimedOut:
        raise NotCleanedUp("VM %s runs at the destination, and the xapi of host %s there takes no notice of it within %g s; restart the toolstack "
                           "of that host, then recover" % (m.plan.vm, m.plan.destination_host_name, COMPLETE_TIMEOUT))


def _end_there(m):
    """What the destination still has of a VM that has ended there."""
    log.warning("%s: VM %s does not run at the destination: it is halted there", m.id, m.plan.vm)
    whereabouts.xenopsd_there(m).end(m.plan.vm)
    if m.plan.cross_pool:
        vm = remap.destination_vm(m)
        if m.destination.xenapi.VM.get_power_state(vm) != "Halted":
            m.destination.xenapi.VM.power_state_reset(vm)


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
        self._unwritten = None
        self._away = False       # a xapi was, and may have forgotten what it had not written to disk

    def drive(self):
        """Returns when the task has ended, or nobody can tell any more."""
        end = time.monotonic() + MOVE_TIMEOUT
        heard, asked = time.monotonic(), self.here.at_once     # the gates are led on meanwhile
        while True:
            try:
                state, argument = asked.task(self.task)
                heard = time.monotonic()
            except Unreachable as error:
                if time.monotonic() - heard > SILENCE_TIMEOUT:
                    self.error = self.error or error
                    return
                state, argument, self._away = xenops.PENDING, None, True
            except XenopsError as error:
                self.error = self.error or error
                return
            if state == xenops.COMPLETED:
                self._completed()
                return
            if state == xenops.FAILED:
                self._forget()
                self.error = self.error or self._unwritten or MoveFailed(self.m.plan.vm, *argument)
                return
            if time.monotonic() > end:
                self.stop(TimedOut("VM.migrate", "%g" % MOVE_TIMEOUT))
            self._lead()
            time.sleep(POLL)

    def _lead(self):
        """One look at every gate, and at whether somebody wants to stop."""
        if self.error is not None:
            return
        begun = any(one.step != gate.ATTACHED for one in self.gates)
        if self.m.cancel_asked() and not begun:
            self.stop(Cancelled(self.m.id))
            return
        try:
            if not begun and self.m.guest_closes():
                self._give_way()
                return
            self._put_back()
            self._advance()
            self._unwritten = None
            if self._detached_at is None:
                self._hold_bars()
                self.m.pulse(cancellable=False)
            self._hold_open()
        except JournalNotWritten as error:
            # Nothing goes on that could not be noted. The guest is suspended, so there may be room again for as long as SM at the
            # destination waits for the gates; then xenopsd's task fails.
            if self._unwritten is None:
                log.error("%s: the gates stay as they are: %s", self.m.id, error)
            self._unwritten = error
        except (MotionError, XenAPI.Failure) as error:
            self.stop(error)
        except (OSError,) + NOT_XAPI as error:
            # A xapi that is away for longer than its session waits, which has told the log: a gate can be led on later. SM at the
            # destination waits 120 s for it, and then xenopsd's task fails.
            self._away = True
            log.debug("%s: xapi does not answer: %s", self.m.id, reason(error))

    def _give_way(self):
        """The guest closes its disks, and xenopsd begins to move it only when it has opened them again: a reboot must not wait at the bars
        for a move that waits for it. The movers go first: no gate is opened without them, whatever is killed now."""
        for disk in self.m.plan.disks:
            self.m.mover(disk.key).end(Process.from_json(self.m.disk(disk.key).get("mover")), "abort")
        for disk in self.m.plan.disks:
            bar.lift(self.m, disk)
        self.stop(MirrorBroken(self.m.plan.disks[0].key, "the guest closes the disk (%s)" % self.m.guest_closes()))

    def _put_back(self):
        """What keeps the VM from being started elsewhere, once a xapi that was away is back."""
        if self._away:
            claim.put_back(self.m)
            seal_again(self.m)
            self._away = False

    def _hold_open(self):
        """An older database has shut a gate that is open: the VM waits for it."""
        if all(one.step == gate.OPEN for one in self.gates) and time.monotonic() - self._held > BAR_INTERVAL:
            self._held = time.monotonic()
            whereabouts.open_again(self.m)

    def _hold_bars(self):
        """A guest cannot reboot within so short a time, so what happens between two looks is seen by the second one's proof.

        And a journal that could not follow the gates is found out while the guest still runs."""
        if time.monotonic() - self._held > BAR_INTERVAL:
            self._held = time.monotonic()
            for disk in self.m.plan.disks:
                bar.hold(self.m, disk)
            try:
                self.m.note()
            except JournalNotWritten as error:
                self.stop(error)

    def _advance(self):
        """Lead every gate on. Whether all are open."""
        opened = [one.advance() for one in self.gates]
        if self._detached_at is None and any(one.step != gate.ATTACHED for one in self.gates):
            self._detached_at = time.monotonic()
        return all(opened)

    def stop(self, error):
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
        self._forget()

    def _forget(self):
        """Have xenopsd forget the task, so that it is not taken for that of another try."""
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


def _has_its_disk(m, disk):
    vbd = m.destination.xenapi.VBD.get_by_uuid(disk.vbd)
    return m.destination.xenapi.VBD.get_VDI(vbd) == m.destination_vdi(disk)


def _detach_networks(m):
    """The source host may let go of the VM's networks."""
    host = m.source.xenapi.host.get_by_uuid(m.plan.source_host)
    try:
        m.source.xenapi.network.detach_for_vm(host, m.vm())
    except XenAPI.Failure as failure:
        log.warning("%s: network.detach_for_vm: %s", m.id, json.dumps(failure.details))
