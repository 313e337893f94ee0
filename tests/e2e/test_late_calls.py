# SPDX-License-Identifier: LGPL-2.1-only
"""A worker is killed while a call of its is on its way, and xapi comes to it only when a recovery
has looked at everything and ended: it is refused, as it is a dead one's.

The VM is of a member, which hands each call on to its master by a connection of its own. HA
protects it."""

import pytest

from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from lab.xapi import late_calls
from storage_motion.plan.checks import CLAIM
from storage_motion.sm import marks
from tests.e2e import high_availability, scene as scenes
from tests.e2e.high_availability import assert_protected, protect
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1", "a2"), False), PoolPlan("B", ("b1",), False))
CALLS = {
    "HA's restart priority is taken off": ("VM.set_ha_restart_priority", ("",)),
    "the VM is claimed": ("VM.add_to_other_config", (CLAIM,)),
    "an operation is blocked": ("VM.add_to_blocked_operations", ("destroy",)),
    "a disk is claimed": ("VDI.add_to_other_config", (CLAIM,)),
    "a disk is fastened": ("VBD.set_unpluggable", ("False",)),
    "the source's lock is begun": ("VDI.add_to_sm_config", (marks.RELINKING,)),
}
PATIENCE = 120.0


@pytest.fixture(scope="module")
def lab():
    with Lab(plan=PLAN) as lab:
        high_availability.enable(lab)
        yield lab


@pytest.fixture(scope="module")
def scene(lab):
    return scenes.Scene(lab, home="a2")


def late(scene, call, has, end):
    """What a call of a worker was answered that was killed meanwhile: it went on behind
    `end(migration)`."""
    root = scene.pool.master.root
    late_calls.arm(root, call, has)
    try:
        migration = scene.begin()
        eventually(lambda: late_calls.is_held(root), call, PATIENCE)
        scene.kill(scene.journal(migration)["worker"])
        end(migration)
        assert late_calls.answered(root) is None, "it stands still"
        late_calls.let_go(root)
        eventually(lambda: late_calls.answered(root) is not None, "the end of %s" % call, PATIENCE)
        return late_calls.answered(root)
    finally:
        late_calls.disarm(root)


@pytest.mark.parametrize("what", CALLS)
def test_it_is_refused_behind_the_recovery(scene, what):
    protect(scene)

    def recover(migration):
        (answer,) = scene.call("recover", migration=migration)["migrations"]
        assert answer["outcome"] == "taken back", answer
        assert_protected(scene)

    assert late(scene, *CALLS[what], recover) == "SESSION_INVALID"
    assert_protected(scene)
    vbds = scene.pool.xapi.VBD.get_all_records().values()
    assert all(vbd["unpluggable"] for vbd in vbds if vbd["type"] == "Disk")
    scene.assert_runs()
    scene.assert_nothing_left()


def test_it_moves_afterwards(scene):
    scene.moves()
    assert_protected(scene)
