# SPDX-License-Identifier: LGPL-2.1-only
"""A VM that high availability (HA) protects, moved with HA on in both pools: HA starts it on
neither side meanwhile, and protects it as before at the end, where that is.

HA looks five times a second here, so that it sees what passes quickly; a real one does it each 20 s
(lab/xapi/ha.py).
"""

import pytest

from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from tests.e2e import high_availability
from tests.e2e.collector import stopped
from tests.e2e.high_availability import assert_protected, protect, protection
from tests.e2e.moments import MOMENTS, end_of
from tests.e2e.records import BETWEEN, WITHIN, Watched
from tests.e2e.test_database_goes_back import NEVER, forget
from tests.eventually import eventually, never

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
LOOKS = 1.0  # seconds in which HA has looked
KILLED_AT = ("receive", "copying", "opening", "clean-up", "end")


@pytest.fixture(scope="module")
def lab():
    with Lab(plan=PLAN, flush_seconds=NEVER) as lab:
        high_availability.enable(lab)
        yield lab


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


@pytest.fixture(autouse=True)
def protected(lab, scene, watched):
    """The VM is protected, on disk, before each test. HA has never started it since, nor told that
    it could not."""
    protect(scene)
    begun = {pool.name: looked(pool, scene.uuid) for pool in lab.pools}
    yield
    for pool in lab.pools:
        assert looked(pool, scene.uuid) == begun[pool.name], "HA of pool %s" % pool.name


def looked(pool, uuid):
    """What HA of a pool has done with the VM, and has told of it."""
    with open(pool.master.root + "/var/log/xensource.log") as log:
        starts = [line for line in log if "HA: VM %s is to be started" % uuid in line]
    told = [
        message["name"]
        for message in pool.xapi.message.get_all_records().values()
        if message["obj_uuid"] == uuid
    ]
    return len(starts), told


def assert_well(scene):
    scene.settle()
    scene.assert_runs()
    scene.assert_nothing_left()
    assert_protected(scene)


def warnings(scene, migration, host):
    return scene.call("status", host, migration=migration)["warnings"]


def test_it_moves_between_pools_and_is_protected_there(scene, watched):
    source = scene.host
    watched.begin()
    migration = scene.begin()
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    assert scene.settle() is not source
    watched.assert_alike(BETWEEN)
    assert_well(scene)
    told = warnings(scene, migration, source)
    assert [text for text in told if "(restart) is taken off" in text], told
    assert not [text for text in told if "any more" in text]


def test_to_another_sr_of_its_host(scene, watched):
    watched.begin()
    entry = scene.ended(scene.begin(**scene.within("big")))
    assert entry["state"] == "succeeded", entry["error"]
    watched.assert_alike(WITHIN)
    assert_well(scene)
    entry = scene.ended(scene.begin(**scene.within("fast")))
    assert entry["state"] == "succeeded", entry["error"]
    assert_well(scene)


def test_taken_back_it_is_protected_at_the_source(scene):
    source = scene.host
    with stopped(scene, MOMENTS["copying"]) as migration:
        assert protection(scene.pool, scene.uuid) == ("", False)
        never(lambda: protection(scene.pool, scene.uuid)[0], "it is taken off", LOOKS)
        tasks = scene.pool.xapi.task
        tasks.cancel(tasks.get_by_uuid(scene.journal(migration)["task"]))
    assert scene.ended(migration)["state"] == "cancelled"
    assert scene.settle() is source
    assert_well(scene)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", KILLED_AT)
def test_a_worker_is_killed_and_recovered(scene, name):
    source, there = scene.host, scene.there
    migration = scene.begin_and_kill(MOMENTS[name])
    (answer,) = scene.call("recover", host=source, migration=migration)["migrations"]
    assert answer["outcome"] in ("moved", "taken back"), answer
    ended = there if answer["outcome"] == "moved" else source
    expected = end_of(name)
    assert expected is None or ended is {"source": source, "destination": there}[expected]
    assert scene.settle() is ended
    assert_well(scene)


@pytest.mark.timeout(600)
def test_an_older_database_brings_the_protection_back_and_it_is_taken_off_again(lab, scene):
    """At the source, behind the claim: later it is on disk that the protection is off."""
    source = scene.host
    with stopped(scene, MOMENTS["receive"]) as migration:
        forget(lab, source.name)
        assert protection(scene.pool, scene.uuid) == ("restart", True)
    entry = scene.ended(migration, source)
    assert entry["state"] == "succeeded", entry["error"]
    assert scene.settle() is not source
    forget(lab, scene.host.name)
    assert_well(scene)


def test_where_xapi_refuses_it_at_the_end_the_move_succeeds_and_says_so(scene):
    there = next(pool for pool in scene.lab.pools if scene.there in pool.hosts)
    source, this = scene.host, there.xapi.pool.get_all()[0]
    there.xapi.pool.set_ha_allow_overcommit(this, False)
    try:
        migration = scene.begin()
        entry = scene.ended(migration)
        assert entry["state"] == "succeeded", entry["error"]
        scene.settle()
        scene.assert_runs()
        scene.assert_nothing_left()
        assert_protected(scene, "")
        told = warnings(scene, migration, source)
        assert "xapi may refuse to have HA protect VM" in told[-2]
        assert "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN" in told[-1] and scene.uuid in told[-1]
    finally:
        there.xapi.pool.set_ha_allow_overcommit(this, True)


def test_what_somebody_sets_meanwhile_is_what_it_gets(scene):
    with stopped(scene, MOMENTS["copying"]) as migration:
        api = scene.pool.xapi
        api.VM.set_ha_restart_priority(api.VM.get_by_uuid(scene.uuid), "best-effort")
    assert scene.ended(migration)["state"] == "succeeded"
    scene.settle()
    assert_protected(scene, "best-effort")


def test_a_halted_vm(lab, scene, watched):
    """HA has no business with one that xapi has shut down. It is started at the end, by hand."""
    api, source = scene.pool.xapi, scene.host
    api.VM.clean_shutdown(api.VM.get_by_uuid(scene.uuid))
    watched.begin()
    migration = scene.begin()
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    scene.host = scene.there
    watched.assert_alike(BETWEEN)
    assert_protected(scene, runs=False)
    never(lambda: scene.record["power_state"] != "Halted", "HA starts it", LOOKS)
    assert warnings(scene, migration, source)
    scene.pool.start_vm(scene.pool.xapi.VM.get_by_uuid(scene.uuid), scene.host.name)
    eventually(lambda: scene.record["power_state"] == "Running", "it runs")
    assert_well(scene)
