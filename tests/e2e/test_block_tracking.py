# SPDX-License-Identifier: LGPL-2.1-only
"""A VM whose disk has changed block tracking, moved with cbt=renew: it is tracked again where the
VM is in the end, by xapi, SM and the guest's tapdisk alike, whatever is killed.

What has changed no tapdisk of the lab notes: only that it is told to."""

import pytest
import XenAPI

from lab.dom0 import held_snapshot
from lab.pools.host import Host
from lab.pools.link import Link
from lab.pools.topology import PoolPlan
from tests.e2e.records import BETWEEN, WITHIN, Watched
from tests.e2e.scene import MIB
from tests.e2e.tracked import assert_tracked, by_others, layers, place, vdi_of
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
RATE = 1 * MIB  # bytes a second
HELD = 120.0  # seconds for SM to come to that


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


@pytest.fixture
def tracked(scene):
    """The VM's disk is tracked before, and not afterwards, wherever it is then."""
    with by_others(scene):
        scene.pool.xapi.VDI.enable_cbt(vdi_of(scene))
    assert_tracked(scene)
    yield
    with by_others(scene):
        scene.pool.xapi.VDI.disable_cbt(vdi_of(scene))
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.fixture
def link(lab):
    """The link that disks go over, so slow that a test can do something in mid-copy."""
    with Link(lab.hosts) as link:
        link.limit(RATE)
        yield link


def renewing(scene):
    return dict(scene.arguments(), cbt="renew")


def assert_moved(scene, migration):
    source = scene.host
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    assert scene.settle() is not source
    assert entry["cbt_disabled"] == []
    (warning,) = scene.call("status", host=source, migration=migration)["warnings"]
    assert "its next backup is a full one" in warning
    assert_tracked(scene)


def assert_taken_back(scene, migration):
    source = scene.host
    entry = scene.ended(migration)
    assert entry["state"] in ("failed", "cancelled") and entry["left"] == [], entry["error"]
    assert scene.settle() is source
    assert entry["cbt_disabled"] == [] and "warnings" not in entry
    assert_tracked(scene)


def copying(entry):
    (disk,) = entry["disks"].values()
    return disk["state"] == "copying"


def test_without_it_such_a_disk_is_refused_and_the_remedy_named(scene, tracked):
    with pytest.raises(XenAPI.Failure) as refused:
        scene.begin()
    assert "cbt=renew" in " ".join(refused.value.details)
    with pytest.raises(XenAPI.Failure) as refused:
        scene.begin(**dict(scene.arguments(), cbt="keep"))
    assert "cbt: is 'keep'; renew, or leave it out" in refused.value.details


def test_it_moves_and_is_tracked_there(scene, watched, tracked):
    """What an earlier backup has left of its snapshot is in nobody's way. It stays behind."""
    api = scene.pool.xapi
    with by_others(scene):
        snapshot = api.VDI.snapshot(vdi_of(scene), {})
    api.VDI.data_destroy(snapshot)
    watched.begin()
    assert_moved(scene, scene.begin(**renewing(scene)))
    watched.assert_alike(BETWEEN, lost=("VDI.snapshots",))
    assert api.VDI.get_type(snapshot) == "cbt_metadata"
    api.VDI.destroy(snapshot)


def test_taken_back_it_is_tracked_at_the_source(scene, tracked, link):
    migration = scene.begin(**renewing(scene))
    scene.until(migration, copying)
    assert "log" not in layers(scene)
    assert not scene.pool.xapi.VDI.get_cbt_enabled(vdi_of(scene))
    assert scene.call("cancel", migration=migration)["state"] == "cancelled"
    assert_taken_back(scene, migration)


def test_a_worker_that_is_killed_as_it_disables_it(scene, tracked):
    owed = [place(scene)[1]]
    migration = scene.begin_and_kill(
        ("migration", "cbt_disabled", [owed], True), arguments=renewing(scene)
    )
    scene.call("recover", migration=migration)
    assert_taken_back(scene, migration)


def test_a_worker_that_is_killed_when_it_has_enabled_it(scene, tracked):
    migration = scene.begin_and_kill(
        ("migration", "cbt_disabled", [[]], True), arguments=renewing(scene), before=True
    )
    scene.call("recover", migration=migration)
    assert_moved(scene, migration)


def test_one_that_somebody_enables_in_mid_copy_moves_all_the_same(scene, tracked, link):
    """As a backup program does. The mirror breaks; beside a log there is never one."""
    migration = scene.begin(**renewing(scene))
    scene.until(migration, copying)
    with by_others(scene):
        scene.pool.xapi.VDI.enable_cbt(vdi_of(scene))
    eventually(lambda: "nbd" not in layers(scene), "there is no mirror any more", 20.0)
    scene.until(migration, lambda entry: entry["tries"] > 0)
    link.heal()
    assert_moved(scene, migration)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("end", [lambda host: host.kill("xapi"), Host.stop_xapi])
@pytest.mark.parametrize("command", ["vdi_disable_cbt", "vdi_enable_cbt"])
def test_xapi_ends_as_sm_has_the_disk_paused_for_it(lab, scene, tracked, command, end):
    """SM leaves it paused: the guest goes on when xapi is back, and the disk is tracked."""
    host = scene.host if command == "vdi_disable_cbt" else scene.there
    held_snapshot.arm(host.root, held_snapshot.PAUSED, command)
    try:
        migration = scene.begin(**renewing(scene))
        held_snapshot.held(host.root, HELD)
        end(host)
    finally:
        held_snapshot.let_go(host.root)
    host.start_xapi()
    for pool in lab.pools:
        pool.forget_session()
    assert_moved(scene, migration)


def test_a_halted_vm_too(scene, watched, tracked):
    """Its disk is active nowhere: SM has nothing to pause."""
    pool, source = scene.pool, scene.host
    pool.xapi.VM.hard_shutdown(pool.xapi.VM.get_by_uuid(scene.uuid))
    there, given = scene.there, renewing(scene)
    watched.begin()
    entry = scene.ended(scene.begin(**given))
    assert entry["state"] == "succeeded", entry["error"]
    scene.host = there
    watched.assert_alike(BETWEEN)
    api = scene.pool.xapi
    assert api.VDI.get_cbt_enabled(vdi_of(scene))
    scene.pool.start_vm(api.VM.get_by_uuid(scene.uuid), there.name)
    assert scene.settle() is there and source is not there
    assert_tracked(scene)


def test_within_its_pool_it_is_tracked_on_the_new_disk(scene, watched, tracked):
    before = place(scene)
    watched.begin()
    entry = scene.ended(scene.begin(**dict(scene.within("big"), cbt="renew")))
    assert entry["state"] == "succeeded", entry["error"]
    watched.assert_alike(WITHIN)
    assert place(scene) != before
    assert_tracked(scene)
    entry = scene.ended(scene.begin(**dict(scene.within("fast"), cbt="renew")))
    assert entry["state"] == "succeeded", entry["error"]
    assert_tracked(scene)
