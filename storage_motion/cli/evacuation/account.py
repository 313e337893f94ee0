# SPDX-License-Identifier: LGPL-2.1-only
"""Where an evacuation stands, which is what its events make of it, one after the other: nothing is
known of it that the state file does not tell."""

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List

from storage_motion.cli.evacuation.parts import Left, Planned
from storage_motion.cli.evacuation.state import BEGUN

WAITING, STARTING, RUNNING = "waiting", "starting", "running"
MOVED, FAILED, SKIPPED = "moved", "failed", "skipped"
OVER = (MOVED, FAILED, SKIPPED)

# The events' names. AGAIN: it has failed, and is tried again; QUEUED: it was refused, and waits.
ASKED, PLANNED, LEFT, FINISHED = "asked", "planned", "left", "finished"
START, STARTED, NOT_STARTED, AGAIN, QUEUED = "starting", "started", "not-started", "again", "queued"


@dataclass
class Course:
    """A VM on its way. Times in seconds since the epoch, `seconds` and `moved` (bytes) of its
    migrations so far, and `migrations`, their ids; `left`: what one of them has left behind.
    `known`: ids of the VM's migrations before the start that is under way, or that is `lost`: no
    migration of it was found, and may yet appear. `unknown`: where the VM and its data are is not
    known."""

    planned: Planned
    state: str = WAITING
    known: List[str] = field(default_factory=list)
    migration: str = ""
    migrations: List[str] = field(default_factory=list)
    lost: bool = False
    unknown: bool = False
    tries: int = 0
    not_before: float = 0.0
    queued_since: float = 0.0
    error: List[str] = field(default_factory=list)
    left: List[str] = field(default_factory=list)
    moved: int = 0
    seconds: float = 0.0


@dataclass
class Account:
    """All of it. `began`: when it was asked for, `latest`: the last event, in seconds since the
    epoch."""

    request: Dict[str, Any] = field(default_factory=dict)
    courses: Dict[str, Course] = field(default_factory=dict)
    left: List[Left] = field(default_factory=list)
    begun: bool = False
    finished: bool = False
    began: float = 0.0
    latest: float = 0.0

    def of(self, *states: str) -> List[Course]:
        """Those in one of these states, in the order in which they are planned."""
        return [course for course in self.courses.values() if course.state in states]

    @property
    def busy(self) -> List[Course]:
        """Those of which a migration runs, or may run."""
        return self.of(STARTING, RUNNING)

    @property
    def over(self) -> bool:
        """Whether nothing is to be waited for any more."""
        return not self.of(WAITING, STARTING, RUNNING)


def of(events: Iterable[Dict[str, Any]]) -> Account:
    """Where the evacuation of these events stands. Raises KeyError, TypeError for others."""
    account = Account()
    for event in events:
        apply(account, event)
    return account


def apply(account: Account, event: Dict[str, Any]) -> None:
    """Take one more event in."""
    account.latest = float(event["at"])
    _EVENTS[event["event"]](account, event)


def _asked(account: Account, event: Dict[str, Any]) -> None:
    account.request, account.began = event["request"], float(event["at"])


def _planned(account: Account, event: Dict[str, Any]) -> None:
    planned = Planned.from_json(event["planned"])
    account.courses[planned.vm] = Course(planned)


def _left(account: Account, event: Dict[str, Any]) -> None:
    account.left.append(Left(**event["left"]))


def _begun(account: Account, _: Dict[str, Any]) -> None:
    account.begun = True


def _finished(account: Account, _: Dict[str, Any]) -> None:
    account.finished = True


def _starting(account: Account, event: Dict[str, Any]) -> None:
    course = account.courses[event["vm"]]
    course.state, course.known, course.migration = STARTING, list(event["known"]), ""


def _started(account: Account, event: Dict[str, Any]) -> None:
    course = account.courses[event["vm"]]
    course.state, course.migration, course.queued_since = RUNNING, event["migration"], 0.0
    course.lost = False
    if course.migration not in course.migrations:
        course.migrations.append(course.migration)


def _not_started(account: Account, event: Dict[str, Any]) -> None:
    course = account.courses[event["vm"]]
    course.state, course.lost = WAITING, True


def _queued(account: Account, event: Dict[str, Any]) -> None:
    course = account.courses[event["vm"]]
    course.state, course.error = WAITING, list(event["error"])
    course.not_before = float(event["at"]) + float(event["wait"])
    course.queued_since = course.queued_since or float(event["at"])
    _count(course, event)


def _again(account: Account, event: Dict[str, Any]) -> None:
    course = account.courses[event["vm"]]
    course.tries += 1
    course.state, course.error = WAITING, list(event["error"])
    course.not_before = float(event["at"]) + float(event["wait"])
    _count(course, event)


def _ended(account: Account, event: Dict[str, Any]) -> None:
    course = account.courses[event["vm"]]
    course.state, course.error = event["event"], list(event["error"])
    course.unknown = bool(event.get("unknown"))
    _count(course, event)


def _count(course: Course, event: Dict[str, Any]) -> None:
    course.moved += int(event.get("bytes", 0))
    course.seconds += float(event.get("seconds", 0))
    course.left += [one for one in event.get("left", ()) if one not in course.left]


_EVENTS: Dict[str, Callable[[Account, Dict[str, Any]], None]] = {
    ASKED: _asked,
    PLANNED: _planned,
    LEFT: _left,
    BEGUN: _begun,
    FINISHED: _finished,
    START: _starting,
    STARTED: _started,
    NOT_STARTED: _not_started,
    QUEUED: _queued,
    AGAIN: _again,
    MOVED: _ended,
    FAILED: _ended,
    SKIPPED: _ended,
}
