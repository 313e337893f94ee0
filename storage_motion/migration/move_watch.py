# SPDX-License-Identifier: LGPL-2.1-only
"""Leading the gates of a VM's disks through the switch, while xenopsd moves it: the task of xenopsd
is watched until it has ended."""

import logging
import threading
import time
from typing import TYPE_CHECKING, Dict, Optional, Sequence

import XenAPI

from storage_motion import waiting
from storage_motion.dom0.launch import Process
from storage_motion.errors import (
    Cancelled,
    JournalNotWritten,
    MirrorBroken,
    MotionError,
    MoveFailed,
    TimedOut,
    Unreachable,
    XenopsError,
)
from storage_motion.journal import steps
from storage_motion.migration.phases import claim, shut_gates
from storage_motion.switch import disk_switch, gate, source_lock, whereabouts
from storage_motion.xapi import xenops
from storage_motion.xapi.session import NOT_XAPI, reason

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

HOLD_INTERVAL = 1.0  # seconds: less than a guest needs to reboot
POLL = 0.03  # seconds
QUICK = 0.005  # seconds, while gates are led on: the guest is suspended
# seconds between two looks at xenopsd's task meanwhile: it waits for the gates
TASK_POLL = 0.1
LIVELY = 2.0  # seconds without a step after which it is not looked so often any more
MOVE_TIMEOUT = 24 * 3600.0  # a big VM's memory over a slow link
SILENCE_TIMEOUT = 120.0  # of a xenopsd that is being restarted

log = logging.getLogger("sxm")


class MoveWatch:
    """Watches xenopsd's task and leads the gates until it has ended. `error`: None if the VM has
    moved."""

    def __init__(
        self,
        m: "Migration",
        here: xenops.Xenops,
        task: str,
        switches: Sequence[disk_switch.DiskSwitch],
    ) -> None:
        self.m = m
        self.here = here
        self.task = task
        self.switches = switches
        self.error: Optional[Exception] = None
        self.downtime: Optional[float] = None
        self._detached_at: Optional[float] = None
        self._held = time.monotonic()
        self._stepped = -LIVELY  # when a disk last reached a step
        self._cancelled = False
        self._ended = False
        self._unwritten: Optional[JournalNotWritten] = None
        self._news = threading.Event()  # a mirror is over
        self._away = False  # a xapi was, and may have forgotten what it had not written to disk

    def drive(self) -> None:
        """Returns when the task has ended, or nobody can tell any more."""
        try:
            self._drive()
        finally:
            self._ended = True

    def _drive(self) -> None:
        for one in self.switches:
            if one.step == steps.ATTACHED and one.mirrored:
                threading.Thread(
                    target=self._await_end, args=(one,), name="await end", daemon=True
                ).start()
        end = time.monotonic() + MOVE_TIMEOUT
        heard, asked = time.monotonic(), self.here.at_once  # the gates are led on meanwhile
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
            self._look_on(TASK_POLL if self._leads() else POLL)

    def _await_end(self, one: disk_switch.DiskSwitch) -> None:
        """Tell the watch at once when the mirror of a disk is over. A mover that does not answer is
        found by the watch itself."""
        try:
            while not self._ended and not one.await_end():
                pass
        except MotionError as error:
            log.debug("%s: %s", self.m.id, error)
        self._news.set()

    def _look_on(self, seconds: float) -> None:
        """Look at the gates for so long: once, and again and again while they can be led on."""
        end = time.monotonic() + seconds
        while True:
            self._look()
            left = end - time.monotonic()
            if left <= 0:
                return
            if time.monotonic() - self._stepped < LIVELY and self._leads():
                time.sleep(min(left, QUICK))
            else:
                self._news.wait(left)
                self._news.clear()

    def _leads(self) -> bool:
        """Whether a gate is on its way."""
        return any(one.step not in (steps.ATTACHED, steps.OPEN) for one in self.switches)

    def _look(self) -> None:
        """One look at every gate, and at whether somebody wants to stop."""
        if self.error is not None:
            return
        begun = any(one.step != steps.ATTACHED for one in self.switches)
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
                self._hold_locks()
                self.m.pulse(cancellable=False)
            self._hold_open()
        except JournalNotWritten as error:
            # Nothing goes on that could not be noted. The guest is suspended, so there may be room
            # again for as long as SM at the destination waits for the gates; then xenopsd's task
            # fails.
            self._not_noted(error)
        except (MotionError, XenAPI.Failure) as error:
            self.stop(error)
        except (OSError,) + NOT_XAPI as error:
            # A xapi that is away for longer than its session waits, which has told the log: a gate
            # can be led on later. SM at the destination waits 120 s for it, and then xenopsd's task
            # fails.
            self._away = True
            log.debug("%s: xapi does not answer: %s", self.m.id, reason(error))

    def _give_way(self) -> None:
        """The guest closes its disks, and xenopsd begins to move it only when it has opened them
        again: a reboot must not wait at the source's locks for a move that waits for it. The movers
        go first: no gate is opened without them, whatever is killed now."""
        why = "the guest closes the disk (%s)" % self.m.guest_closes()
        for disk in self.m.plan.disks:
            process = Process.from_json(self.m.disk(disk.key).get("mover"))
            self.m.mover(disk.key).end(process, "abort", why=why)
        for disk in self.m.plan.disks:
            source_lock.lift(self.m, disk)
        self.stop(MirrorBroken(self.m.plan.disks[0].key, why))

    def _put_back(self) -> None:
        """What keeps the VM from being started elsewhere, once a xapi that was away is back."""
        if self._away:
            claim.put_back(self.m)
            shut_gates.lock_again(self.m)
            self._away = False

    def _hold_open(self) -> None:
        """An older database has shut a gate that is open: the VM waits for it."""
        if (
            all(one.step == steps.OPEN for one in self.switches)
            and time.monotonic() - self._held > HOLD_INTERVAL
        ):
            self._held = time.monotonic()
            whereabouts.open_again(self.m)

    def _hold_locks(self) -> None:
        """A guest cannot reboot within so short a time, so what happens between two looks is seen
        by the second one's proof.

        And a journal that could not follow the gates is found out while the guest still runs."""
        if time.monotonic() - self._held > HOLD_INTERVAL:
            self._held = time.monotonic()
            for disk in self.m.plan.disks:
                source_lock.hold(self.m, disk)
            try:
                self.m.note()
            except JournalNotWritten as error:
                self.stop(error)

    def _advance(self) -> bool:
        """Lead every gate on. Whether all are open."""
        opened = disk_switch.advance_all(self.switches, self._note)
        if self._detached_at is None and any(one.step != steps.ATTACHED for one in self.switches):
            self._detached_at = time.monotonic()
        return opened

    def _note(self, reached: Dict[str, str]) -> None:
        self.m.note_steps(reached)
        self._stepped = time.monotonic()
        if steps.OPEN in reached.values():
            self._held = self._stepped  # what is open just now needs no look: the guest waits

    def _not_noted(self, error: JournalNotWritten) -> None:
        if self._unwritten is None:
            log.error("%s: the gates stay as they are: %s", self.m.id, error)
        self._unwritten = error

    def stop(self, error: Exception) -> None:
        """Have xenopsd give up; the gates that are shut stay shut. `error`: why."""
        log.warning("%s: stopping the move: %s", self.m.id, error)
        self.error = self.error or error
        if not self._cancelled:
            self._cancelled = True
            try:
                self.here.cancel(self.task)
            except MotionError as refused:
                log.warning("%s: xenopsd does not cancel: %s", self.m.id, refused)

    def _completed(self) -> None:
        if self._detached_at is not None:
            self.downtime = round(time.monotonic() - self._detached_at, 3)
        try:
            # A gate is open a moment before we are told so. If one was not, `whereabouts` has to
            # find out.
            waiting.until(self._all_open, gate.SETTLE_TIMEOUT, "gates of %s" % self.m.plan.vm)
            # if something wanted to stop the move, that was too late: the disks are whole
            self.error = None
        except TimedOut as error:
            self.error = self.error or self._unwritten or error
        except (MotionError, XenAPI.Failure) as error:
            self.error = self.error or error
        self._forget()

    def _all_open(self) -> bool:
        """As `_advance`. What cannot be noted now, or asked of a xapi, may be so in a moment, as in
        `_look`."""
        try:
            opened = self._advance()
        except JournalNotWritten as error:
            self._not_noted(error)
            return False
        except (OSError,) + NOT_XAPI as error:
            log.debug("%s: xapi does not answer: %s", self.m.id, reason(error))
            return False
        self._unwritten = None
        return opened

    def _forget(self) -> None:
        """Have xenopsd forget the task, so that it is not taken for that of another try."""
        try:
            self.here.destroy(self.task)
        except MotionError as error:
            log.warning("%s: the task of xenopsd stays: %s", self.m.id, error)
