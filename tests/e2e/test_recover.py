# SPDX-License-Identifier: LGPL-2.1-only
"""A worker that is killed in every phase of a live migration, and `recover`: the VM is at one of
the two ends, whole, and moves."""

import contextlib
import os
import random
import time

import pytest
import XenAPI

from lab.pools.topology import PoolPlan
from storage_motion.dom0.launch import Process
from tests.e2e.moments import MOMENTS, end_of
from tests.e2e.scene import ENDED, KILLED
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
SEED = int(os.environ.get("RECOVER_SEED", "4"))
RANDOM = int(os.environ.get("RECOVER_RANDOM", "1"))
LONGEST = 12.0  # seconds that a migration of these disks takes, roughly


COPYING = MOMENTS["copying"]


def kill_worker(scene, migration, due):
    """kill -9 the worker at `due` (time.monotonic()). Whether it still ran then."""

    def has_ended():
        return scene.journal(migration)["state"] in ENDED

    eventually(lambda: time.monotonic() >= due or has_ended(), "its moment", LONGEST + 60.0)
    if has_ended():
        return False
    worker = Process.from_json(scene.journal(migration)["worker"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, KILLED)
    assert worker.gone(5.0)
    return not has_ended()


def recover(scene, migration, expected):
    """Have it recovered, and see that it was, and that everything is as it has to be."""
    source, destination = scene.host, scene.there
    left = scene.journal(migration)
    begun = time.monotonic()
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    print(
        "killed in %s: %s within %.1f s: %s"
        % (left["phase"], answer["outcome"], time.monotonic() - begun, answer["why"])
    )
    assert answer["outcome"] in ("moved", "taken back"), answer
    ended = {"moved": destination, "taken back": source}[answer["outcome"]]
    assert expected is None or ended is {"source": source, "destination": destination}[expected], (
        answer
    )
    assert scene.settle() is ended
    scene.assert_runs()
    scene.assert_nothing_left()
    entry = scene.journal(migration, source)
    assert (
        entry["state"] == ("succeeded" if ended is destination else "failed")
        and entry["left"] == []
    )
    # Once more: there is nothing to do, and nothing is done.
    (again,) = scene.call("recover", host=source, migration=migration)["migrations"]
    assert again["outcome"] == "ended"


# Those that are close to another one are for a long run: RECOVER_ALL=1.
CLOSE = (
    () if os.environ.get("RECOVER_ALL") else ("sync", "mirroring", "in-sync", "detached", "open")
)


@pytest.mark.parametrize("name", [name for name in MOMENTS if name not in CLOSE])
def test_worker_killed(scene, name):
    recover(scene, scene.begin_and_kill(MOMENTS[name]), end_of(name))


def test_worker_killed_at_random_moments(scene):
    chance = random.Random(SEED)
    for _ in range(RANDOM):
        after = chance.uniform(0.0, LONGEST)
        migration = scene.begin()
        if kill_worker(scene, migration, time.monotonic() + after):
            recover(scene, migration, None)
        else:
            scene.settle()


def test_a_second_migration_succeeds(scene):
    scene.moves()


def test_without_the_other_pool_it_waits(scene):
    """It takes back what is at the source, says what it waits for, and finishes later."""
    migration = scene.begin_and_kill(COPYING)
    there = scene.there
    there.kill("xapi")
    try:
        (answer,) = scene.call("recover", migration=migration)["migrations"]
        assert answer["outcome"] == "waiting" and "SXM_UNREACHABLE" in answer["why"], answer
        assert answer["left"]
        scene.wait_for_writes(20)
    finally:
        there.start_xapi()
        for pool in scene.lab.pools:
            pool.forget_session()
    recover(scene, migration, "source")


def test_no_password_is_said(scene):
    migration = scene.begin_and_kill(COPYING)
    os.unlink("%s/run/sxm/%s/remote.json" % (scene.host.root, migration))
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "waiting" and "remote-password" in answer["why"], answer
    given = {
        name: value
        for name, value in scene.arguments().items()
        if name in ("remote-username", "remote-password")
    }
    (answer,) = scene.call("recover", migration=migration, **given)["migrations"]
    assert answer["outcome"] == "taken back", answer
    scene.assert_runs()
    scene.assert_nothing_left()


def test_what_an_unknown_migration_answers(scene):
    with pytest.raises(XenAPI.Failure) as refused:
        scene.call("recover", migration="0" * 8 + "-0000-0000-0000-" + "0" * 12)
    assert refused.value.details[0] == "SXM_NO_SUCH_MIGRATION"
    assert scene.call("recover")["migrations"] == []
