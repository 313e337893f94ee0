# SPDX-License-Identifier: LGPL-2.1-only
"""How far a migration is shown to be."""

import pytest

from fake_migration import make_plan
from storage_motion.journal import course
from storage_motion.migration import progress

ID = "11111111-2222-3333-4444-555555555555"


class Task:
    def __init__(self):
        self.shown = []

    def progress(self, fraction):
        self.shown.append(round(fraction, 4))


@pytest.fixture
def reporting(tmp_path, monkeypatch):
    """(what takes a status of the mover and reports, the task)"""
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    plan = make_plan()
    (first,) = plan.disks
    plan = plan._replace(
        disks=[first._replace(key="k", data=100), first._replace(key="l", data=100)]
    )
    task = Task()
    disks = {"k": {"index": 0}, "l": {"index": 1}}
    shown = progress.Progress(ID, task, plan, disks, course.Course(ID, 2))

    def report(key, **copy):
        shown.take(key, {"copy": copy})
        shown.report(force=True)

    return report, task


def test_it_does_not_go_back_when_the_size_of_the_second_disk_becomes_known(reporting):
    report, task = reporting
    report("k", to_copy=100, copied=100)
    report("l", to_copy=900, copied=0)
    report("l", to_copy=900, copied=400)
    report("l", to_copy=900, copied=900)
    assert task.shown == [0.495, 0.495, 0.495, 0.99]


def test_nor_when_a_mirror_is_made_anew(reporting):
    report, task = reporting
    report("k", to_copy=100, copied=80)
    report("k", to_copy=100, copied=0)
    assert task.shown == [0.396, 0.396]
