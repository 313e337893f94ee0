# SPDX-License-Identifier: LGPL-2.1-only
"""A journal that cannot be written: the migration stays where it is, nothing is taken as done, the
guest goes on."""

import contextlib
import os
import signal

import pytest

from lab.dom0 import breakpoint, broken_disk
from lab.pools.topology import PoolPlan
from storage_motion.dom0.launch import Process
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import MOVE
from tests.eventually import never

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
REASONS = {
    "ENOSPC": "No space left on device",
    "EROFS": "Read-only file system",
    "EIO": "Input/output error",
}


@contextlib.contextmanager
def held(scene, moment):
    """Begin a migration, and hold its worker at a moment, with nothing more to be written at
    `host`: (migration, its worker)."""
    root = scene.host.root
    broken_disk.install(root)
    try:
        with breakpoint.held(root, MOMENTS[moment], scene.begin, scene.journal, MOVE) as migration:
            yield migration, Process.from_json(scene.journal(migration)["worker"])
    finally:
        broken_disk.end(root)


@pytest.mark.parametrize(
    "moment, fault", [("copying", "ENOSPC"), ("in-sync", "EROFS"), ("move", "EIO")]
)
def test_it_stays_where_it_is_until_there_is_room(scene, moment, fault):
    with held(scene, moment) as (migration, worker):
        before = scene.journal(migration)
        broken_disk.break_it(scene.host.root, fault)
        os.kill(worker.pid, signal.SIGCONT)
        assert worker.gone(MOVE)
        answer = scene.call("status", migration=migration)
        code, path, why = answer["error"]  # of the journal, or of what is kept beside it
        assert (code, why) == ("SXM_JOURNAL_NOT_WRITTEN", REASONS[fault])
        assert path.startswith("%s/var/lib/sxm/%s." % (scene.host.root, migration)), path
        assert (answer["state"], answer["alive"], answer["phase"]) == (
            "running",
            False,
            before["phase"],
        )
        api = scene.pool.xapi.task
        task = api.get_record(api.get_by_uuid(before["task"]))
        assert (task["status"], task["error_info"]) == ("failure", answer["error"])
        (recovered,) = scene.call("recover", migration=migration)["migrations"]
        assert recovered["outcome"] == "waiting" and "SXM_JOURNAL_NOT_WRITTEN" in recovered["why"]
        assert scene.record["power_state"] == "Running", "the guest has not noticed"
        scene.wait_for_writes(20)
    (recovered,) = scene.call("recover", migration=migration)["migrations"]
    assert recovered["outcome"] == "taken back", recovered
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.parametrize("moment", ["detached", "opening"])
def test_a_moment_without_room_while_the_guest_is_suspended(scene, moment):
    """Nothing opens that is not noted; as soon as there is room again all goes on."""
    with held(scene, moment) as (migration, worker):
        broken_disk.break_it(scene.host.root, "ENOSPC")
        before = scene.journal(migration)
        os.kill(worker.pid, signal.SIGCONT)
        never(
            lambda: scene.journal(migration) != before or not worker.alive(),
            "it does not wait for room",
            1.0,
        )
        broken_disk.mend(scene.host.root)
        assert scene.ended(migration)["state"] == "succeeded"
    scene.host = scene.there
    scene.assert_runs()
    scene.assert_nothing_left()


def test_a_destination_that_cannot_note_anything(scene):
    """The reason is what the user reads. That nothing of it may begin there any more cannot be
    noted either: it waits for a recovery."""
    with held(scene, "receive") as (migration, worker):
        broken_disk.install(scene.there.root)
        broken_disk.break_it(scene.there.root, "ENOSPC")
        try:
            os.kill(worker.pid, signal.SIGCONT)
            entry = scene.ended(migration)
        finally:
            broken_disk.end(scene.there.root)
    assert entry["error"][0] == "SXM_JOURNAL_NOT_WRITTEN" and scene.there.root in entry["error"][1]
    assert [
        text
        for text in entry["left"]
        if not text.startswith("undo receive: SXM_JOURNAL_NOT_WRITTEN")
    ] == []
    scene.assert_runs()
    (recovered,) = scene.call("recover", migration=migration, **scene.credentials())["migrations"]
    assert (recovered["outcome"], recovered["left"], recovered["error"]) == (
        "taken back",
        [],
        entry["error"],
    )
    scene.assert_nothing_left()
    scene.moves()
