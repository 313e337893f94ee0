# SPDX-License-Identifier: LGPL-2.1-only
"""Both SRs are scanned by xapi before anything is judged by its records, and who is at them is
waited for."""

import pytest

from fake_pool import by_name, failure, uuid_of
from plan_world import World
from storage_motion.api.arguments import Problems
from storage_motion.plan import up_to_date
from storage_motion.xapi import tasks
from storage_motion.xapi.records import Records


class Scans(World):
    """`ends`: name of an SR -> how its scan ends: (status, error). `scanned`: names, in order."""

    def __init__(self, monkeypatch):
        super(Scans, self).__init__()
        self.ends, self.scanned, self.cancelled, self.now = {}, [], [], 0.0
        for pool in (self.a, self.b):
            for sr in pool.tables["SR"].values():
                sr["current_operations"] = {}
            pool.handlers["Async.SR.scan"] = lambda sr, pool=pool: self._begin(pool, sr)
            pool.handlers["task.cancel"] = self.cancelled.append
        for module in (up_to_date.waiting.time, tasks.time):
            monkeypatch.setattr(module, "sleep", self._sleep)
            monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.later = lambda: None

    def _sleep(self, seconds):
        self.now += seconds
        self.later()

    def _begin(self, pool, sr):
        name = pool.tables["SR"][sr]["name_label"]
        self.scanned.append(name)
        status, error = self.ends.get(name, ("success", []))
        return pool.add("task", status=status, error_info=error, result="")

    def scan(self, within=False, **changes):
        plan, wrong = (self.within if within else self.cross)(**changes)
        assert wrong == []
        problems, source = Problems(), Records(self.a)
        other = source if within else Records(self.b)
        return up_to_date.scan(source, other, plan, problems), problems.details


@pytest.fixture
def world(monkeypatch):
    return Scans(monkeypatch)


def test_each_sr_is_scanned_once(world):
    assert world.scan() == ([], []) and world.scanned == ["a1-sr", "b1-sr"]


def test_within_a_pool_an_sr_that_disks_leave_and_come_to_is_scanned_once(world):
    shared = by_name(world.a, "SR", "shared")
    world.a.tables["VDI"][world.vdis[1]]["SR"] = shared
    given = {
        "vdi:" + world.vdi(0): uuid_of(world.a, "SR", shared),
        "vdi:" + world.vdi(1): uuid_of(world.a, "SR", world.sr),
    }
    assert world.scan(within=True, **given) == ([], [])
    assert sorted(world.scanned) == ["a1-sr", "shared"]


def test_a_scan_that_fails_is_named_with_what_sm_says(world):
    world.ends["a1-sr"] = ("failure", ["SR_BACKEND_FAILURE_40", "", "The SR scan failed", ""])
    warnings, problems = world.scan()
    assert warnings == [] and world.scanned == ["a1-sr", "b1-sr"], (
        "all that is wrong is told at once"
    )
    (problem,) = problems
    assert (
        problem.startswith("vdi:") and "a1-sr) cannot be scanned: SR_BACKEND_FAILURE_40" in problem
    )


def test_who_is_at_an_sr_is_waited_for(world):
    record = world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")]
    record["current_operations"] = {"OpaqueRef:task": "vdi_create"}

    def later():
        if world.now > 20:
            record["current_operations"] = {}

    world.later = later
    assert world.scan() == ([], []) and world.scanned == ["a1-sr", "b1-sr"] and 20 < world.now < 60


def test_who_stays_at_it_is_told_and_nothing_is_scanned(world):
    """xapi would wait for two hours."""
    record = world.b.tables["SR"][by_name(world.b, "SR", "b1-sr")]
    record["current_operations"] = {"OpaqueRef:task": "vdi_create"}
    (warning,), problems = world.scan()
    assert problems == [] and world.scanned == ["a1-sr"] and world.now < 70
    assert "b1-sr) could not be scanned (vdi_create)" in warning


@pytest.mark.parametrize(
    "ends, why",
    [
        (
            ("failure", ["OTHER_OPERATION_IN_PROGRESS", "SR", "r", "vdi_create", "t"]),
            "OTHER_OPERATION",
        ),
        (("cancelled", []), "cancelled"),
        (("pending", []), "no end within 300 s"),
    ],
)
def test_a_scan_that_others_keep_from_its_end_is_told(world, ends, why):
    """Pending: of those who came between our look and the scan xapi waits for the end."""
    world.ends["a1-sr"] = ends
    (warning,), problems = world.scan()
    assert problems == [] and why in warning and len(world.cancelled) == (ends[0] == "pending")


def test_a_task_that_cannot_be_cancelled_any_more_is_left(world):
    def refuse(task):
        raise failure("TASK_CANCELLED", task)

    world.ends["a1-sr"] = ("pending", [])
    world.a.handlers["task.cancel"] = refuse
    (warning,), problems = world.scan()
    assert problems == [] and "no end within" in warning
