# SPDX-License-Identifier: LGPL-2.1-only
"""What `fn=report` answers of a migration: all that a report needs, bounded, and no secret."""

import json

import pytest

import report_sample
from api_world import begin, pool  # noqa: F401
from fake_migration import ID
from storage_motion.api import commands, report
from storage_motion.journal import course, journal
from storage_motion.plan.plan import Snapshot

GIB = 1 << 30


@pytest.fixture(autouse=True)
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))


def test_it_has_plan_timeline_samples_and_outcome():
    answer = report_sample.answer()
    assert answer["report"] == report.VERSION and answer["state"] == "succeeded"
    root, data = answer["plan"]["disks"]
    assert (root["vdi"], root["source_sr_name"], root["mirrored"]) == (
        "root-disk",
        "old array",
        True,
    )
    phases = answer["timeline"]["phases"]
    assert [span["name"] for span in phases] == list(report_sample.PHASES)
    sync = phases[3]
    assert sync["title"] == "copying and mirroring the disks"
    assert sync["ended"] - sync["begun"] == pytest.approx(54.6)
    assert phases[-1]["ended"] == answer["ended"]
    states = answer["timeline"]["disks"][1]["states"]
    assert [span["state"] for span in states] == ["mirroring", "copying", "in-sync"]
    assert [gate["step"] for gate in answer["timeline"]["disks"][0]["gates"]][-1] == "open"
    assert answer["sample_fields"] == list(course.SAMPLE)
    assert len(answer["samples"]["data-disk"]) > 50
    assert answer["pause"] == {"all": 0.412, "storage": pytest.approx(0.37)}
    assert answer["hosts"]["source"] == {"product_brand": "XCP-ng", "product_version": "8.3.0"}
    assert answer["hosts"]["destination"] is None, "of another pool"
    assert answer["warnings"] == ["HA of the other pool is off", "messages were not brought"]


def test_the_bytes_of_a_disk_add_up_to_its_size():
    answer = report_sample.answer()
    for disk in answer["disks"]:
        parts = [disk[name] for name in ("sent", "zeros", "skipped", "found", "of_base", "sparse")]
        assert sum(parts) == disk["size"], disk
    assert answer["bytes"]["size"] == 28 * GIB
    assert answer["bytes"]["sent"] == sum(disk["sent"] for disk in answer["disks"])
    assert answer["bytes"]["sent"] == answer["bytes"]["verified"] - answer["bytes"]["zeros"] > 0


def test_it_tells_when_which_bandwidth_was_given():
    entry = report_sample.begin().entry
    with open(course.path(ID), "w") as out:
        out.write('["bandwidth", 20, null, 6291456]\n["bandwidth", 30, null, 0]\n')
    limits = report.of(dict(entry, updated=40.0), report_sample.session())["timeline"]["limits"]
    assert limits == [
        {"bandwidth": 6 << 20, "begun": 20, "ended": 30},
        {"bandwidth": 0, "begun": 30, "ended": 40.0},
    ]


def test_so_they_do_where_some_was_there_already_and_with_a_base():
    plan = report_sample.plan()
    disks = [plan.disks[0], plan.disks[1]._replace(base="other", snapshot="s")]
    entry = report_sample.begin(
        plan._replace(disks=disks[:1], history=disks[1:], snapshots=[Snapshot("s", "n", True)])
    ).entry
    # taken up again: all of it is compared, and what an earlier try has brought is found
    entry["disks"]["root-disk"].update(
        to_copy=8 * GIB, verified=GIB, zeros=0, skipped=0, same=7 * GIB, saved=3 * GIB, given_up=1
    )
    answer = report.of(entry, report_sample.session())
    first, second = answer["disks"] + answer["snapshots"]
    assert (first["found"], first["sparse"], first["of_base"]) == (3 * GIB, 4 * GIB, 0)
    assert (second["sparse"], second["of_base"]) == (0, second["size"] - second["to_copy"])
    for disk in (first, second):
        parts = [disk[name] for name in ("sent", "zeros", "skipped", "found", "of_base", "sparse")]
        assert sum(parts) == disk["size"], disk


def test_one_that_runs_has_no_end_and_without_a_course_there_is_no_timeline(pool):
    begin()
    answer = commands.report_of(pool, {"migration": ID})
    assert answer["ended"] is None and answer["state"] == "running"
    assert answer["timeline"]["phases"] == [] and answer["samples"] == {"k": []}
    assert answer["pause"] == {"all": None, "storage": None}
    with open(course.path(ID), "w") as out:
        out.write('["phase", 12.5, null, "claim"]\n["phase", 13, null, "undo claim"]\n')
    claimed, undone = commands.report_of(pool, {"migration": ID})["timeline"]["phases"]
    assert (claimed["begun"], claimed["ended"]) == (12.5, 13.0)
    assert (undone["title"], undone["ended"]) == ("taking back: claiming the VM", None)


def test_a_clock_that_goes_back_makes_no_time_that_is_less_than_nothing():
    entry = report_sample.begin().entry
    with open(course.path(ID), "w") as out:
        out.write('["phase", 20, null, "claim"]\n["phase", 10, null, "sync"]\n')
    spans = report.of(dict(entry, updated=5.0), report_sample.session())["timeline"]["phases"]
    assert [span["ended"] - span["begun"] for span in spans] == [0, 0]


def test_it_is_bounded_by_leaving_samples_out():
    answer = report_sample.answer()
    before = {key: rows[-1] for key, rows in answer["samples"].items()}
    smaller = report.bounded(answer, len(json.dumps(answer)) // 2)
    assert len(json.dumps(smaller)) <= len(json.dumps(answer))
    assert len(smaller["samples"]["root-disk"]) > 10
    assert {key: rows[-1][:-1] for key, rows in smaller["samples"].items()} == {
        key: row[:-1] for key, row in before.items()
    }
    assert {len(rows) for rows in report.bounded(answer, 0)["samples"].values()} == {1}


def test_nothing_that_may_be_secret_is_in_it():
    plan = report_sample.plan()
    secret = "hush-4711"
    disks = [
        disk._replace(other_config={"k": secret}, xenstore_data={"k": secret})
        for disk in plan.disks
    ]
    answer = report_sample.answer(plan._replace(disks=disks))
    assert secret not in json.dumps(answer)


def test_one_that_failed_tells_why():
    answer = report_sample.answer(
        state=journal.FAILED,
        error=["SXM_MIRROR_BROKEN", "k", "why"],
        left=["sync: x"],
        downtime=None,
    )
    assert (answer["error"], answer["left"]) == (["SXM_MIRROR_BROKEN", "k", "why"], ["sync: x"])
