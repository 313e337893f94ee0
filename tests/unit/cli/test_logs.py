# SPDX-License-Identifier: LGPL-2.1-only
"""`show`, `list`, `cancel`, `limit` and `trust`: what a person sees of the plugin's
answers."""

import pytest

from fake_pool import by_name, failure, uuid_of
from storage_motion.cli import certificates

ID = "0f0e0d0c-0000-4000-8000-000000000001"


@pytest.fixture
def status(sxm):
    paris, lyon = sxm.pools["paris"], sxm.pools["lyon"]
    found = {
        "migration": ID,
        "vm": "v",
        "vm_name": "web",
        "copy": False,
        "new_vm": "",
        "source_host": "p2",
        "destination_host": "l1",
        "source_host_uuid": uuid_of(paris, "host", by_name(paris, "host", "p2")),
        "destination_host_uuid": uuid_of(lyon, "host", by_name(lyon, "host", "l1")),
        "destination_master": "https://10.1.0.1",
        "state": "failed",
        "phase": "sync",
        "doing": "Copying",
        "error": ["SXM_COPY_FAILED", "v", "no room"],
        "started": 0.0,
        "updated": 75.0,
        "bytes_moved": 1 << 20,
        "bytes_to_move": 1 << 30,
        "downtime": None,
        "left": ["a VDI"],
        "broken": None,
        "warnings": ["careful"],
        "disks": [
            {"device": "xvda", "name": "root", "state": "copying", "copied": 5, "mirrored_bytes": 0}
        ],
    }
    sxm.answers["status"] = found
    return found


def line(second, text):
    return {"time": "2026-11-27T10:00:%02d.000Z" % second, "by": "x", "level": "INFO", "text": text}


def test_show_tells_how_it_ended(sxm, status):
    seen = sxm("show", "web")
    assert seen.status == 0 and max(map(len, seen.out.splitlines())) <= 80
    words = " ".join(seen.out.split())
    for part in (
        "State failed",
        "Moved 1.0 MiB of 1.0 GiB",
        "Begun 1970-01-01 00:00:00 UTC",
        "Took 1 min 15 s",
        "Error SXM_COPY_FAILED: v: no room",
        "xvda root copying 5 B 0 B",
        "Warnings - careful",
        "Left - a VDI",
    ):
        assert part in words, (part, seen.out)
    assert sxm("show", ID, "--json").document == status
    assert [given for _, _, given in sxm.asked] == [{"vm": "web"}, {"migration": ID}]


def test_both_hosts_logs_in_the_order_of_time(sxm, status):
    sides = {"paris": [line(1, ID + ": begun"), line(3, "failed\nTraceback")]}
    sides["lyon"] = [line(2, "made " + "a " * 25 + "b")]
    sxm.answers["log"] = lambda _: {"lines": sides[sxm.asked[-1][0]], "cut": False}
    lines = sxm("show", ID, "--log").out.splitlines()
    assert lines[lines.index("Log") + 1 :] == [
        "2026-11-27T10:00:01.000Z p2 x INFO begun",
        "2026-11-27T10:00:02.000Z l1 x INFO made " + "a " * 19 + "a",
        "    a a a a a b",
        "2026-11-27T10:00:03.000Z p2 x INFO failed",
        "    Traceback",
    ]
    log = sxm("show", ID, "--log", "--json").document["log"]
    assert [(one["host"], one["text"]) for one in log][:2] == [
        ("p2", ID + ": begun"),
        ("l1", "made " + "a " * 25 + "b"),
    ]


def test_a_host_that_is_down_is_told(sxm, status):
    def answer(_):
        if sxm.asked[-1][0] == "lyon":
            raise failure("HOST_OFFLINE", "l1")
        return {"lines": [line(1, "begun")], "cut": True}

    sxm.answers["log"] = answer
    seen = sxm("show", ID, "--log")
    assert seen.status == 0 and "begun" in seen.out
    assert seen.err.splitlines() == [
        "sxm: warning: the log of host p2 has more, before these lines",
        "sxm: warning: no log of host l1: HOST_OFFLINE l1",
    ]


def test_the_password_of_a_pool_that_is_not_asked_is_refused(sxm, status):
    seen = sxm("show", "web", "--remote-password-file", "x")
    assert seen.status == 2 and "is for --log, which is missing" in seen.err
    seen = sxm("doctor", "--remote-password-file", "x")
    assert seen.status == 2 and "is for --to-pool, which is missing" in seen.err
    assert sxm.asked == []


@pytest.mark.parametrize("command", ["show", "watch", "cancel", "resume", "report"])
@pytest.mark.parametrize("word", ["", "vm="])
def test_no_migration_is_named_by_nothing(sxm, command, word):
    seen = sxm(command, word)
    assert seen.status == 2 and "which migration? its id" in seen.err and sxm.asked == []


def test_list(sxm, status):
    sxm.answers["list"] = {"migrations": [status], "unreadable": []}
    seen = sxm("list")
    assert seen.status == 0 and max(map(len, seen.out.splitlines())) <= 80
    assert ("%s  failed  web  p2, l1" % ID).split() == seen.out.splitlines()[-1].split()
    sxm.answers["list"]["unreadable"] = [["SXM_JOURNAL", "/x", "torn"]]
    seen = sxm("list")
    assert seen.status == 4 and seen.err == "sxm: warning: SXM_JOURNAL: /x: torn\n"


def test_cancel_and_limit(sxm):
    sxm.answers["cancel"] = {"migration": ID, "state": "cancelled"}
    sxm.answers["limit"] = lambda given: {"bandwidth": 100 << 20 if given["bandwidth"] else 0}
    assert sxm("cancel", "web").out == "cancelled\n"
    assert sxm("limit", "vm=web", "100MiB").out == "100.0 MiB a second\n"
    assert sxm.asked[-1][2] == {"vm": "web", "bandwidth": "100MiB"}


def test_trust(sxm, home, monkeypatch):
    monkeypatch.setattr(certificates, "shown", lambda url: "ab" * 32)
    seen = sxm("trust", "lyon")
    assert seen.status == 0 and "10.1.0.1 is trusted by its certificate AB:AB" in seen.out
    assert (home / certificates.FILE).read_text() == "10.1.0.1:443 %s\n" % ("ab" * 32)


def test_help_is_the_plugins_own(sxm):
    one = {"name": "vm", "means": "the VM " * 20, "required": "vm or uuid"}
    sxm.answers["help"] = {
        "version": "1.2",
        "functions": {"migrate": {"does": "moves a VM", "arguments": [one]}},
    }
    seen = sxm("help", "migrate")
    assert seen.out.startswith("Storage XenMotion 1.2\n\nmigrate: moves a VM\n    vm")
    assert "(required: vm or uuid)" in seen.out and max(map(len, seen.out.splitlines())) <= 80
