# SPDX-License-Identifier: LGPL-2.1-only
"""The cut-over where xapi's databases go back to what was on disk: each point at which the code
syncs them, and what happens without it."""

import pytest

from cutover_model import Model, explore

pytestmark = pytest.mark.timeout(1500)  # a minute each, where nobody else is at work

FREE, LOST = (
    "both disks can be activated",
    "the source is destroyed, and the destination may forget the VM",
)
LEFT, FORGOTTEN = "taken back, and something is left", "moved, and something is left, or forgotten"


@pytest.mark.parametrize(
    "change, databases, sibling, violation",
    [
        ("no sync of the source before the move", "two", False, FREE),
        ("no sync of the destination before the move", "two", False, FREE),
        ("no sync of the destination before the move", "one", False, FREE),
        ("no sync of a gate that is shut again", "two", True, FREE),
        ("no sync of a gate that is shut again", "one", True, FREE),
        ("no sync after complete", "two", False, LOST),
        ("no sync after complete", "one", False, LOST),
        ("no sync after the clean-up", "two", False, FORGOTTEN),
        ("no sync after the way back", "two", False, LEFT),
        ("nobody looks after a sync", "two", False, LEFT),
    ],
)
def test_each_sync_is_needed(change, databases, sibling, violation):
    found = explore(
        Model(databases=databases, sibling=sibling, changes=[change], power=False, data=False)
    )
    print("\n%s: %s\n  %s" % (change, found.violation, "\n  ".join(found.trace)))
    assert found.violation == violation


@pytest.mark.parametrize("change", ["no wait for an opening again", "the witness opens again"])
def test_a_gate_is_opened_again_by_the_receiver_alone_and_not_once_that_is_ended(change):
    """It is ended, and what it has SM do is waited for, before anybody shuts a gate; what is noted
    of a gate stays."""
    found = explore(Model(databases="two", sibling=True, changes=[change], power=False, data=False))
    print("\n%s: %s\n  %s" % (change, found.violation, "\n  ".join(found.trace)))
    assert found.violation == FREE


@pytest.mark.parametrize("change", ["sm_config decides", "no witness"])
def test_what_sm_config_says_of_a_gate_is_not_what_decides(change):
    """The journal and the destination's own file do."""
    found = explore(Model(databases="two", changes=[change], power=False, data=False))
    print("\n%s: %s\n  %s" % (change, found.violation, "\n  ".join(found.trace)))
    assert found.violation == "at an end, and the disk lacks a write"
