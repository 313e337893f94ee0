# SPDX-License-Identifier: LGPL-2.1-only
"""The progress that a person sees never names a figure that nobody knows yet."""

import io

import pytest
from rich.console import Console

from storage_motion.cli import main
from storage_motion.cli.bars import Bars

DISK = {
    "vdi": "k",
    "device": "xvda",
    "name": "root",
    "state": "copying",
    "estimated": False,
    "to_copy": 4 << 20,
    "verified": 2 << 20,
    "skipped": 1 << 20,
    "mirrored_bytes": 0,
}


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("estimated", [True, False])
def test_a_guess_is_not_shown_as_a_figure(terminal, estimated):
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=terminal, width=120)) as bars:
        bars.update(
            {"phase": "sync", "doing": "Copying", "disks": [dict(DISK, estimated=estimated)]}
        )
    line = [line for line in screen.getvalue().splitlines() if "xvda" in line][-1]
    assert ("75%" in line) is not estimated and "copying" in line, line


def test_what_it_warns_of_is_told_at_the_end(capsys):
    ended = {"phase": "end", "doing": "Ending", "disks": [], "state": "succeeded", "error": None}
    assert main.follow(lambda function, migration: dict(ended, warnings=["no HA"]), "m") == 0
    assert "sxm: warning: no HA" in capsys.readouterr().err
    assert main.follow(lambda function, migration: ended, "m") == 0, "of a plugin of before"


def test_a_copy_is_asked_for_and_told(capsys):
    ended = {"phase": "let-go", "doing": "x", "disks": [], "state": "succeeded", "error": None}
    asked = []

    def plugin(function, **given):
        asked.append((function, given))
        return {"migration": "m"} if function == "migrate" else dict(ended, copy=True, new_vm="n")

    options = main._parser().parse_args(["-s", "a", "migrate", "--copy", "vm=web"])
    assert options.command(plugin, options) == 0
    assert asked[0] == ("migrate", {"vm": "web", "copy": "true", "wait": "false"})
    told = capsys.readouterr().out
    assert "copy m" in told and "the copy is VM n" in told
