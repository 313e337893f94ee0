# SPDX-License-Identifier: LGPL-2.1-only
"""A migration's progress as a person wants to see it: a bar for each disk, drawn in place; on
anything but a terminal, lines."""

from typing import Any, Dict, Optional, Tuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_EVERY = 25
"""On anything but a terminal, a line for each of so many percent."""


class Bars:
    """Draws what `sxm.py fn=status` answers, again and again. A context manager."""

    def __init__(self, console: Optional[Console] = None) -> None:
        self._console = console or Console()
        self._progress = Progress(
            TextColumn("  {task.fields[name]:<18}"),
            BarColumn(40),
            TextColumn("{task.percentage:>3.0f}%"),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[state]}"),
            console=self._console,
        )
        self._tasks: Dict[str, TaskID] = {}
        self._phase: Optional[str] = None
        self._told: Dict[str, Tuple[int, str]] = {}

    def __enter__(self) -> "Bars":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def update(self, status: Dict[str, Any]) -> None:
        """Draw this answer of `status`."""
        if status["phase"] != self._phase:
            self._phase = status["phase"]
            self._console.print("  %s" % status["doing"], highlight=False)
        for disk in status["disks"]:
            if self._console.is_terminal:
                self._draw(disk)
            else:
                self._tell(disk)

    def _draw(self, disk: Dict[str, Any]) -> None:
        key = disk["vdi"]
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task("", name=_name(disk), state="", total=None)
        self._progress.update(
            self._tasks[key],
            total=None if disk["estimated"] else disk["to_copy"] or 1,
            completed=done(disk) if disk["to_copy"] else _whole(disk),
            state=_state(disk),
        )

    def _tell(self, disk: Dict[str, Any]) -> None:
        percent = 100 * done(disk) // disk["to_copy"] if disk["to_copy"] else 100 * _whole(disk)
        step = (percent // LINE_EVERY, disk["state"])
        if self._told.get(disk["vdi"]) != step:
            self._told[disk["vdi"]] = step
            figures = (
                ""
                if disk["estimated"]
                else "%3d%% of %6.1f MiB" % (percent, (disk["to_copy"] or 0) / 2**20)
            )
            self._console.print(
                "  %-18s %-18s %s" % (_name(disk), figures, _state(disk)), highlight=False
            )


def done(disk: Dict[str, Any]) -> int:
    """Bytes of a disk's copy that are verified at the destination, or need no copy since the guest
    wrote them anew."""
    return min(disk["verified"] + disk["skipped"], disk["to_copy"] or 0)


def _whole(disk: Dict[str, Any]) -> int:
    return int(disk["state"] in ("in-sync", "moved"))


def _name(disk: Dict[str, Any]) -> str:
    return "%s %s" % (disk["device"], disk["name"])


def _state(disk: Dict[str, Any]) -> str:
    mirrored = (
        ", %.1f MiB mirrored" % (disk["mirrored_bytes"] / 2**20) if disk["mirrored_bytes"] else ""
    )
    return disk["state"] + mirrored
