# SPDX-License-Identifier: LGPL-2.1-only
"""Has the planned VMs moved: begins what the limits allow, looks what became of what runs, and
notes each step in the state file before the next one follows of it.

A migration that was begun is never begun again without a look whether it was: before each start
the ids of the VM's migrations are noted, so one that is not among them afterwards is that of the
start whose answer was lost. What could still slip through, a call that xapi carries out long after
whoever made it has died, the product itself holds up: of two migrations of a VM one has it
(storage_motion/migration/phases/claim.py)."""

import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Protocol

import XenAPI

from storage_motion.api.dead_worker import NOBODY, DeadWorkerWatch
from storage_motion.cli.evacuation import account as accounts, codes, order
from storage_motion.cli.evacuation.account import Account, Course
from storage_motion.cli.evacuation.asking import Asking, HostSilent, NoAnswer, Pool
from storage_motion.cli.evacuation.state import StateError, StateFile
from storage_motion.errors import MotionError, WorkerDied

POLL = 1.0  # seconds between two looks at what runs
SETTLE = 10.0  # seconds for which a start whose answer was lost is looked for
OUTAGE = 900.0  # seconds for which a pool that does not answer is waited for
QUEUE_PATIENCE = 4 * 3600.0  # seconds for which one waits for others' migrations to end
RETRY_FIRST, RETRY_MOST = 10.0, 300.0  # seconds before the second try, and before any other
QUEUE_FIRST, QUEUE_MOST = 10.0, 60.0
HELD = 10.0  # seconds for which a VM is not begun whose host does not tell of its migrations
RUNNING, SUCCEEDED = "running", "succeeded"  # a migration's states


class PoolAway(MotionError):
    """[why, seconds]: the pool has not answered for so long. What runs goes on; the same command
    goes on, too."""

    code = "SXM_POOL_AWAY"


class Clock(NamedTuple):
    """`now()`: seconds since the epoch."""

    now: Callable[[], float] = time.time
    wait: Callable[[float], None] = time.sleep


class Observer(Protocol):
    """Who is told."""

    def event(self, event: Dict[str, Any], account: Account) -> None:
        """An event that has been noted."""

    def look(self, account: Account, statuses: Mapping[str, Dict[str, Any]]) -> None:
        """How far those that run are: {VM: the plugin's last status}."""

    def say(self, text: str) -> None:
        """Something that is no event."""


class Evacuation:
    """One evacuation, by its state file. `account`: where it stands."""

    def __init__(
        self,
        pool: Pool,
        file: StateFile,
        limits: order.Limits,
        retries: int,
        observer: Observer,
        secrets: Optional[Mapping[str, str]] = None,
        clock: Optional[Clock] = None,
    ) -> None:
        """`retries`: how often a migration that failed is tried again. `secrets`: arguments of
        `migrate` that are not written down. Raises StateError."""
        self._asking = Asking(pool)
        self._file = file
        self._limits = limits
        self._retries = retries
        self._observer = observer
        self._secrets = dict(secrets or {})
        self._clock = clock or Clock()
        self._statuses: Dict[str, Dict[str, Any]] = {}
        self._watches: Dict[str, DeadWorkerWatch] = {}
        self._lost: Dict[str, float] = {}  # {VM: when its start was found to have no answer}
        self._silent: Dict[str, float] = {}  # {VM, "" for all: since when there is no word of it}
        self._held: Dict[str, float] = {}  # {VM: until when it is not begun}
        try:
            self.account = accounts.of(file.events)
        except (KeyError, TypeError, ValueError) as error:
            why = "an event that this version does not know (%s): move the file away" % error
            raise StateError(file.path, why)

    def note(self, event: str, **fields: Any) -> None:
        """Write an event down, and tell of it. Raises StateError."""
        self._file.note(event=event, at=self._clock.now(), **fields)
        noted = self._file.events[-1]
        accounts.apply(self.account, noted)
        self._observer.event(noted, self.account)

    def go(self) -> Account:
        """Until all VMs have moved, or will not. Raises PoolAway, StateError; whatever else ends
        it, as Ctrl-C does, leaves a state file with which another one goes on."""
        while not self.account.over:
            try:
                self._round()
                self._silent.pop("", None)
            except NoAnswer as error:
                self._endure("", ", ".join(error.details))
            self._observer.look(self.account, self._statuses)
            if not self.account.over:
                self._clock.wait(POLL)
        if not self.account.finished:
            self.note(accounts.FINISHED)
        return self.account

    def _round(self) -> None:
        for course in self.account.of(accounts.RUNNING):
            self._of_one(course, self._follow)
        for course in self.account.of(accounts.STARTING):
            self._of_one(course, self._look_for)
        while True:
            now = self._clock.now()
            found = order.next_of(
                [
                    one
                    for one in self.account.of(accounts.WAITING)
                    if max(one.not_before, self._held.get(one.planned.vm, 0.0)) <= now
                ],
                [one.planned for one in self.account.busy],
                self._limits,
                lambda one: one.planned,
            )
            if found is None:
                return
            self._of_one(found, self._start)
            self._observer.look(self.account, self._statuses)

    def _of_one(self, course: Course, step: Callable[[Course], None]) -> None:
        """A step of one VM, which a host that does not tell holds up, and no other one."""
        vm = course.planned.vm
        try:
            step(course)
            self._silent.pop(vm, None)
        except HostSilent as silent:
            self._held[vm] = self._clock.now() + HELD
            if self._endure(vm, " ".join(silent.details), raising=False):
                self._statuses.pop(vm, None)
                unknown = course.lost or course.state != accounts.WAITING
                self.note(accounts.FAILED, vm=vm, error=silent.failure(), unknown=unknown)

    # -- beginning one

    def _start(self, course: Course) -> None:
        vm, known = course.planned.vm, [one["migration"] for one in self._migrations(course)]
        if course.lost:
            # That start may have come through since: what it has begun is not among those either.
            known = course.known
            if self._attach(course):
                return
        self.note(accounts.START, vm=vm, known=known)
        try:
            migration = self._asking.migrate(
                dict(course.planned.arguments, **self._secrets, wait="false")
            )
        except XenAPI.Failure as failure:
            self._refused(course, [str(detail) for detail in failure.details])
            return
        self.note(accounts.STARTED, vm=vm, migration=migration)

    def _look_for(self, course: Course) -> None:
        """A start of which no answer has come: by this process, or by one that has died."""
        vm = course.planned.vm
        if self._attach(course):
            self._lost.pop(vm, None)
        elif self._clock.now() - self._lost.setdefault(vm, self._clock.now()) >= SETTLE:
            del self._lost[vm]
            self.note(accounts.NOT_STARTED, vm=vm)

    def _attach(self, course: Course, known_too: bool = False) -> bool:
        """Go on with a migration of the VM that does what is planned, if there is one. `known_too`:
        also with one that was there before, if it runs or has succeeded."""
        found = sorted(self._migrations(course), key=lambda one: one["state"] != RUNNING)
        for one in found:
            if one["migration"] in course.known and not (
                known_too and one["state"] in (RUNNING, SUCCEEDED)
            ):
                continue
            if self._is_ours(course, one["migration"]):
                self.note(accounts.STARTED, vm=course.planned.vm, migration=one["migration"])
                return True
        return False

    def _migrations(self, course: Course) -> List[Dict[str, Any]]:
        """Those of the VM that the pool knows, the newest first. Raises NoAnswer, HostSilent."""
        return self._asking.migrations(course.planned)

    def _is_ours(self, course: Course, migration: str) -> bool:
        """Whether it takes the very disks to where they shall go."""
        try:
            status = self._asking.status(migration)
        except XenAPI.Failure as failure:
            raise HostSilent(*failure.details)
        goes = {disk["vdi"]: disk["destination_sr"] for disk in status["disks"]}
        return all(
            goes.get(disk.vdi) == disk.destination_sr for disk in course.planned.disks
        ) and not status.get("copy")

    def _refused(self, course: Course, error: List[str]) -> None:
        vm = course.planned.vm
        moving, there = codes.says_moving(error), codes.says_there(error)
        if self._attach(course, known_too=moving or there):
            return
        if there:
            self.note(accounts.SKIPPED, vm=vm, error=error)
            return
        others = len(self.account.busy) > 1  # besides this one
        if moving or (codes.says_no_room(error) and others):
            self._queue(course, error, {})
        else:
            self._judge(course, error, {})

    # -- following one

    def _follow(self, course: Course) -> None:
        vm, migration = course.planned.vm, course.migration
        try:
            status = self._asking.status(migration)
        except XenAPI.Failure as failure:
            raise HostSilent(*failure.details)
        self._statuses[vm] = status
        if status["state"] == RUNNING:
            self._watch(course, status)
            return
        self._statuses.pop(vm, None)
        self._watches.pop(migration, None)
        figures: Dict[str, Any] = {
            "migration": migration,
            "bytes": status["bytes_moved"],
            "seconds": round(max(0.0, status["updated"] - status["started"]), 1),
            "left": status["left"],
        }
        error = list(status["error"] or [])
        if status["state"] == SUCCEEDED or status.get("committed"):
            self.note(accounts.MOVED, vm=vm, error=error, **figures)
        elif codes.says_moving(error):  # two starts of it have met, and the other one has the VM
            if not self._attach(course, known_too=True):
                self._queue(course, error, figures)
        else:
            self._judge(course, error, figures)

    def _watch(self, course: Course, status: Dict[str, Any]) -> None:
        watch = self._watches.setdefault(course.migration, DeadWorkerWatch())
        try:
            watch.look(status["alive"], course.migration, str(status["doing"]))
        except WorkerDied as died:
            if NOBODY in died.details:
                self._statuses.pop(course.planned.vm, None)
                self.note(
                    accounts.FAILED,
                    vm=course.planned.vm,
                    error=died.failure(),
                    unknown=bool(status.get("committed")),
                )

    def _judge(self, course: Course, error: List[str], figures: Dict[str, Any]) -> None:
        """Of one that has failed, or was refused: again, later, or not. `figures`: of the event."""
        verdict = codes.of(error).again
        if verdict == codes.QUEUE:
            self._queue(course, error, figures)
        elif verdict == codes.RETRY and course.tries < self._retries:
            wait = min(RETRY_MOST, RETRY_FIRST * 2**course.tries)
            self.note(accounts.AGAIN, vm=course.planned.vm, error=error, wait=wait, **figures)
        else:
            self.note(accounts.FAILED, vm=course.planned.vm, error=error, **figures)

    def _queue(self, course: Course, error: List[str], figures: Dict[str, Any]) -> None:
        vm, waited = course.planned.vm, 0.0
        if course.queued_since:
            waited = self._clock.now() - course.queued_since
        if waited > QUEUE_PATIENCE:
            self.note(accounts.FAILED, vm=vm, error=error, **figures)
            return
        wait = min(QUEUE_MOST, max(QUEUE_FIRST, waited))  # twice as long each time
        self.note(accounts.QUEUED, vm=vm, error=error, wait=wait, **figures)

    def _endure(self, of: str, why: str, raising: bool = True) -> bool:
        """There is no word of a VM, or of all (""). Whether that has lasted too long; or raises
        PoolAway for that."""
        now = self._clock.now()
        if of not in self._silent:
            self._silent[of] = now
            name = self.account.courses[of].planned.name if of else "the pool"
            self._observer.say("no word of %s (%s); trying again" % (name, why))
        lasted = now - self._silent[of]
        if lasted <= OUTAGE:
            return False
        if raising:
            raise PoolAway(why, "%d" % lasted)
        return True
