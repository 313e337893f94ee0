# SPDX-License-Identifier: LGPL-2.1-only
"""An evacuation under way, for a person: a line for each event, and on a terminal a table of those
that run, below them."""

import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from storage_motion.cli import quantities
from storage_motion.cli.evacuation import account as accounts
from storage_motion.cli.evacuation.account import Account, Course
from storage_motion.cli.evacuation.parts import count, described
from storage_motion.cli.output import clean, duration, print_line, size

BAR, NAME = 10, 20  # characters
OLD = 10.0  # seconds over which a rate is taken


class Column(NamedTuple):
    """Of the table. `from_width`: the columns of a terminal that has room for it."""

    name: str
    from_width: int
    justify: JustifyMethod = "left"


NAMED, BARS, PERCENT = Column("name", 0), Column("bar", 60), Column("percent", 0, "right")
MOVED, RATE = Column("moved", 40, "right"), Column("rate", 50, "right")
DOING = Column("doing", 72)
COLUMNS = (NAMED, BARS, PERCENT, MOVED, RATE, DOING)


def _moved(event: Dict[str, Any], course: Course) -> str:
    return "moved %s: %s, %s sent in %s%s" % (
        course.planned.name,
        count(len(course.planned.disks), "disk"),
        size(event["bytes"]),
        duration(event["seconds"]),
        "; " + described(event["error"]) if event["error"] else "",
    )


# What is said of an event; those that are not here are told by the plan or the summary.
SAYS: Dict[str, Callable[[Dict[str, Any], Course], str]] = {
    accounts.STARTED: lambda event, course: (
        "begun %s: %s, %s, migration %s"
        % (
            course.planned.name,
            count(len(course.planned.disks), "disk"),
            size(course.planned.size),
            event["migration"],
        )
    ),
    accounts.NOT_STARTED: lambda event, course: (
        "%s has not been begun; it waits again" % course.planned.name
    ),
    accounts.QUEUED: lambda event, course: (
        "%s waits, and is asked for again in %d s: %s"
        % (course.planned.name, event["wait"], described(event["error"]))
    ),
    accounts.AGAIN: lambda event, course: (
        "failed %s, and is tried again in %d s: %s%s"
        % (
            course.planned.name,
            event["wait"],
            described(event["error"]),
            "".join("; left: %s" % one for one in event.get("left", ())),
        )
    ),
    accounts.MOVED: _moved,
    accounts.FAILED: lambda event, course: (
        "failed %s: %s" % (course.planned.name, described(event["error"]))
    ),
    accounts.SKIPPED: lambda event, course: (
        "not moved %s: %s" % (course.planned.name, described(event["error"]))
    ),
}


def counts(account: Account) -> str:
    """How far all of it is, in one line."""
    return "%d of %s moved, %d failed, %d not moved, %d run, %d wait" % (
        len(account.of(accounts.MOVED)),
        count(len(account.courses), "VM"),
        len(account.of(accounts.FAILED)),
        len(account.of(accounts.SKIPPED)),
        len(account.busy),
        len(account.of(accounts.WAITING)),
    )


class Display:
    """An Observer. A context manager: the table is there as long as it lasts."""

    def __init__(self, console: Console, now: Callable[[], float] = time.time) -> None:
        self._console = console
        self._now = now
        self._live: Optional[Live] = None
        self._statuses: Mapping[str, Dict[str, Any]] = {}
        self._rates: Dict[str, List[Tuple[float, int]]] = {}

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def event(self, event: Dict[str, Any], account: Account) -> None:
        """A line of it, if there is something to say."""
        says = SAYS.get(event["event"])
        if says:
            text = says(event, account.courses[event["vm"]])
            over = event["event"] in accounts.OVER
            self.say(text + " (%s)" % counts(account) if over else text)
            self.look(account, self._statuses)

    def say(self, text: str) -> None:
        """A line, with the time of day."""
        at = time.strftime("%H:%M:%S", time.localtime(self._now()))
        print_line(self._console, "%s %s" % (at, text))

    def look(self, account: Account, statuses: Mapping[str, Dict[str, Any]]) -> None:
        """Draw the table anew."""
        self._statuses = statuses
        if self._live is not None:
            self._live.update(self.drawn(account, statuses))

    def drawn(self, account: Account, statuses: Mapping[str, Dict[str, Any]]) -> Group:
        """The table of those that run, and the line of counts."""
        width = self._console.width
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
        shown = [column for column in COLUMNS if width >= column.from_width]
        for column in shown:
            # what may be wrapped gives way first
            table.add_column(justify=column.justify, no_wrap=column != DOING)
        for course in account.busy:
            status = statuses.get(course.planned.vm)
            moved = status["bytes_moved"] if status else 0
            whole = status["bytes_to_move"] if status else course.planned.data
            name = Text(clean(course.planned.name))
            name.truncate(NAME, overflow="ellipsis")
            cells: Dict[Column, RenderableType] = {
                NAMED: name,
                BARS: ProgressBar(
                    total=whole or 1, completed=moved if whole else bool(status), width=BAR
                ),
                PERCENT: "%d%%" % (100 * moved // whole if whole else 100 * bool(status)),
                MOVED: quantities.part(moved, whole),
                RATE: self._rate(course.planned.vm, moved),
                DOING: Text(
                    clean(status["doing"] if status else "beginning"),
                    no_wrap=True,
                    overflow="ellipsis",
                ),
            }
            table.add_row(*[cells[column] for column in shown])
        return Group(table, Text(counts(account)))

    def _rate(self, vm: str, moved: int) -> str:
        """Bytes per second of the last seconds; "" while that is not known."""
        seen = self._rates.setdefault(vm, [])
        now = self._now()
        if seen and moved < seen[-1][1]:
            seen.clear()  # another try
        seen.append((now, moved))
        while len(seen) > 2 and now - seen[1][0] > OLD:
            seen.pop(0)
        passed = now - seen[0][0]
        return quantities.rate((moved - seen[0][1]) / passed) if passed >= 1 else ""
