# SPDX-License-Identifier: LGPL-2.1-only
"""The table of phases."""

import pytest

from storage_motion.migration.phases import table as phases


def test_the_table_has_an_undo_for_all_up_to_the_point_of_no_return():
    undos = [phase.undo is not None for phase in phases.PHASES]
    assert undos == sorted(undos, reverse=True)
    assert len(set(phases.NAMES)) == len(phases.NAMES)


@pytest.mark.parametrize(
    "phase, said",
    [
        (None, "starting"),
        ("sync", "copying and mirroring the disks"),
        ("undo receive", "taking back: preparing the destination"),
        ("of a later version", "of a later version"),
    ],
)
def test_what_the_user_reads_of_a_phase(phase, said):
    assert phases.title(phase) == said
