# SPDX-License-Identifier: LGPL-2.1-only
"""What xapi's record says after each end of a move, and that nothing is left in any xenopsd:
whatever host of a pool the VM was on."""

import contextlib
import os

import pytest

from lab.pools.lab import Lab
from storage_motion.xapi import xenops
from tests.e2e import gate_patience
from tests.e2e.collector import stopped
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import Scene, task_ended

PATIENT = 15  # seconds that SM at the destination waits for a gate, in place of 120
IMPATIENT = 3  # the same, for a gate that nobody opens, and until it gives the disk back
FAILS = 120.0
HOOK = "/etc/xapi.d/vm-pre-migrate/99-test"


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab, gate_patience.of(lab.hosts, PATIENT):
        yield lab


@pytest.fixture(scope="module", params=["a1", "a2"])
def scene(lab, request):
    """A VM on the master of its pool, and one on a member, which goes to pool B's only host and
    back."""
    return Scene(lab, home=request.param)


@pytest.fixture(autouse=True)
def unharmed(scene):
    yield
    scene.restore()


def known(scene, host):
    """What the xenopsd of a host knows of the VM: {id: power state}."""
    return {
        metadata["id"]: stat["power_state"]
        for metadata, stat in host.xenopsd("VM.list")
        if metadata["id"][:24] == scene.uuid[:24]
    }


def halted_and_started_again(scene, migration):
    entry = scene.ended(migration)
    assert entry["state"] == "failed" and entry["left"] == [], entry
    assert (
        scene.record["power_state"] == "Halted" and scene.record["resident_on"] == "OpaqueRef:NULL"
    )
    assert [known(scene, host) for host in scene.lab.hosts] == [{} for _ in scene.lab.hosts]
    scene.assert_nothing_left()
    scene.pool.start_vm(scene.pool.xapi.VM.get_by_uuid(scene.uuid), scene.host.name)
    scene.assert_runs()
    return entry


def fails_behind_its_suspend(scene, **arguments):
    """A migration whose gate nobody opens until xenopsd has given up: its id. The worker goes on
    only then, and finds no mover any more, without which it opens no gate."""
    with contextlib.ExitStack() as held:
        with gate_patience.of(scene.lab.hosts, IMPATIENT):
            migration = held.enter_context(stopped(scene, MOMENTS["locked"], **arguments))
            task_ended(scene.host, scene.journal(migration)["xenops_task"], FAILS)
        assert known(scene, scene.host)[xenops.leaving(scene.uuid)] == "Suspended"
        assert scene.record["power_state"] in ("Running", "Paused"), "nobody has told xapi"
        for disk in scene.journal(migration)["disks"].values():
            scene.kill(disk["mover"])
    return migration


def test_to_another_pool_and_back(scene):
    scene.moves()
    scene.moves()


def test_a_move_that_fails_before_the_suspend_leaves_the_vm_running(scene):
    path = scene.host.root + HOOK
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as script:
        script.write("#!/bin/sh\nexit 3\n")
    os.chmod(path, 0o755)
    try:
        entry = scene.ended(scene.begin(**dict(scene.arguments(), **{"retry-limit": "0"})))
    finally:
        os.unlink(path)
    assert entry["state"] == "failed" and "Hook_failed" in entry["error"] and entry["left"] == []
    scene.assert_runs()
    scene.assert_nothing_left()


def test_a_move_that_fails_behind_the_suspend_leaves_the_vm_halted(scene):
    migration = fails_behind_its_suspend(scene)
    halted_and_started_again(scene, migration)
    scene.moves()


def test_a_move_within_the_host_that_fails_behind_the_suspend(scene):
    migration = fails_behind_its_suspend(scene, **scene.within("big"))
    halted_and_started_again(scene, migration)
    scene.moves()


def test_what_an_earlier_move_has_left_hinders_no_other(scene):
    """By hand here; a product without the temporary ids' end, or xapi's own migration, leaves them
    so."""
    for host, identity in (
        (scene.host, xenops.leaving(scene.uuid)),
        (scene.there, xenops.incoming(scene.uuid)),
    ):
        host.xenopsd(
            "VM.add",
            metadata={
                "id": identity,
                "name": "left",
                "memory": 1 << 28,
                "disks": [],
                "vifs": [],
                "guest": {},
            },
        )
    scene.moves()


def test_recovery_ends_what_a_dead_worker_has_left(scene):
    with gate_patience.of(scene.lab.hosts, IMPATIENT):
        migration = scene.begin_and_kill(MOMENTS["locked"])
        task_ended(scene.host, scene.journal(migration)["xenops_task"], FAILS)
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "taken back", answer
    halted_and_started_again(scene, migration)
    scene.moves()
