# SPDX-License-Identifier: LGPL-2.1-only
"""A report that is sent in tells no names and no addresses, unless its user wants that."""

import json

import pytest

from cli_world import Sxm
from fake_pool import add_vdi, make_pool
from storage_motion.cli import pools
from storage_motion.cli.selftest import report
from storage_motion.cli.selftest.report import Result
from storage_motion.cli.selftest.subject import Place

SECRET = "hunter2"
SOFTWARE = {"product_version": "8.3.0", "hostname": "p1.example.com", "xapi_build": "26.1"}


@pytest.fixture
def paris():
    found = make_pool("paris", ["p1", "p2"], shared=True)
    for host in found.tables["host"].values():
        host["software_version"] = SOFTWARE
    sr = next(iter(found.tables["SR"]))
    add_vdi(found, sr, name_label="payroll 2026")
    sxm = Sxm(paris=found)
    sxm.answers["installed"] = {"version": "0.1.0", "driver_version": "0.1.0", "blktap": "3.55"}
    return pools.Pool(pools.Known("paris", "10.0.0.1"), found, SECRET)


def results(pool):
    """One that held, and one that failed with all sorts of names."""
    sr = pool.records().all("SR")
    places = [Place("paris", record["uuid"]) for record in list(sr.values())[:2]]
    good, bad = Result("move, halted", places, "ok"), Result("move, running", places, "failed")
    good.seconds, good.bytes, good.checksum = 4.25, 12 << 20, "equal"
    bad.error = [
        "SXM_UNREACHABLE",
        "https://10.1.0.1:443 from p1 and fe80:0:0:1::2, for payroll 2026 on p2-sr of paris",
    ]
    return [good, bad]


def written(pool, names):
    """(the document, its text)"""
    found = report.document("0123abcd", [pool], results(pool), {"look": "made"}, False, names)
    return found, report.text(found) + json.dumps(found)


def test_without_names(paris):
    found, told = written(paris, False)
    for name in ("p1", "p2", "paris", "payroll", "10.1.0.1", "10.0.0.1", "fe80", "example", SECRET):
        assert name not in told
    assert found["steps"][1]["error"] == [
        "SXM_UNREACHABLE",
        "https://(address) from (name) and (address), for (name) on (name) of (name)",
    ]
    (pool,) = found["pools"]
    assert pool["name"] == "pool 1"
    assert [host["name"] for host in pool["hosts"]] == ["host 1.1", "host 1.2"]
    assert pool["hosts"][0]["product_version"] == "8.3.0"
    assert pool["hosts"][0]["storage_xenmotion"]["blktap"] == "3.55"
    assert len(pool["srs"]) == 2 and pool["srs"][0]["type"] == "ext"


def test_with_names(paris):
    found, told = written(paris, True)
    assert "10.1.0.1" in told and "payroll 2026" in told and "p1-sr" in told
    assert SECRET not in told and "example" not in told


def test_the_text_has_a_line_for_each_step(paris):
    _, told = written(paris, False)
    lines = told.splitlines()
    assert "NOT EVERY STEP HELD." in lines
    (good,) = [line for line in lines if line.startswith("ok ")]
    assert "move, halted: SR 1." in good and good.endswith("(disks equal, 12.0 MiB, 4.2 s)")
    assert "left out     look: made" in told
