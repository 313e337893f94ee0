# SPDX-License-Identifier: LGPL-2.1-only
"""Where the VM of a migration is that has failed or was cancelled: what `status` answers of it."""

import pytest

from api_world import begin, pool  # noqa: F401
from fake_migration import ID
from fake_pool import add_vdi, add_vm, by_name, failure
from storage_motion.api import commands


@pytest.fixture
def vm(pool):
    """The VM of the migration, which runs on a2 on its old disk; its record."""
    sr = by_name(pool, "SR", "a2-sr")
    old, new = (add_vdi(pool, sr, uuid=uuid) for uuid in ("k", "n"))
    ref = add_vm(pool, by_name(pool, "host", "a2"), [old], "guests", uuid="v")
    found = pool.tables["VM"][ref]
    found["disk"] = pool.tables["VBD"][found["VBDs"][0]]
    found["old"], found["new"] = old, new
    return found


def now(pool, **fields):
    entry = begin()
    entry.write_disks({"k": {"destination_vdi": "n"}})
    entry.write(**dict({"state": "cancelled", "error": ["SXM_CANCELLED", ID]}, **fields))
    return commands.status_of(pool, {"migration": ID})["vm_now"]


def test_it_runs_at_its_host_with_the_disks_that_it_had(pool, vm):
    assert now(pool) == {"here": True, "power_state": "Running", "host": "a2", "disks": "old"}


def test_it_does_not_run_and_has_the_new_ones(pool, vm):
    vm.update(power_state="Halted", resident_on="OpaqueRef:NULL")
    vm["disk"]["VDI"] = vm["new"]
    found = now(pool, state="failed", committed=True)
    assert found == {"here": True, "power_state": "Halted", "host": "", "disks": "new"}


def test_somebody_has_given_it_another_disk_since(pool, vm):
    vm["disk"]["VDI"] = add_vdi(pool, by_name(pool, "SR", "a2-sr"))
    assert now(pool)["disks"] == "others"


def test_this_pool_has_it_no_more(pool):
    assert now(pool) == {"here": False, "power_state": "", "host": "", "disks": ""}


@pytest.mark.parametrize("state", ["running", "succeeded"])
def test_of_one_that_goes_on_or_went_well_nobody_asks(pool, vm, state):
    pool.handlers["VM.get_by_uuid"] = lambda uuid: pytest.fail("it is asked for")
    assert now(pool, state=state, error=None) is None


def test_a_xapi_that_does_not_tell_fails_no_status(pool, vm):
    def fails(_):
        raise failure("SESSION_INVALID", "s")

    pool.handlers["VM.get_by_uuid"] = fails
    assert now(pool) is None
