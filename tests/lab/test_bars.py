# SPDX-License-Identifier: LGPL-2.1-only
"""The progress that a person sees never names a figure that nobody knows yet."""

import io

import pytest
from rich.console import Console

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
