# SPDX-License-Identifier: LGPL-2.1-only
"""What a person sees of migrations on their way: on a terminal of 80 columns, a wide one and a low
one, and without any."""

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from storage_motion.cli import screen
from storage_motion.cli.screen import Screen, picture
from storage_motion.cli.watched import Watched

MIB = 1 << 20
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def disk(at=0, **changes):
    known = {
        "vdi": "k%d" % at,
        "device": "xvd" + "abcdefghijklmnopqrstuvwxyz"[at],
        "name": "disk %d" % at,
        "state": "copying",
        "mirror": "on",
        "estimated": False,
        "to_copy": 400 * MIB,
        "verified": 0,
        "skipped": 0,
        "same": 0,
        "mirrored_bytes": 0,
        "mirrored_writes": 0,
        "waited": 0.0,
    }
    return dict(known, **changes)


def status(*disks, **changes):
    known = {
        "vm_name": "web",
        "state": "running",
        "phase": "sync",
        "doing": "copying and mirroring the disks",
        "error": None,
        "downtime": None,
        "broken": None,
        "disks": list(disks),
        "snapshots": [],
        "bytes_moved": sum(one["verified"] for one in disks),
        "bytes_to_move": sum(one["to_copy"] or 0 for one in disks),
    }
    return dict(known, **changes)


def watched(*statuses, name="m"):
    """A migration that was seen so, a second between two looks."""
    one = Watched(name)
    for at, seen in enumerate(statuses):
        one.see(100.0 + at, seen)
    return one


def going(at=0, **changes):
    """Two looks at a disk of which 40 MiB came in between, and 10 mirrored writes."""
    later = dict(
        verified=140 * MIB, mirrored_bytes=5 * MIB, mirrored_writes=10, waited=0.008, **changes
    )
    return disk(at, verified=100 * MIB, **changes), disk(at, **later)


def lines(*migrations, notice="", width=80, height=23):
    return [line.plain for line in picture(migrations, notice, width, height)]


def test_a_disk_has_its_bar_bytes_speed_time_and_mirror_within_80_columns():
    before, after = going()
    titles, head, line = lines(watched(status(before), status(after)))
    assert "web: copying and mirroring the disks" in head and "35%" in head
    assert "6.5 s left" in head
    for title in ("copied", "speed", "left", "mirror"):
        assert title in titles
    assert line.startswith("  xvda disk 0    ━━━━───────  35%    140/400 MiB  40.0 MiB/s  6.5 s ")
    assert line.rstrip().endswith("on, 0.8 ms")


LARGEST = 99.94 * (1 << 30)  # of which each figure is as long as any


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_figure_is_cut_at_80_columns_before_a_disk_begins_and_after(width):
    """With the longest figures that there are."""
    waits = disk(0, estimated=True, to_copy=LARGEST, state="waiting", mirror="off")
    begun = disk(1, verified=LARGEST * 0.01, to_copy=LARGEST)
    later = dict(begun, verified=LARGEST * 0.02, mirrored_writes=10, waited=999.0)
    shown = lines(watched(status(waits, begun), status(waits, later)), width=width)
    assert "~99.9 GiB" in shown[2] and "waiting" in shown[2] and shown[2].rstrip()[-3:] == "off"
    assert "2.0/99.9 GiB" in shown[3] and "1.0 GiB/s" in shown[3] and "1m38s" in shown[3]
    assert "on, 99.9 s" in shown[3]
    assert screen.CUT not in "".join(shown)


@pytest.mark.parametrize(
    "width, told, left_out",
    [
        (79, ("copied", "speed", "left"), ("mirror",)),
        (60, ("copied", "speed", "left"), ("mirror",)),
        (59, ("speed", "left"), ("copied", "mirror")),
        (45, ("speed", "left"), ("copied", "mirror")),
        (40, (), ("copied", "speed", "left", "mirror")),
        (28, (), ("copied", "speed", "left", "mirror")),
    ],
)
def test_a_narrow_screen_leaves_whole_columns_out(width, told, left_out):
    before, after = going()
    titles, head, line = lines(watched(status(before), status(after)), width=width)
    assert all(word in titles for word in told) and not any(word in titles for word in left_out)
    assert ("140/400 MiB" in line) == ("copied" in told) and ("40.0 MiB/s" in line) == bool(told)
    assert "xvda disk 0" in line and "35%" in line and "━" in line
    assert max(map(len, (titles, head, line))) <= width
    figures = (
        "35%  140/400 MiB  6.5 s left" if width > 44 else "35%  6.5 s left" if width > 31 else "35%"
    )
    assert head.startswith("web: copy") and head.endswith(" " + figures)


def test_what_is_cut_is_seen_to_be():
    one = watched(status(disk(0, name="a name that is longer than there is room for")))
    assert "xvda a name t… " in lines(one)[2]


def test_what_else_is_to_be_known_is_broken_and_not_cut():
    notice = "The pool does not answer (the connection was closed). It is asked for 9m59s more."
    found = lines(watched(status(disk())), notice=notice, width=60)
    assert " ".join(found[-2:]) == notice
    assert len(lines(notice=notice * 20, width=60)) == 3


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 100, 110, 200])
def test_no_line_is_wider_than_the_screen(width):
    names = ["n" * 300, "\u65e5\u672c\u8a9e" * 40, "a\x1b[2Jb\nc", "x"]
    disks = [disk(at, name=name, state="copying") for at, name in enumerate(names)]
    one = watched(status(*disks, vm_name="v" * 300), status(*disks, vm_name="v" * 300))
    found = picture([one], "The pool does not answer " * 20, width, 40)
    assert max(cell_len(line.plain) for line in found) <= width
    assert "\x1b" not in "".join(line.plain for line in found)
    assert all("\n" not in line.plain for line in found)


def test_a_wide_one_tells_how_much_is_mirrored():
    before, after = going()
    found = "\n".join(lines(watched(status(before), status(after)), width=120))
    assert "mirrored" in found and "5.0 MiB, 5.0 MiB/s" in found


def test_what_does_not_move_is_said_to_be_stalled():
    one = watched(*[status(disk(verified=MIB)) for _ in range(8)])
    (line,) = [line for line in lines(one) if "xvda" in line]
    assert "stalled" in line and "7.0 s" in line and "?" not in line and "MiB/s" not in line


def test_a_disk_that_has_waited_begins_with_no_rate_and_then_has_that_of_its_copy():
    """And not that of the time in which it waited, nor of what needed no copy."""
    waits = [status(disk(state=state)) for state in ["waiting"] * 8 + ["mirroring"] * 2]
    copies = [status(disk(verified=done * MIB, skipped=100 * MIB)) for done in (20, 60, 100, 140)]
    (line,) = [line for line in lines(watched(*waits, copies[0])) if "xvda" in line]
    assert "begins" in line and "/s" not in line
    head = lines(watched(*waits, copies[0]))[1]
    assert "left" not in head, "nor does anybody know when all of it will be done"
    for seen in (copies[:2], copies):
        one = watched(*waits, *seen)
        (line,) = [line for line in lines(one) if "xvda" in line]
        left = (300 * MIB - seen[-1]["disks"][0]["verified"]) / (40 * MIB)
        assert "40.0 MiB/s" in line and "%.1f s" % left in line
    assert "left" in lines(one)[1]


def test_what_the_guest_wrote_anew_is_no_speed_of_the_copy():
    looks = [disk(verified=10 * at * MIB, skipped=30 * at * MIB) for at in (1, 2, 3)]
    (line,) = [line for line in lines(watched(*map(status, looks))) if "xvda" in line]
    assert "10.0 MiB/s" in line and "120/400 MiB" in line


def test_no_figure_is_told_that_nobody_knows():
    much = 623 * MIB // 10
    one = watched(status(disk(estimated=True, to_copy=much), bytes_to_move=much))
    (line,) = [line for line in lines(one) if "xvda" in line]
    assert "%" not in line and " ~62.3 MiB " in line and "begins" in line
    unknown = watched(status(disk(estimated=True, to_copy=None, state="waiting", mirror="off")))
    (line,) = [line for line in lines(unknown) if "xvda" in line]
    assert "waiting" in line and "None" not in line
    assert lines(watched()) == [screen._fit("m: not seen yet", 79)]


def test_the_end_is_told_with_the_pause_or_the_reason():
    ended = status(disk(state="moved"), state="succeeded", downtime=0.31)
    assert lines(watched(ended))[0].rstrip() == (
        "web: succeeded; the guest stood still for 0.31 s from its disks' closing on"
    )
    failed = status(disk(), state="failed", error=["SXM_MIRROR_BROKEN", "k", "more"])
    assert lines(watched(failed))[0].rstrip() == "web: failed: SXM_MIRROR_BROKEN k"


def test_a_broken_mirror_and_when_it_is_tried_again_is_told(monkeypatch):
    monkeypatch.setattr(screen.time, "time", lambda: 1000.0)
    broken = {"attempt": 2, "limit": 5, "until": 1008.0, "waiting": "the next try"}
    one = watched(status(disk(state="broken", mirror="broken"), broken=broken))
    found = lines(one)
    assert "web: broken, the next try in 8.0 s" in found[1] and "broken" in found[2]


def test_on_a_low_screen_what_stands_still_is_left_out_first_and_it_always_fits():
    still = [disk(at, state="waiting", mirror="off") for at in range(1, 20)]
    ready = [disk(at, state="in-sync") for at in range(20, 26)]
    many = watched(status(disk(0), *still, *ready))
    found = lines(many, height=12)
    assert len(found) <= 12 and any("xvda" in line for line in found)
    assert "and of its disks 6 in-sync, 19 waiting" in found[-1]
    several = [watched(status(*still, vm_name="vm%d" % at), name=str(at)) for at in range(30)]
    found = lines(*several, notice="told", height=23)
    assert len(found) == 23 and found[-1] == "told" and "and 9 more" in found[-2]
    for height in range(2, 40):
        assert len(lines(*several, notice="told", height=height)) <= height


def test_a_terminal_is_drawn_in_place():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24)
    with Screen(console) as shown:
        for one in going():
            shown.draw([watched(status(one))])
    text = out.getvalue()
    assert "\x1b[2K" in text or "\x1b[1A" in text, "the lines before are taken back"
    assert "xvda disk 0" in CONTROL.sub("", text)


def test_without_a_terminal_there_is_a_line_for_each_step_and_no_control_codes():
    out = io.StringIO()
    one = Watched("m")
    with Screen(Console(file=out, width=80)) as shown:
        for at in range(0, 401, 10):
            one.see(float(at), status(disk(verified=at * MIB)))
            shown.draw([one])
            shown.draw([one])
        shown.draw([one], "The pool does not answer (a).")
        shown.draw([one], "The pool does not answer (b).")
        shown.draw([one])
    told = out.getvalue().splitlines()
    assert told[0] == "web: copying and mirroring the disks" and "\x1b" not in out.getvalue()
    steps = [line for line in told if "xvda" in line]
    assert len(steps) == 5
    assert "50% of 400 MiB, 1.0 MiB/s, mirror on" in steps[2]
    assert [line for line in told if "does not" in line] == ["The pool does not answer (a)."]


def test_without_a_terminal_how_it_ended_is_the_last_word():
    """Whatever has changed of its disks at the same time."""
    out = io.StringIO()
    one = Watched("m")
    with Screen(Console(file=out, width=80)) as shown:
        one.see(0.0, status(disk()))
        shown.draw([one])
        one.see(1.0, status(disk(state="moved", verified=400 * MIB), state="succeeded"))
        shown.draw([one])
    told = out.getvalue().splitlines()
    assert told[0] == "web: copying and mirroring the disks"
    assert told[-1] == "web: succeeded" and "xvda" in told[-2] and "moved" in told[-2]


def test_a_line_says_what_its_milliseconds_are_of():
    out = io.StringIO()
    one = watched(*(status(seen) for seen in going()))
    with Screen(Console(file=out, width=120)) as shown:
        shown.draw([one])
    assert "mirror on, 0.8 ms a write, 5.0 MiB mirrored" in out.getvalue()
    out = io.StringIO()
    one.see(102.0, status(disk(verified=140 * MIB, state="moved", mirror="ended")))
    with Screen(Console(file=out, width=120)) as shown:
        shown.draw([one])
    assert "mirror ended" in out.getvalue() and "a write" not in out.getvalue()
