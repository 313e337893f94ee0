# SPDX-License-Identifier: LGPL-2.1-only
"""xapi is restarted in mid-copy, in either pool, by its service or by a crash: a pause of the
control plane, and nothing more.

Nothing of the pools' databases is at stake here: they are on disk before.
"""

import contextlib
import os
import signal

import pytest

from lab.pools.host import Host
from lab.pools.link import Link
from lab.pools.topology import PoolPlan
from storage_motion.dom0.launch import Process
from tests.e2e.scene import MIB
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = (4 * MIB, 24 * MIB)
RATE = 1 * MIB  # bytes a second
SILENT, BACK = "does not answer", "answers again"
PATIENCE = 60.0


def copying(entry):
    """Whether the second disk is being copied, by its journal."""
    return sorted(disk["state"] for disk in entry["disks"].values()) == ["copying", "in-sync"]


class Log:
    """What is written to the log of a host from now on."""

    def __init__(self, host):
        self._path = host.root + "/var/log/sxm.log"
        self._from = os.path.getsize(self._path) if os.path.exists(self._path) else 0

    def lines(self, part):
        """The lines with `part` in them."""
        with open(self._path) as stream:
            stream.seek(self._from)
            return [line for line in stream if part in line]

    def wait_for(self, part):
        """Until there is one."""
        eventually(lambda: self.lines(part), "%r in the log" % part, PATIENCE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize(
    "end", [lambda host: host.kill("xapi"), Host.stop_xapi], ids=["killed", "terminated"]
)
def test_xapi_is_restarted_in_mid_copy(lab, scene, side, end):
    host, log = scene.host if side == "source" else scene.there, Log(scene.host)
    api = scene.pool.xapi
    with Link(lab.hosts) as link:
        link.limit(RATE)
        migration = scene.begin()
        before = scene.until(migration, copying)
        for pool in lab.pools:
            pool.xapi.pool.sync_database()
        end(host)
        if side == "destination":
            link.heal()  # nobody needs it before all is copied
        log.wait_for(SILENT)
        assert scene.journal(migration)["state"] == "running"
        scene.wait_for_writes(5)
        host.start_xapi()
        link.heal()
        entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    assert entry["tries"] == before["tries"], "no mirror was broken by it"
    assert len(log.lines(SILENT)) == len(log.lines(BACK)) == 1, log.lines("xapi at")

    def shown():
        return [
            task
            for task in api.task.get_all_records().values()
            if task["other_config"].get("sxm_migration") == migration
        ]

    # the journal has it before the task
    eventually(lambda: shown()[0]["status"] != "pending", "its task ends", PATIENCE, seen=shown)
    (task,) = shown()
    assert task["status"] == "success", task
    assert task["uuid"] == entry["task"]
    assert (entry["task"] != before["task"]) == (side == "source"), (
        "tasks do not outlive their xapi"
    )
    scene.host = scene.there
    scene.assert_runs()
    scene.assert_nothing_left()


def preparing(scene, migration):
    """The plugin of the destination stands still, a disk being made: its process."""

    def stopped():
        made = [disk.get("destination_vdi") for disk in scene.journal(migration)["disks"].values()]
        assert not any(made), "it has prepared already"
        with contextlib.suppress(FileNotFoundError):
            entry = scene.journal("receive-" + migration, scene.there)
            if entry["disks"]:
                plugin = Process.from_json(entry["busy"])
                os.kill(plugin.pid, signal.SIGSTOP)
                return plugin

    return eventually(stopped, "a disk is being made", PATIENCE, poll=0.002)


@pytest.mark.timeout(600)
def test_the_destinations_xapi_is_killed_while_it_prepares(lab, scene):
    """Its answer is lost: whether it has made the disks nobody knows. It is asked again."""
    host, log = scene.there, Log(scene.host)
    migration = scene.begin()
    plugin = preparing(scene, migration)
    try:
        host.kill("xapi")
        log.wait_for("its answer is lost")
        host.start_xapi()
    finally:
        os.kill(plugin.pid, signal.SIGCONT)
    for pool in lab.pools:
        pool.forget_session()
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    assert len(log.lines("its answer is lost")) == 1
    scene.host = scene.there
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
def test_the_pools_task_is_cancelled(lab, scene):
    """`xe task-cancel`, and XenCenter's button: xapi only notes it."""
    api = scene.pool.xapi
    with Link(lab.hosts) as link:
        link.limit(RATE)
        migration = scene.begin()
        task = api.task.get_by_uuid(scene.until(migration, copying)["task"])
        api.task.cancel(task)
        assert api.task.get_status(task) in ("pending", "cancelled")
        entry = scene.ended(migration)
        link.heal()
    assert (entry["state"], entry["error"]) == ("cancelled", ["SXM_CANCELLED", migration])
    # the journal is the first to know
    eventually(lambda: api.task.get_status(task) == "cancelled", "the task has ended", PATIENCE)
    scene.assert_runs()
    scene.assert_nothing_left()
