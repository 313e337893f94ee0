# SPDX-License-Identifier: LGPL-2.1-only
"""What a journal alone says of a migration for its recovery: whether it was interrupted, where it
has to go, and afterwards what has become of it."""

import os
import time
from typing import Any, Dict, NamedTuple, Optional

from storage_motion.dom0.launch import Process
from storage_motion.journal import journal
from storage_motion.migration.phases import table as phases
from storage_motion.plan.plan import Plan

START_TIMEOUT = 60.0  # seconds within which a worker says who it is

# What has become of a migration.
MOVED, COPIED, TAKEN_BACK, UNFINISHED, UNDECIDED, WAITING, RUNNING, ENDED = (
    "moved",
    "copied",
    "taken back",
    "unfinished",
    "undecided",
    "waiting",
    "running",
    "ended",
)


class Direction(NamedTuple):
    """`first`: the phase to go on with, None for the way back. `why`: in words."""

    first: Optional[str]
    why: str


def direction_of(entry: Dict[str, Any]) -> Direction:
    """The Direction for an interrupted migration, by its journal's content."""
    phase = entry["phase"]
    if entry["committed"]:
        return Direction(
            _first_to_finish(entry), "it was past the point of no return, in phase %s" % phase
        )
    if entry["plan"]["live"] and "move" in entry["begun"] and entry.get("xenops_task"):
        return Direction("move", "xenopsd had been asked to move the VM")
    return Direction(None, "the VM had not begun to move; it was in phase %s" % phase)


def _first_to_finish(entry: Dict[str, Any]) -> str:
    """The first phase behind the point of no return that is not known to be done. Not one before
    the one that it was in, but of those that have failed: by `end` the VM is its user's."""
    names = [phase.name for phase in phases.of(Plan.from_json(entry["plan"])) if phase.undo is None]
    # Of those that were tried, and failed: each of `left` begins with the name of its phase.
    wanted = [name for name in names if any(text.startswith(name + ":") for text in entry["left"])]
    if entry["phase"] in names:
        wanted.append(entry["phase"])
    return min(wanted, key=names.index) if wanted else names[0]


def interrupted(entry: Dict[str, Any]) -> bool:
    """Whether nobody drives a migration, and it is not at one of its ends."""
    if entry["worker"] is None and entry["state"] == journal.RUNNING:
        return bool(time.time() - entry["started"] > START_TIMEOUT)
    return not driven(entry) and bool(entry["state"] == journal.RUNNING or entry["left"])


def driven(entry: Dict[str, Any]) -> bool:
    """Whether another process is at it. Not one that has recovered it as far as it could, and looks
    again later: whoever comes first goes on, be it that one."""
    worker = Process.from_json(entry["worker"])
    return (
        worker is not None
        and worker.pid != os.getpid()
        and worker.alive()
        and not entry.get("waits")
    )


def stays_at_the_source(entry: Dict[str, Any], direction: Direction) -> bool:
    """Whether it is certain without the other pool that the VM is at the source, and nothing of it
    can run elsewhere; so it is of one that was copied, once all is done there."""
    if direction.first == "let-go":
        return True
    opening = {"move", "hand-over", "open", "adopt"}
    return direction.first is None and not opening & set(entry["begun"])


def outcome(entry: Dict[str, Any], direction: Direction, gap: Optional[str]) -> Dict[str, Any]:
    """What to answer of a migration that was recovered in that `direction`; `gap`: why the
    destination cannot be had, if it cannot."""
    answer = {
        "vm": entry["plan"]["vm"],
        "vm_name": entry["plan"]["vm_name"],
        "left": entry["left"],
        "error": entry["error"],
    }
    if "undecided" in entry["left"]:
        return dict(
            answer, outcome=UNDECIDED, why="%s; recover it again" % " ".join(entry["error"][1:])
        )
    if gap is not None and entry["left"]:
        return dict(
            answer,
            outcome=WAITING,
            why="%s: the VM is at the source, and what was made there stays until then" % gap,
        )
    if entry["left"]:
        return dict(
            answer,
            outcome=UNFINISHED,
            why="%s; left: %s" % (direction.why, "; ".join(entry["left"])),
        )
    if entry["committed"] and entry["plan"].get("copy"):
        return dict(
            answer,
            outcome=COPIED,
            new_vm=entry.get("new_vm"),
            why="%s; the copy, VM %s, is at the destination" % (direction.why, entry.get("new_vm")),
        )
    if entry["committed"]:
        return dict(
            answer,
            outcome=MOVED,
            why="%s; the VM is at the destination%s"
            % (direction.why, ", halted" if entry.get("arrived_halted") else ""),
        )
    return dict(answer, outcome=TAKEN_BACK, why="%s; the VM is at the source" % direction.why)
