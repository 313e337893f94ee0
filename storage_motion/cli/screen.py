# SPDX-License-Identifier: LGPL-2.1-only
"""Migrations on their way as a person wants to see them: a bar for each disk, drawn in place; on
anything but a terminal, lines."""

import textwrap
import time
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from storage_motion.cli import quantities
from storage_motion.cli.output import clean
from storage_motion.cli.watched import Disk, Watched

LINE_EVERY = 25
"""On anything but a terminal, a line for each of so many percent."""
NAME, BAR = (14, 40), (11, 30)
"""The least and the most columns of a disk's name, and of its bar."""
DOING = 16  # the least columns for what a migration is doing, beside its figures
NARROW_BAR = 4  # the least columns of a bar where there is little room
DETAILS = range(4)
"""How much is left out where the screen is low: nothing; disks of which nothing moves; all disks;
migrations that have ended."""
NOTICE = 3  # lines of what else is to be known
CUT = "…"
QUIET = ("waiting", "in-sync", "moved")


class Column(NamedTuple):
    """Of a disk's line, behind its name and bar."""

    heading: str
    width: int
    right: bool = True


PERCENT = Column("", 4)
COPIED = Column("copied", 14)  # as for "about 99.9 GiB"
SPEED = Column("speed", 11)
LEFT = Column("left", 6)
MIRROR = Column("mirror", 12, right=False)
MIRRORED = Column("mirrored", 24)


class Layout(NamedTuple):
    """Of a disk's line: the columns behind its name and bar, and the least width of that bar."""

    columns: Tuple[Column, ...]
    bar: int = BAR[0]

    @property
    def least(self) -> int:
        """The least width of a screen for it."""
        return 3 + NAME[0] + self.bar + sum(column.width + 1 for column in self.columns)


LAYOUTS = (
    Layout((PERCENT, COPIED, SPEED, LEFT, MIRROR, MIRRORED)),
    Layout((PERCENT, COPIED, SPEED, LEFT, MIRROR)),
    Layout((PERCENT, COPIED, SPEED, LEFT), NARROW_BAR),  # SPEED says that a mirror is broken
    Layout((PERCENT, SPEED, LEFT), NARROW_BAR),
    Layout((PERCENT,), NARROW_BAR),
)
"""The first that a screen has room for, else the last."""


class Screen:
    """Draws what was seen, again and again. A context manager."""

    def __init__(self, console: Optional[Console] = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(
            console=self._console, auto_refresh=False, vertical_overflow="crop", transient=False
        )
        self._told: Dict[Tuple[str, str], object] = {}

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def draw(self, migrations: Sequence[Watched], notice: str = "") -> None:
        """Show these, in this order. `notice`: what else is to be known just now."""
        if self._console.is_terminal:
            width, height = self._console.width, self._console.height - 1
            self._live.update(Group(*picture(migrations, notice, width, height)), refresh=True)
            return
        for one in migrations:
            self._tell(one)
        if notice and self._told.get(("", "")) != bool(notice):
            self._line(notice)
        self._told["", ""] = bool(notice)

    def _tell(self, one: Watched) -> None:
        if not one.status:
            return
        whole = (one.id, ""), _doing(one), "%s: %s" % (one.name, _doing(one))
        if one.status["state"] == "running":
            self._once(*whole)
        self._tell_disks(one)
        self._once(*whole)  # how it ended is the last word

    def _tell_disks(self, one: Watched) -> None:
        for disk in one.disks:
            fraction = disk.fraction
            percent = None if fraction is None else int(100 * fraction)
            step = (
                None if percent is None else percent // LINE_EVERY,
                disk.now["state"],
                disk.mirror,
                disk.copying and disk.copy.stalled is not None,
            )
            self._once((one.id, disk.now["vdi"]), step, "  %s: %s" % (_name(disk), _said(disk)))

    def _once(self, what: Tuple[str, str], step: object, line: str) -> None:
        if self._told.get(what) != step:
            self._told[what] = step
            self._line(line)

    def _line(self, text: str) -> None:
        self._console.print(Text(clean(text)), soft_wrap=True)


def picture(migrations: Sequence[Watched], notice: str, width: int, height: int) -> List[Text]:
    """The lines of a screen of that size, in columns and rows; more only where even the shortest
    are too many."""
    told = [Text(line, style="yellow") for line in _lines(notice, width)]
    for detail in DETAILS:
        lines = _heading(migrations, width, detail)
        for one in migrations:
            lines += _of_migration(one, width, detail)
        if len(lines) + len(told) <= height:
            return lines + told
    more = len(lines) - (height - len(told) - 1)
    rest = Text("  and %d more" % more, style="dim")
    return lines[: max(0, height - len(told) - 1)] + [rest] + told


def _heading(migrations: Sequence[Watched], width: int, detail: int) -> List[Text]:
    if detail > 1 or not any(one.running and one.disks for one in migrations):
        return []
    name, bar, columns = _layout(width)
    words = [_cell(column.heading, column) for column in columns]
    return [Text(_fit(" ".join(["  ", " " * (name + bar)] + words), width), style="dim")]


def _of_migration(one: Watched, width: int, detail: int) -> List[Text]:
    if detail > 2 and not one.running:
        return []
    lines = [_headline(one, width)]
    if not one.status or detail > 1 or not one.running:
        return lines
    shown = [d for d in one.disks if not (detail and d.now["state"] in QUIET)]
    left_out: Dict[str, int] = {}
    for disk in one.disks:
        if disk in shown:
            lines.append(_disk_line(disk, width))
        else:
            left_out[disk.now["state"]] = left_out.get(disk.now["state"], 0) + 1
    if left_out:
        counts = ", ".join("%d %s" % (count, state) for state, count in sorted(left_out.items()))
        lines.append(Text("  and of its disks %s" % counts, style="dim"))
    return lines


def _headline(one: Watched, width: int) -> Text:
    figures = next((told for told in _figures(one) if len(told) + DOING < width), "")
    room = width - len(figures) - 1
    doing = Text(_fit("%s: %s" % (clean(one.name), clean(_doing(one))), room))
    doing.stylize("bold", 0, len(clean(one.name)) + 1)
    if not one.running:
        doing.stylize("green" if one.status.get("state") == "succeeded" else "red")
    return doing + Text(" " + figures, style="bold") if figures else doing


def _figures(one: Watched) -> List[str]:
    """How much of all is there, and what is left: the longest text first."""
    if not (one.running and one.status):
        return []
    moved, whole = one.status["bytes_moved"], one.status["bytes_to_move"]
    percent = "%d%%" % (100 * moved // whole if whole else 100)
    left = one.all.left(whole) if one.all.stalled is None else None
    time_left = "  %s left" % quantities.seconds(left) if left else ""
    return ["%s  %s%s" % (percent, _part(moved, whole), time_left), percent + time_left, percent]


def _doing(one: Watched) -> str:
    status = one.status
    if one.error is not None:
        return str(one.error)
    if not status:
        return "not seen yet"
    if status["state"] != "running":
        pause = status.get("downtime")
        stood = "; " + quantities.pause(pause) if pause else ""
        why = ": %s" % " ".join(status["error"][:2]) if status.get("error") else ""
        return status["state"] + (why or stood)
    broken = status.get("broken")
    if broken:
        wait = max(0.0, broken.get("until", 0.0) - time.time())
        return "broken, %s in %s" % (broken.get("waiting", "waits"), quantities.seconds(wait))
    return str(status["doing"])


def _disk_line(disk: Disk, width: int) -> Text:
    name, bar, columns = _layout(width)
    line = Text("  " + _fit(_name(disk), name) + " ")
    filled = int(round((disk.fraction or 0.0) * bar))
    line.append("━" * filled, style="green" if filled == bar else "cyan")
    line.append("─" * (bar - filled), style="dim")
    style = {"broken": "red", "waiting": "dim"}.get(disk.now["state"], "")
    told = _cells(disk)
    cells = [_cell(told[column], column) for column in columns]
    line.append(" " + " ".join(cells), style=style)
    line.truncate(width)
    return line


def _layout(width: int) -> Tuple[int, int, Tuple[Column, ...]]:
    """(columns of the name, of the bar, the others)"""
    found = next((one for one in LAYOUTS if one.least <= width), LAYOUTS[-1])
    spare = max(0, width - found.least)
    # The bar becomes as long as it usually is before the name has more.
    bar = min(spare, BAR[0] - found.bar)
    more = (spare - bar) // 2
    name = min(NAME[1], NAME[0] + more)
    return name, min(BAR[1], found.bar + spare - (name - NAME[0])), found.columns


def _cells(disk: Disk) -> Dict[Column, str]:
    fraction = disk.fraction
    speed, left = _speed(disk)
    return {
        PERCENT: "" if fraction is None else "%d%%" % (100 * fraction),
        COPIED: _copied(disk),
        SPEED: speed,
        LEFT: left,
        MIRROR: _mirror(disk),
        MIRRORED: _mirrored(disk),
    }


def _copied(disk: Disk) -> str:
    whole = disk.now["to_copy"]
    if disk.now["estimated"]:
        return "~%s" % quantities.size(whole) if whole else ""
    return _part(whole if disk.fraction == 1.0 else disk.done, whole)


def _part(done: int, whole: int) -> str:
    return quantities.part(done, whole)


def _speed(disk: Disk) -> Tuple[str, str]:
    """(speed or state, time that is left)"""
    state = disk.now["state"]
    if not disk.copying:
        return (state.replace("-", " "), "")
    if disk.copy.stalled is not None:
        return ("stalled", quantities.seconds(disk.copy.stalled))
    rate = disk.copy.rate
    if rate is None:
        return ("begins", "")
    return (quantities.rate(rate), "" if disk.left is None else quantities.seconds(disk.left))


def _mirror(disk: Disk) -> str:
    """The state of the mirror, and how long it makes a write of the guest's wait."""
    if disk.mirror != "on":
        return disk.mirror
    return "on" if disk.latency is None else "on, %s" % quantities.latency(disk.latency)


def _mirrored(disk: Disk) -> str:
    if not disk.now["mirrored_bytes"]:
        return ""
    rate = disk.mirrored.rate
    return "%s%s" % (
        quantities.size(disk.now["mirrored_bytes"]),
        "" if rate is None else ", %s" % quantities.rate(rate),
    )


def _said(disk: Disk) -> str:
    cells = _cells(disk)
    percent, speed, left = cells[PERCENT], cells[SPEED], cells[LEFT]
    mirror, mirrored = cells[MIRROR], cells[MIRRORED]
    state = disk.now["state"].replace("-", " ")
    said = [state]
    if percent:
        said.append("%s of %s" % (percent, quantities.size(disk.now["to_copy"])))
    if disk.copying and speed != "begins":
        said.append(speed + (" for %s" % left if speed == "stalled" else ""))
    told = disk.mirror == "on" and disk.latency is not None
    said.append("mirror %s%s" % (mirror, " a write" if told else ""))
    if mirrored:
        said.append("%s mirrored" % mirrored.split(",")[0])
    return ", ".join(said)


def _name(disk: Disk) -> str:
    snapshot = "snapshot: " if disk.now.get("snapshot") else ""
    return clean("%s%s %s" % (snapshot, disk.now["device"], disk.now["name"]))


def _cell(text: str, column: Column) -> str:
    text = _fit(text, column.width).rstrip()
    return text.rjust(column.width) if column.right else text.ljust(column.width)


def _fit(text: str, width: int) -> str:
    """In so many columns of a terminal; what is cut ends with CUT."""
    width = max(0, width)
    if cell_len(text) > width > 1:
        return set_cell_size(text, width - 1) + CUT
    return set_cell_size(text, width)


def _lines(text: str, width: int) -> List[str]:
    """Broken to the width, at blanks where that can be; no more than NOTICE."""
    found = textwrap.wrap(
        clean(text), max(1, width), max_lines=NOTICE, placeholder=CUT, break_on_hyphens=False
    )
    return [_fit(line, width).rstrip() for line in found]
