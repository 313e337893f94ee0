# SPDX-License-Identifier: LGPL-2.1-only
"""With --json every command answers with one JSON document on standard output, and nothing else,
whether it does what it is asked for or not; and the version in words."""

import os
import socket

import pytest

import report_sample
import storage_motion
from fake_pool import failure
from storage_motion.cli import certificates, exit_codes, following, main
from test_planned import ANSWER
from test_screen import disk, status

ID = "11111111-2222-4333-8444-555555555555"
ENDED = dict(
    status(disk(state="moved", copied=0)),
    migration=ID,
    state="succeeded",
    vm="v",
    source_host="p1",
    destination_host="p2",
    started=1.0,
    updated=2.0,
    copy=False,
    new_vm="",
    left=[],
    warnings=[],
    alive=False,
)
ANSWERS = {
    "list": {"migrations": [], "unreadable": []},
    "status": ENDED,
    "cancel": {"migration": ID, "state": "cancelled"},
    "resume": {"migration": ID},
    "limit": {"migration": ID, "bandwidth": 1 << 20},
    "recover": {"migrations": []},
    "help": {"version": "1", "functions": {}},
}
# {command: (its words, a part of its answer)}
WORDS = {
    "plan": (["vm=web"], "estimates"),
    "migrate": (["vm=web"], "migration"),
    "evacuate": (["--sr", "p1-sr", "--to-sr", "shared", "--dry-run"], "totals"),
    "list": ([], "migrations"),
    "show": ([ID], "migration"),
    "watch": ([ID], "migration"),
    "report": ([ID, "-o", "page.html"], "html"),
    "cancel": ([ID], "state"),
    "resume": ([ID], "migration"),
    "recover": ([], "migrations"),
    "limit": ([ID, "1MiB"], "bandwidth"),
    "doctor": ([], "findings"),
    "selftest": (["--clean", "--yes"], "found"),
    "trust": (["paris"], "sha256"),
    "help": ([], "functions"),
}
FAILED = dict(ENDED, state="failed", error=["SXM_MIRROR_BROKEN", "k", "why"])


@pytest.fixture
def world(sxm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(following, "POLL", 0)
    monkeypatch.setattr(certificates, "shown", lambda url: "ab" * 32)
    monkeypatch.setenv("SXM_ROOT", str(tmp_path / "dom0"))
    os.makedirs(str(tmp_path / "dom0"))
    for pool in sxm.pools.values():
        (record,) = pool.tables["pool"].values()
        record.update(ha_enabled=False)
    sxm.answers.update(ANSWERS, migrate=move, report=report_sample.answer())
    return sxm


def move(given):
    return ANSWER if given.get("dry-run") else {"migration": ID, "task": "t"}


def test_each_command_is_here():
    assert set(WORDS) == set(main.COMMANDS)


@pytest.mark.parametrize("name", sorted(WORDS))
def test_it_answers_with_one_document(world, name):
    words, part = WORDS[name]
    seen = world(name, *words, "--json")
    assert part in seen.document, seen
    assert world("--json", name, *words).document.keys() == seen.document.keys()


@pytest.mark.parametrize("name", sorted(set(WORDS) - {"trust", "doctor"}))
def test_what_goes_wrong_is_one_document_too(world, name):
    """Of `doctor` that is a finding; `trust` asks no plugin."""

    def fail(_):
        raise failure("RBAC_PERMISSION_DENIED", "host.call_plugin")

    for function in world.answers:
        world.answers[function] = fail
    paris = world.pools["paris"]
    for table in list(paris.tables) + ["VM", "VDI", "task"]:
        paris.handlers["%s.get_all_records" % table] = lambda: fail(None)
    seen = world(name, *WORDS[name][0], "--json")
    assert seen.status != exit_codes.DONE, seen
    assert seen.document["error"]["code"] == "RBAC_PERMISSION_DENIED", seen


@pytest.mark.parametrize("name", ["migrate", "watch", "resume"])
def test_the_error_of_one_that_was_begun_names_it(world, name):
    world.answers["status"] = FAILED
    seen = world(name, *WORDS[name][0], "--json")
    assert seen.status == exit_codes.FAILED
    assert seen.document == {
        "migration": ID,
        "error": {"code": "SXM_MIRROR_BROKEN", "details": ["k", "why"], "what to do": None},
    }
    assert "migration" not in world("cancel", "--json").document, "where none was begun"


def test_one_that_is_begun_is_named_at_once(world):
    """So that who is not told of its end, as where the pool is away, or who interrupts it, can look
    at it."""

    def stop(_):
        raise KeyboardInterrupt

    world.answers["status"] = stop
    seen = world("migrate", "vm=web", "--json")
    assert seen.document["error"]["code"] == "SXM_INTERRUPTED"
    assert "sxm: migration %s\n" % ID in seen.err


@pytest.mark.parametrize(
    "ended, status, part", [("cancelled", 0, "state"), ("succeeded", exit_codes.REFUSED, "error")]
)
def test_a_cancel_that_takes_longer_is_one_document(world, ended, status, part):
    def slow(_):
        raise socket.timeout("timed out")

    error = ["SXM_CANCELLED", ID] if ended == "cancelled" else None
    world.answers.update(cancel=slow, status=dict(ENDED, state=ended, error=error))
    seen = world("cancel", ID, "--json")
    assert seen.status == status and part in seen.document


def test_the_version_in_words(sxm):
    seen = sxm("--version")
    assert (seen.status, seen.err) == (0, "")
    assert seen.out == "sxm %s\n" % storage_motion.__version__
