# SPDX-License-Identifier: LGPL-2.1-only
"""What a person sees of an evacuation: lines, and on a terminal of 80 columns a table."""

import io
import re

import pytest
from rich.console import Console

from storage_motion.cli.evacuation import account as accounts
from storage_motion.cli.evacuation.display import Display
from storage_motion.cli.evacuation.parts import Disk, Planned

MIB = 1 << 20
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STATUS = {"bytes_moved": 20 * MIB, "bytes_to_move": 80 * MIB, "doing": "Copying and mirroring"}


class World:
    def __init__(self, terminal, width=80):
        self.screen, self.now, self.width = io.StringIO(), 0.0, width
        self.display = Display(
            Console(file=self.screen, force_terminal=terminal, width=width), lambda: self.now
        )
        self.account = accounts.Account()

    def note(self, event, **fields):
        event = dict(fields, event=event, at=self.now)
        accounts.apply(self.account, event)
        self.display.event(event, self.account)

    def plan(self, *names):
        for name in names:
            disks = (Disk("v", "root", "xvda", 80 * MIB, 80 * MIB, "old", "new"),)
            self.note(accounts.PLANNED, planned=Planned(name, name, disks, {}).to_json())

    def drawn(self, statuses):
        screen = io.StringIO()
        Console(file=screen, width=self.width).print(self.display.drawn(self.account, statuses))
        return screen.getvalue().splitlines()


def test_a_line_for_each_event_where_there_is_no_terminal():
    world = World(False)
    with world.display:
        world.plan("web", "db")
        world.note(accounts.START, vm="web", known=[])
        world.note(accounts.STARTED, vm="web", migration="m1")
        world.display.look(world.account, {"web": STATUS})
        world.note(accounts.AGAIN, vm="web", error=["SXM_X", "y"], wait=10, bytes=1, seconds=1)
        world.note(accounts.QUEUED, vm="db", error=["SXM_REFUSED", "z"], wait=20)
        world.note(accounts.MOVED, vm="web", error=[], bytes=80 * MIB, seconds=61)
        world.note(accounts.FAILED, vm="db", error=["SXM_\x1b[31mX"])
    lines = world.screen.getvalue().splitlines()
    assert len(lines) == 5
    assert "begun web: 1 disk, 80.0 MiB, migration m1" in lines[0]
    assert "failed web, and is tried again in 10 s: SXM_X: y" in lines[1]
    assert "db waits" in lines[2]
    assert "moved web: 1 disk, 80.0 MiB sent in 1 min 01 s (1 of 2 VMs moved" in lines[3]
    assert "failed db" in lines[4] and "\x1b" not in world.screen.getvalue()


MIGRATION = "0f0e0d0c-0000-4000-8000-000000000001"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_is_broken_at_blanks_on_a_terminal_alone(terminal):
    """So that who copies an id or a path has all of it."""
    world = World(terminal)
    path = "/root/" + "p" * 100
    with world.display:
        world.display.say("the state of this evacuation is in %s" % path)
        world.plan("web")
        world.note(accounts.START, vm="web", known=[])
        world.note(accounts.STARTED, vm="web", migration=MIGRATION)
    text = CONTROL.sub("", world.screen.getvalue()).replace("\r", "")
    lines = [line for line in text.splitlines() if line]
    (begun,) = [at for at, line in enumerate(lines) if "begun web" in line]
    if terminal:
        assert lines[begun].endswith(", migration") and lines[begun + 1] == MIGRATION
        assert path in lines and [line for line in lines if len(line) > 80] == [path]
    else:
        assert lines[begun].endswith(", migration " + MIGRATION) and path in lines[0]


def test_the_table_has_those_that_run_and_fits_80_columns():
    world = World(True)
    world.plan("a VM with a name that goes on and on and on", "db", "mail")
    for vm in list(world.account.courses)[:2]:
        world.note(accounts.START, vm=vm, known=[])
    lines = world.drawn({"db": STATUS})
    assert len(lines) == 3 and all(len(line) <= 80 for line in lines)
    assert "25%" in lines[1] and "20.0/80.0 MiB" in lines[1] and "?" not in lines[1]
    assert "0 of 3 VMs moved" in lines[2] and "2 run, 1 wait" in lines[2]
    world.now = 2.0
    lines = world.drawn({"db": dict(STATUS, bytes_moved=60 * MIB)})
    assert "20.0 MiB/s" in lines[1]
    world.now = 6.0
    moved = {"bytes_moved": 60 * MIB + 4096 * 1001, "bytes_to_move": 1023 * MIB + 800000}
    lines = world.drawn({"db": dict(STATUS, **moved)})
    assert len(lines) == 3 and "0.1/1.0 GiB" in lines[1] and "Cop" in lines[1], lines


@pytest.mark.parametrize(
    "width, told, left_out",
    [
        (80, ("━", "25%", "20.0/80.0 MiB", "10.0 MiB/s", "Copying and"), ()),
        (60, ("━", "25%", "20.0/80.0 MiB", "10.0 MiB/s"), ("Copying",)),
        (50, ("25%", "20.0/80.0 MiB", "10.0 MiB/s"), ("━", "Copying")),
        (40, ("25%", "20.0/80.0 MiB"), ("━", "10.0 MiB/s", "Copying")),
    ],
)
def test_a_narrow_terminal_leaves_whole_columns_out(width, told, left_out):
    """A name that is cut is seen to be."""
    world = World(True, width)
    name = "one whose name is longer than there is room for"
    world.plan(name)
    world.note(accounts.START, vm=name, known=[])
    world.drawn({name: dict(STATUS, bytes_moved=0)})
    world.now = 2.0
    line = world.drawn({name: STATUS})[0]
    assert line.startswith("one whose name is l… ") and len(line) <= width
    assert all(text in line for text in told), line
    assert not any(text in line for text in left_out), line
