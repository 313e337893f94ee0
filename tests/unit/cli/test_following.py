# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm watch`, `migrate` and `report`: several migrations, a pool that does not answer for a while,
and what it all ends with."""

import json
import os
import socket

import jinja2
import pytest

import report_sample
from fake_pool import failure
from storage_motion.api import report
from storage_motion.cli import exit_codes, following
from storage_motion.cli.report import answers, kept
from storage_motion.errors import CertificateMismatch
from storage_motion.journal import journal
from test_screen import disk, status

ENDED = dict(state="succeeded", alive=False, warnings=[], new_vm="n")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that passes only where somebody waits."""
    now = [1000.0]
    monkeypatch.setattr(following.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        following.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds)
    )
    return now


def told(migration, *states, **changes):
    """The answers of `status` for one, one after the other; the last one stays."""
    left = list(states)

    def answer():
        state = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(state, Exception):
            raise state
        known = dict(ENDED, migration=migration, copy=False, vm_name="vm " + migration)
        ended = dict(state=state, alive=state == "running")
        return dict(status(disk(verified=5), **known), **dict(ended, **changes))

    return answer


def plugin(**answers):
    """`status` of several migrations, by id, each of a VM that is called as its migration."""
    return lambda given: answers[given.get("migration") or given["vm"]]()


def test_it_is_followed_to_its_end(sxm):
    sxm.answers["status"] = plugin(m=told("m", "running", "running", "succeeded"))
    seen = sxm("watch", "m")
    assert seen.status == 0 and seen.out.splitlines()[-1] == "vm m: succeeded"
    assert len(sxm.asked) == 3, "once to find it, and then until its end"
    assert seen.out.count("succeeded") == 1


def test_several_are_watched_at_once_and_one_that_failed_is_told(sxm):
    error = ["SXM_MIRROR_BROKEN", "k", "why"]
    sxm.answers["status"] = plugin(
        a=told("a", "running", "running", "running", "succeeded"),
        b=told("b", "running", "failed", error=error),
    )
    seen = sxm("watch", "a", "b", "a")
    assert seen.status == exit_codes.SOME_FAILED
    assert seen.out.count("vm a: succeeded") == 1 and "SXM_MIRROR_BROKEN: k" in seen.err
    sxm.answers["status"] = plugin(
        a=told("a", "failed", error=error), b=told("b", "cancelled", error=error)
    )
    assert sxm("watch", "a", "b").status == exit_codes.FAILED
    answer = sxm("watch", "a", "b", "--json").document
    assert [one["migration"] for one in answer["migrations"]] == ["a", "b"]


def test_all_are_those_that_run(sxm):
    sxm.answers["list"] = {
        "migrations": [
            {"migration": "a", "state": "running"},
            {"migration": "b", "state": "succeeded"},
        ]
    }
    sxm.answers["status"] = plugin(a=told("a", "succeeded"))
    assert sxm("watch", "--all").status == 0
    sxm.answers["list"] = {"migrations": []}
    assert sxm("watch", "--all").out == "no migration runs\n"
    for words in (["watch"], ["watch", "a", "--all"]):
        assert sxm(*words).status == exit_codes.NOT_UNDERSTOOD


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connection refused"),
        failure("HOST_STILL_BOOTING"),
        failure("SESSION_INVALID", "s"),
        failure("SXM_NO_SUCH_MIGRATION", "m"),
        TimeoutError("timed out"),
    ],
)
def test_a_pool_that_does_not_answer_is_waited_for_and_that_is_told(sxm, error):
    sxm.answers["status"] = plugin(
        m=told("m", "running", "running", error, error, "running", "succeeded")
    )
    seen = sxm("watch", "m")
    assert seen.status == 0 and seen.out.splitlines()[-1] == "vm m: succeeded"
    assert seen.out.count("The pool does not answer") == 1


def test_but_not_for_ever(sxm, clock):
    sxm.answers["status"] = plugin(
        m=told("m", "running", "running", ConnectionRefusedError(111, "Connection refused"))
    )
    begun = clock[0]
    seen = sxm("watch", "m")
    assert seen.status == exit_codes.NO_CONNECTION and "SXM_UNREACHABLE" in seen.err
    assert following.AWAY_BOUND <= clock[0] - begun < following.AWAY_BOUND + 10


def test_one_that_was_never_there_is_not_waited_for(sxm):
    sxm.answers["status"] = plugin(m=told("m", failure("SXM_NO_SUCH_MIGRATION", "m")))
    assert sxm("watch", "m").status == exit_codes.NOT_UNDERSTOOD


def test_a_worker_that_died_and_is_not_followed_is_told(sxm):
    sxm.answers["status"] = plugin(m=told("m", "running", alive=False))
    seen = sxm("watch", "m")
    assert seen.status == exit_codes.FAILED and "SXM_WORKER_DIED" in seen.err


def test_what_it_warns_of_is_told_at_the_end(sxm):
    sxm.answers["status"] = plugin(m=told("m", "succeeded", warnings=["no HA"]))
    assert "sxm: warning: no HA" in sxm("watch", "m").err


def test_a_copy_tells_which_vm_it_is(sxm):
    sxm.answers["status"] = plugin(m=told("m", "succeeded", copy=True))
    assert "the copy is VM n" in sxm("watch", "m").out


@pytest.fixture
def answer(tmp_path, monkeypatch):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path / "dom0"))
    os.makedirs(str(tmp_path / "dom0"))
    return report_sample.answer()


def test_a_report_is_written_where_one_wants_it(sxm, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sxm.answers["report"] = answer
    seen = sxm("report", "vm=web")
    assert seen.status == 0 and seen.out == "web-11111111.html and web-11111111.json\n"
    assert ("paris", "report", {"vm": "web"}) in sxm.asked
    path = str(tmp_path / "x.html")
    assert sxm("report", "m", "n", "-o", path, "--title", "All", "--json").document == {
        "html": path,
        "json": str(tmp_path / "x.json"),
    }
    with open(path) as page, open(str(tmp_path / "x.json")) as document:
        assert "<h1>All" in page.read() and len(json.load(document)["reports"]) == 2
    assert sxm("report", "m", "-o", str(tmp_path / "none" / "x.html")).status == exit_codes.FAILED


def test_a_report_of_an_older_plugin_is_a_page_as_well(sxm, answer, tmp_path, monkeypatch):
    """`report`, and what `migrate` leaves."""
    monkeypatch.chdir(tmp_path)
    old = report_sample.of_first_version(answer)
    sxm.answers["report"] = old
    assert (sxm("report", "m").status, sxm("report", "m").err) == (0, "")
    with open("web-11111111.json") as source:
        (found,) = json.load(source)["reports"]
    verified = sum(disk["verified"] for disk in answer["disks"])
    assert verified > answer["bytes"]["sent"] > 0, "zeros were not told of"
    assert (found["bytes"]["sent"], found["bytes"]["zeros"]) == (verified, 0)
    assert found["sample_fields"] == answer["sample_fields"]
    sxm.answers.update(migrate={"migration": "m"}, status=plugin(m=told("m", "succeeded")))
    assert "warning" not in sxm("migrate", "vm=web").err


@pytest.mark.parametrize("version", [answers.VERSION + 1, None, "2"])
def test_a_report_of_a_newer_plugin_is_told_as_such(sxm, answer, tmp_path, monkeypatch, version):
    monkeypatch.chdir(tmp_path)
    sxm.answers.update(
        report=dict(answer, report=version),
        migrate={"migration": "m"},
        status=plugin(m=told("m", "succeeded")),
    )
    before = os.listdir(".")
    seen = sxm("report", "m")
    said = "of version %s, and this sxm knows 1 to %d" % (version, answers.VERSION)
    assert seen.status == exit_codes.FAILED and "SXM_OTHER_VERSION" in seen.err
    assert said in " ".join(seen.err.split()) and os.listdir(".") == before
    seen = sxm("migrate", "vm=web")
    assert seen.status == 0 and "no report is written: SXM_OTHER_VERSION" in seen.err


def test_nothing_is_written_of_what_no_page_can_be_made_of(sxm, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = dict(answer, bytes={})
    sxm.answers["report"] = broken
    before = os.listdir(".")
    assert sxm("report", "m").status == exit_codes.FAILED and os.listdir(".") == before


def test_the_plugin_answers_the_version_that_a_page_goes_by():
    assert report.VERSION == answers.VERSION


def test_the_name_of_a_vm_leads_to_no_other_folder(sxm, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sxm.answers["report"] = dict(answer, vm_name="../../etc/\x1b[2J passwd")
    assert sxm("report", "m").out.startswith("etc-2J-passwd-11111111.html and ")
    sxm.answers["report"] = dict(answer, vm_name="/../")
    assert sxm("report", "m").out.startswith("vm-11111111.html and ")


@pytest.mark.parametrize("state", [journal.SUCCEEDED, journal.FAILED])
def test_each_move_leaves_its_report_also_one_that_failed(sxm, answer, tmp_path, state):
    error = None if state == journal.SUCCEEDED else ["SXM_MIRROR_BROKEN", "k", "w"]
    sxm.answers.update(
        migrate={"migration": "m"}, status=plugin(m=told("m", state, error=error)), report=answer
    )
    seen = sxm("migrate", "vm=web")
    page = tmp_path / "data" / "sxm" / "reports" / "web-11111111.html"
    assert seen.status == (0 if error is None else exit_codes.FAILED)
    said = seen.err.replace("\n", "")
    assert "sxm: writing a report of how it went" in said.split("sxm: report: ")[0]
    assert "sxm: report: %s" % page in said and page.exists()


def test_no_report_is_a_warning_at_most(sxm, tmp_path):
    sxm.answers.update(migrate={"migration": "m"}, status=plugin(m=told("m", "succeeded")))
    seen = sxm("migrate", "vm=web")
    assert seen.status == 0 and "sxm: warning: no report is written: UNKNOWN" in seen.err
    assert "warning" not in sxm("migrate", "vm=web", "--no-report").err


@pytest.mark.parametrize(
    "error, said",
    [
        (KeyError("plan"), "KeyError: 'plan'"),
        (ImportError("no module"), "ImportError: no module"),
        (jinja2.UndefinedError("'x' is undefined"), "UndefinedError: 'x' is undefined"),
        (CertificateMismatch("a", "b"), "SXM_CERTIFICATE_MISMATCH: a, b"),
    ],
)
def test_whatever_is_wrong_with_a_report_the_end_is_the_migrations(
    sxm, answer, monkeypatch, error, said
):
    def fail(*_):
        raise error

    monkeypatch.setattr(kept, "write", fail)
    sxm.answers.update(
        migrate={"migration": "m"}, status=plugin(m=told("m", "succeeded")), report=answer
    )
    seen = sxm("migrate", "vm=web")
    assert seen.status == 0 and "no report is written: %s" % said in seen.err
    sxm.answers["status"] = plugin(m=told("m", "failed", error=["SXM_MIRROR_BROKEN", "k"]))
    seen = sxm("migrate", "vm=web")
    assert seen.status == exit_codes.FAILED and "sxm: SXM_MIRROR_BROKEN: k" in seen.err


@pytest.mark.parametrize("code", ["SXM_REFUSED", "SXM_UNREACHABLE", "SXM_BAD_CREDENTIALS"])
def test_one_that_was_begun_is_not_told_as_one_that_changed_nothing(sxm, code):
    sxm.answers["status"] = plugin(m=told("m", "failed", error=[code, "why"]))
    seen = sxm("watch", "m")
    assert seen.status == exit_codes.FAILED and seen.err == "sxm: %s: why\n" % code
    assert sxm("watch", "m", "--json").document["error"]["what to do"] is None


def test_a_json_of_somebody_else_is_not_replaced(sxm, answer, tmp_path):
    sxm.answers["report"] = answer
    page, beside = tmp_path / "x.html", tmp_path / "x.json"
    for text in ("{}", "no JSON", '{"reports": []}', "[]"):
        beside.write_text(text)
        seen = sxm("report", "m", "-o", str(page))
        assert seen.status == exit_codes.NOT_UNDERSTOOD and "x.json is there" in seen.err
        assert beside.read_text() == text and not page.exists()
    beside.unlink()
    for _ in range(2):
        assert sxm("report", "m", "-o", str(page)).status == 0, "our own is"


@pytest.mark.parametrize(
    "slow", [socket.timeout("timed out"), failure("SXM_TIMED_OUT", "cancel of m", "180")]
)
def test_a_cancel_that_takes_longer_is_watched_until_its_end(sxm, slow):
    def cancel(_):
        raise slow

    error = ["SXM_CANCELLED", "m"]
    sxm.answers.update(
        cancel=cancel, status=plugin(m=told("m", "running", "running", "cancelled", error=error))
    )
    seen = sxm("cancel", "m")
    assert seen.status == 0 and seen.out.splitlines()[-1] == "cancelled"
    sxm.answers["status"] = plugin(m=told("m", "running", "succeeded"))
    assert sxm("cancel", "m").status == exit_codes.REFUSED
    sxm.answers["cancel"] = lambda _: (_ for _ in ()).throw(failure("SXM_TOO_LATE", "m", "end"))
    assert sxm("cancel", "m").status == exit_codes.REFUSED
