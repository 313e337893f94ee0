# SPDX-License-Identifier: LGPL-2.1-only
"""What recovery decides by a journal alone; the ways are walked in test_recovery_source.py,
test_recovery_destination.py and tests/e2e/test_recover.py."""

import os

import pytest

from interrupted_world import ANOTHER, entry
from storage_motion.dom0.launch import Process
from storage_motion.journal import journal
from storage_motion.migration import recovery_decision


@pytest.mark.parametrize(
    "fields, first",
    [
        ({"phase": "claim", "begun": ["claim"]}, None),
        ({"phase": "sync", "begun": ["claim", "receive", "sync"]}, None),
        ({"phase": "move", "begun": ["move"]}, None),
        ({"phase": "move", "begun": ["move"], "xenops_task": "starting"}, "move"),
        ({"phase": "move", "begun": ["move"], "xenops_task": "7"}, "move"),
        ({"phase": "undo move", "begun": ["move"], "xenops_task": "7"}, "move"),
        ({"phase": "undo sync", "begun": ["sync"], "xenops_task": None}, None),
        ({"phase": "complete", "committed": True}, "complete"),
        ({"phase": "clean-up", "committed": True}, "clean-up"),
        ({"phase": "end", "committed": True}, "end"),
        # it had failed, and what drove it was killed behind it
        ({"phase": "end", "committed": True, "left": ["clean-up: SR_FULL"]}, "clean-up"),
        (
            {
                "phase": "end",
                "committed": True,
                "state": journal.FAILED,
                "left": ["clean-up: SR_FULL"],
            },
            "clean-up",
        ),
        (
            {
                "phase": "end",
                "committed": True,
                "state": journal.FAILED,
                "left": ["the worker gave up"],
            },
            "end",
        ),
        ({"phase": "hand-over", "begun": ["hand-over"], "live": False}, None),
        ({"phase": "adopt", "begun": ["hand-over", "adopt"], "live": False}, None),
        ({"phase": "open", "begun": ["open"], "live": False, "copy": True}, None),
        ({"phase": "let-go", "committed": True, "live": False, "copy": True}, "let-go"),
        ({"phase": "end-there", "committed": True, "live": False, "copy": True}, "end-there"),
    ],
)
def test_decide(fields, first):
    direction = recovery_decision.direction_of(entry(**fields))
    assert direction.first == first and direction.why


def test_of_a_copy_it_is_told_which_vm_it_is():
    known = entry(live=False, copy=True, committed=True, new_vm="another", phase="let-go")
    told = recovery_decision.outcome(known, recovery_decision.direction_of(known), None)
    assert (told["outcome"], told["new_vm"]) == ("copied", "another")
    assert "another, is at the destination" in told["why"]


def test_whether_a_copy_has_come_to_be_the_other_pool_knows():
    for begun, certain in ((["sync"], True), (["sync", "open"], False), (["adopt"], False)):
        known = entry(live=False, copy=True, begun=begun)
        back = recovery_decision.direction_of(known)
        assert recovery_decision.stays_at_the_source(known, back) == certain
    for phase in ("keep", "end-there", "let-go"):
        known = entry(live=False, copy=True, committed=True, phase=phase, begun=["adopt"])
        forth = recovery_decision.direction_of(known)
        # all is done there, and only the original is still to be let go
        assert recovery_decision.stays_at_the_source(known, forth) == (phase == "let-go")


@pytest.mark.parametrize(
    "fields, interrupted",
    [
        ({}, True),
        ({"worker": None}, False),  # it has just been started
        ({"worker": None, "started": 0.0}, True),
        ({"worker": ANOTHER}, False),
        ({"worker": ANOTHER, "waits": True}, True),  # it looks again later
        ({"worker": Process.of(os.getpid()).to_json()}, True),  # of a try before
        ({"state": journal.SUCCEEDED}, False),
        ({"state": journal.FAILED}, False),
        ({"state": journal.FAILED, "left": ["undecided"]}, True),
        ({"state": journal.CANCELLED, "left": ["undo receive: LOST"]}, True),
    ],
)
def test_interrupted(fields, interrupted):
    assert recovery_decision.interrupted(entry(**fields)) is interrupted


@pytest.mark.parametrize(
    "begun, certain",
    [
        ([], True),
        (["sync"], True),
        (["sync", "remap"], True),
        (["move"], False),
        (["hand-over"], False),
        (["adopt"], False),
    ],
)
def test_without_the_other_pool(begun, certain):
    assert (
        recovery_decision.stays_at_the_source(
            entry(begun=begun), recovery_decision.Direction(None, "")
        )
        is certain
    )
    assert not recovery_decision.stays_at_the_source(
        entry(begun=begun), recovery_decision.Direction("move", "")
    )
