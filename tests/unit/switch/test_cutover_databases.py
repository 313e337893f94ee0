# SPDX-License-Identifier: LGPL-2.1-only
"""The cut-over where xapi's databases go back to what was on disk, explored as a whole.

With CUTOVER_ALL=1 also while hosts lose their power and movers, receivers and mirrors fail: an
hour."""

import os

import pytest

from cutover_model import Model, explore

pytestmark = pytest.mark.timeout(1500)  # a minute each, where nobody else is at work

QUIET = {} if os.environ.get("CUTOVER_ALL") else {"power": False, "data": False}


@pytest.mark.parametrize("databases", ["two", "one"])
@pytest.mark.parametrize("sibling", [False, True], ids=["last gate", "another one"])
def test_whatever_xapi_forgets_no_host_runs_a_stale_disk_and_no_vm_is_lost(databases, sibling):
    found = explore(Model(databases=databases, sibling=sibling, **QUIET))
    print("\n%s: %d states, %d steps" % (databases, len(found.states), found.steps))
    assert found.violation is None, found.trace
    assert found.without_end == [] and {state.activation for state in found.only_undecided} <= {
        "stuck"
    }
    assert {state.worker for state in found.states} >= (
        {"back", "undecided"} if sibling else {"back", "moved", "undecided"}
    )
