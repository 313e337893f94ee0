# SPDX-License-Identifier: LGPL-2.1-only
"""A VM with a virtual TPM, as every Windows 11 has: it moves with what is in its TPM at its
suspend, leaves none behind, and what is in it is to be read nowhere.

Nothing writes to a TPM in the lab but these tests, by VTPM.set_contents, as xapi-guard does."""

import json

import pytest

from lab.dom0 import breakpoint
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from tests.e2e.records import BETWEEN, WITHIN, Watched
from tests.e2e.scene import MIB, MOVE, Scene
from tests.e2e.test_database_goes_back import NEVER, forget
from tests.e2e.test_secrets import Watch, holding, tasks
from tests.e2e.tpm import Tpm, assert_only_here, give, start

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = (8 * MIB,)
# Just before xenopsd is asked: the VM's metadata is at the destination already.
BEFORE_IT_LEAVES = ("migration", "xenops_task", ("starting",), True)
# where xapi itself has it
DATABASE = "/var/lib/xcp/state.db"


@pytest.fixture(scope="module")
def lab():
    """Its databases are written upon pool.sync_database alone."""
    with Lab(plan=PLAN, flush_seconds=NEVER) as lab:
        yield lab


@pytest.fixture(scope="module")
def scene(lab):
    """The VM boots by UEFI and has a TPM."""
    scene = Scene(lab, DISKS)
    give(scene)
    return scene


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


@pytest.fixture
def tpm(scene):
    tpm = Tpm(scene)
    tpm.write()
    return tpm


def told(lab, secrets):
    """Where it is to be read: files but xapi's own database, and xapi's tasks."""
    found = [
        (path, what)
        for path, what in holding(lab, secrets, images=True)
        if not path.endswith(DATABASE)
    ]
    return found + [("xapi's tasks", what) for what in secrets if secrets[what] in tasks(lab)]


@pytest.mark.timeout(600)
def test_it_moves_to_another_pool_and_back(lab, scene, tpm, watched):
    """What is written to it between the import of the metadata and the suspend comes along, and is
    on disk there before success is told."""
    watch, answers, identity = Watch(lab), [], tpm.identity
    watch.start()
    try:
        for _ in range(2):
            watched.begin()
            with breakpoint.held(
                scene.host.root, BEFORE_IT_LEAVES, scene.begin, scene.journal, MOVE
            ) as migration:
                there = scene._pool_of(scene.there).xapi.VTPM
                (arrived,) = there.get_all()
                assert there.get_contents(arrived) == tpm.known[-1], "the importer has put it there"
                tpm.write()
                assert told(lab, tpm.secrets()) == []
            entry = scene.ended(migration)
            assert entry["state"] == "succeeded", entry["error"]
            answers.append(scene.call("status", migration=migration))
            scene.host = scene.there
            watched.assert_alike(BETWEEN)
            scene.assert_runs()
            assert_only_here(scene, tpm)
            assert tpm.identity == identity
            forget(lab, "a1", "b1")
            assert_only_here(scene, tpm)
    finally:
        watch.end()
    secrets = tpm.secrets()
    assert len(secrets) == 6 and told(lab, secrets) == []
    public = json.dumps(answers).encode() + b"".join(watch.seen) + b"".join(watch.environments)
    assert not [what for what, secret in secrets.items() if secret in public]
    found = {path for path, _ in holding(lab, secrets)}
    assert found and all(path.endswith(DATABASE) for path in found), "this test would find them"
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
def test_it_stays_with_a_vm_whose_disks_move_within_the_pool(lab, scene, tpm, watched):
    ref, identity = tpm.ref, tpm.identity
    for sr in ("big", "fast"):
        watched.begin()
        entry = scene.ended(scene.begin(**scene.within(sr)))
        assert entry["state"] == "succeeded", entry["error"]
        watched.assert_alike(WITHIN)
    scene.assert_runs()
    assert (tpm.ref, tpm.identity) == (ref, identity)
    assert_only_here(scene, tpm)
    assert told(lab, tpm.secrets()) == []


@pytest.mark.timeout(600)
def test_a_move_that_is_taken_back_leaves_none_there(lab, scene, tpm):
    with breakpoint.held(
        scene.host.root, BEFORE_IT_LEAVES, scene.begin, scene.journal, MOVE
    ) as migration:
        scene.kill(scene.journal(migration)["worker"])
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "taken back" and answer["left"] == [], answer
    scene.assert_runs()
    assert_only_here(scene, tpm)
    assert told(lab, tpm.secrets()) == []
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
def test_a_halted_one_moves(lab, scene, tpm, watched):
    scene.pool.xapi.VM.hard_shutdown(scene.pool.xapi.VM.get_by_uuid(scene.uuid))
    watched.begin()
    identity, migration = tpm.identity, scene.begin()
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    scene.host = scene.there
    watched.assert_alike(BETWEEN)
    assert tpm.identity == identity
    assert_only_here(scene, tpm)
    start(scene)
    assert tpm.has_the_last(), "it was not made anew"
    scene.assert_runs()
    assert told(lab, tpm.secrets()) == []
    scene.assert_nothing_left()


def test_what_stays_behind_is_named_beforehand(scene):
    """Beside the TPM, which does not: of a VM that shall be started at its home."""
    api = scene.pool.xapi
    vm = api.VM.get_by_uuid(scene.uuid)
    api.VM.set_affinity(vm, api.host.get_by_uuid(scene.host.uuid))
    plan = scene.call("migrate", **dict(scene.arguments(), **{"dry-run": "true"}))["plan"]
    (warning,) = plan["warnings"]
    assert "home server, host %s" % scene.host.name in warning
