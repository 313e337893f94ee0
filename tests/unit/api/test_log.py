# SPDX-License-Identifier: LGPL-2.1-only
"""`log` answers what this host's log has of one migration: bounded, with tracebacks, of old files
too."""

import gzip
import os

import pytest

from api_world import pool  # noqa: F401
from storage_motion.api import functions, log
from storage_motion.errors import NoSuchMigration

ID = "0f0e0d0c-0000-4000-8000-000000000001"
OTHER = "0f0e0d0c-0000-4000-8000-000000000002"


def line(second, text, by="worker"):
    return "2026-11-27T10:00:%02d.000Z %s[7] INFO %s\n" % (second, by, text)


@pytest.fixture
def logs(pool, tmp_path):
    (tmp_path / "var/log").mkdir(parents=True)
    return tmp_path / "var/log"


def ask(pool):
    return functions.call("log", pool, {"migration": ID})


def test_only_its_lines_with_their_tracebacks(pool, logs):
    (logs / "sxm.log").write_text(
        "torn line\n"
        + line(1, "%s: begun" % ID)
        + line(2, "%s: another" % OTHER)
        + "  its traceback\n"
        + line(3, "%s: failed" % ID)
        + "Traceback:\n  here\n"
    )
    answer = ask(pool)
    assert [(one["time"][17:19], one["text"]) for one in answer["lines"]] == [
        ("01", "%s: begun" % ID),
        ("03", "%s: failed\nTraceback:\n  here" % ID),
    ]
    assert not answer["cut"] and answer["lines"][0]["by"] == "worker"


def test_what_logrotate_has_put_away_comes_first(pool, logs):
    with gzip.open(str(logs / "sxm.log.2.gz"), "wt") as stream:
        stream.write(line(1, ID + ": one"))
    (logs / "sxm.log.1").write_text(line(2, ID + ": two"))
    (logs / "sxm.log").write_text(line(3, ID + ": three"))
    for age, name in enumerate(("sxm.log", "sxm.log.1", "sxm.log.2.gz")):
        os.utime(str(logs / name), (1000 - age, 1000 - age))
    assert [one["text"][38:] for one in ask(pool)["lines"]] == ["one", "two", "three"]


def test_one_that_logrotate_removes_just_now_is_passed_over(pool, logs, monkeypatch):
    (logs / "sxm.log").write_text(line(2, ID + ": two"))
    with gzip.open(str(logs / "sxm.log.2.gz"), "wt") as stream:
        stream.write(line(1, ID + ": one"))
    listed = log.glob.glob

    def rotated(pattern):
        return listed(pattern) + [str(logs / "sxm.log.9")]  # which is removed just now

    monkeypatch.setattr(log.glob, "glob", rotated)
    os.utime(str(logs / "sxm.log.2.gz"), (1, 1))
    assert [one["text"][38:] for one in ask(pool)["lines"]] == ["one", "two"]


def test_one_that_is_just_being_packed_is_read_as_far_as_it_is(pool, logs):
    whole = gzip.compress(line(1, ID + ": one").encode() * 50)
    (logs / "sxm.log.2.gz").write_bytes(whole[: len(whole) // 2])
    (logs / "sxm.log").write_text(line(2, ID + ": two"))
    assert ask(pool)["lines"][-1]["text"].endswith(": two")


def test_it_is_bounded_and_says_so(pool, logs, monkeypatch):
    monkeypatch.setattr(log, "LINES", 2)
    monkeypatch.setattr(log, "LENGTH", 60)
    (logs / "sxm.log").write_text("".join(line(one, ID + " " + "x" * 99) for one in range(5)))
    answer = ask(pool)
    assert answer["cut"] and [one["time"][17:19] for one in answer["lines"]] == ["03", "04"]
    assert {len(one["text"]) for one in answer["lines"]} == {60}


def test_no_log_is_no_lines_and_no_id_is_refused(pool):
    assert ask(pool)["lines"] == []
    with pytest.raises(NoSuchMigration):
        functions.call("log", pool, {"migration": "../../etc/shadow"})
