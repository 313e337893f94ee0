# SPDX-License-Identifier: LGPL-2.1-only
"""A migration keeps to the bandwidth that it was given, and to another one that it is given while
it runs. Meanwhile somebody watches it on a terminal, and reads its report afterwards."""

import json
import os
import re
import sys
import time

import lxml.html
import pytest
import XenAPI

from lab.pools.topology import PoolPlan
from storage_motion.cli import main
from tests import browser
from tests.eventually import eventually
from tests.terminal import Terminal

MIB = 1 << 20
DISKS = (64 * MIB,)
PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
# A window that goes at once, what may be made up for, and what goes while somebody looks.
AT_ONCE = 2 * MIB
PATIENCE = 120.0
PHASES = ["claim", "receive", "sync", "remap", "move", "complete", "clean-up", "end"]
LINE = re.compile(
    r"^  xvda .*[━─]{10,} +\d+% +[\d.]+/[\d.]+ MiB +[\d.]+ [KM]iB/s +\S.* on(, [\d.]+ m?s)?$"
)


@pytest.fixture
def sxm(scene, tmp_path, monkeypatch):
    """The words with which `sxm` is called on an administrator's machine."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    password = tmp_path / "password"
    password.write_text(scene.pool.password + "\n")
    return ["-s", scene.pool.url, "--password-file", str(password)]


def test_it_is_kept_to_and_changed_while_it_runs(scene, sxm, tmp_path):
    began = time.monotonic()
    migration = scene.begin(**dict(scene.arguments(), bandwidth="2MiB"))
    source = scene.host
    words = [sys.executable, "-m", "storage_motion.cli.main"] + sxm + ["watch", migration]

    def status():
        return scene.call("status", source, migration=migration)

    def sent():
        found = status()
        return sum(disk["copied"] + disk["mirrored_bytes"] for disk in found["disks"])

    with Terminal(words, XDG_CONFIG_HOME=str(tmp_path)) as terminal:
        eventually(lambda: status()["disks"][0]["copied"], "it copies", PATIENCE)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert sent() <= AT_ONCE + 2 * MIB * (time.monotonic() - began)
        eventually(
            lambda: any(map(LINE.match, terminal.lines())),
            "its disk with its speed",
            PATIENCE,
            seen=lambda: "\n".join(terminal.lines()),
        )
        assert status()["bandwidth"] == 2 * MIB and status()["state"] == "running"
        with pytest.raises(XenAPI.Failure) as raised:
            scene.call("limit", source, migration=migration, bandwidth="quick")
        assert raised.value.details[0] == "SXM_BAD_ARGUMENTS"
        assert scene.call("limit", source, migration=migration, bandwidth="0")["bandwidth"] == 0
        entry = scene.ended(migration, source)
        assert entry["state"] == "succeeded", entry["error"]
        eventually(
            lambda: terminal.status() is not None, "the watch's end", PATIENCE, seen=terminal.story
        )
        ended = terminal.lines()
        assert terminal.status() == 0, ended
        assert any("succeeded; the guest stood still for" in line for line in ended), ended
    assert status()["bandwidth"] == 0 and sent() > 10 * MIB
    _read_report(sxm, migration, tmp_path)
    scene.settle()
    scene.assert_runs()
    scene.assert_nothing_left()
    with pytest.raises(XenAPI.Failure) as raised:
        scene.call("limit", source, migration=migration, bandwidth="1MiB")
    assert raised.value.details[0] == "SXM_NOT_RUNNING"


def _assert_kept_to(report, rows):
    """By what was sent and mirrored between any two samples, the first byte of the copy among
    them, for as long as the limit was."""
    first, then = report["timeline"]["limits"]
    assert (first["bandwidth"], then["bandwidth"]) == (2 * MIB, 0)
    fields = report["sample_fields"]
    seen = [dict(zip(fields, row)) for row in rows]
    begun = report["timeline"]["disks"][0]["states"][0]["begun"]
    seen.insert(0, dict.fromkeys(fields, 0) | {"time": begun})
    seen = [one for one in seen if one["time"] <= first["ended"]]
    assert len(seen) > 6
    for at, one in enumerate(seen):
        for other in seen[at + 1 :]:
            went = sum(other[name] - one[name] for name in ("sent", "mirrored_bytes"))
            lasted = other["time"] - one["time"]
            assert went <= 1.05 * 2 * MIB * lasted + AT_ONCE, (lasted, went / MIB)


def _read_report(sxm, migration, folder):
    pictures = os.environ.get("SXM_PICTURES")  # for who wants to see it, and for docs/report.png
    path = os.path.join(pictures or str(folder), "report.html")
    assert main.main(sxm + ["report", migration, "-o", path]) == 0
    with open(path.replace(".html", ".json")) as source:
        (report,) = json.load(source)["reports"]
    phases = [span["name"] for span in report["timeline"]["phases"]]
    assert [name for name in phases if name in PHASES] == PHASES
    (disk,) = report["timeline"]["disks"]
    assert [span["state"] for span in disk["states"]] == ["mirroring", "copying", "in-sync"]
    assert [gate["step"] for gate in disk["gates"]][-1] == "open"
    assert 0 < report["pause"]["storage"] <= report["pause"]["all"] + 0.1
    (rows,) = report["samples"].values()
    first, last = (dict(zip(report["sample_fields"], rows[at])) for at in (0, -1))
    assert len(rows) >= 6 and last["sent"] > first["sent"]
    _assert_kept_to(report, rows)
    assert 0 < last["waited"] / last["mirrored_writes"] < 1
    assert 0 < max(row[-1] for row in rows) < 5
    parts = [report["bytes"][name] for name in ("sent", "zeros", "skipped", "found", "sparse")]
    assert sum(parts) == report["bytes"]["size"]
    with open(path, encoding="utf-8") as source:
        page = lxml.html.fromstring(source.read())
    assert {one.get("class") for one in page.xpath("//figure")} == {
        *("timeline", "copy", "mirror", "latency", "bytes")
    }
    if pictures:
        with browser.Browser() as shown:
            shown.open(path)
            shown.show(1000)
            shown.picture(os.path.join(pictures, "report.png"))
