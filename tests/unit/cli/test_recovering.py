# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm recover`: the hosts of a pool recover side by side. One that does not answer is named, and
holds up no other."""

import json
import socket
import threading

import pytest

from fake_pool import failure, uuid_of
from storage_motion.cli import recovering
from storage_motion.errors import CertificateMismatch

ID = "11111111-2222-4333-8444-555555555555"
PATIENCE = 30.0
SILENT = socket.timeout("timed out")


def moved(outcome="moved"):
    return {"migrations": [{"migration": ID, "side": "source", "outcome": outcome, "why": "w"}]}


class Hosts:
    """`recover`, `list`: {host's name: what the plugin answers there: a document, an error, or a
    function that gives or raises it}; `asked`: [(host, function, arguments)]."""

    def __init__(self, pool):
        self._pool = pool
        self.recover, self.list, self.asked = {}, {}, []
        pool.handlers["host.call_plugin"] = self._call

    def _call(self, host, plugin, function, arguments):
        name = self._pool.tables["host"][host]["name_label"]
        self.asked.append((name, function, arguments))
        nothing = {"migrations": [], "unreadable": []}
        answer = {"recover": self.recover, "list": self.list}[function].get(name, nothing)
        answer = answer() if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return json.dumps(answer)


@pytest.fixture
def hosts(sxm):
    return Hosts(sxm.pools["paris"])


def test_every_host_is_asked_and_it_adds_up(sxm, hosts):
    hosts.recover = {"p1": moved(), "p2": failure("SXM_JOURNAL", "/x", "torn")}
    seen = sxm("recover")
    assert seen.status == 4
    assert seen.err == "sxm: warning: host p2 failed: SXM_JOURNAL: /x: torn\n"
    assert seen.out == "%s on p1 (source): moved\n    w\n" % ID
    hosts.recover = {}
    assert sxm("recover").out == "nothing to recover\n"
    hosts.asked.clear()
    assert sxm("recover", "--host", "p1").status == 0
    assert {host for host, _, _ in hosts.asked} == {"p1"}


def test_they_recover_side_by_side(sxm, hosts):
    """Each ends only when the other one has begun."""
    begun = {"p1": threading.Event(), "p2": threading.Event()}

    def of(own, other):
        def answer():
            begun[own].set()
            assert begun[other].wait(PATIENCE)
            return moved()

        return answer

    hosts.recover = {"p1": of("p1", "p2"), "p2": of("p2", "p1")}
    document = sxm("recover", "--json").document
    assert [one["host"] for one in document["migrations"]] == ["p1", "p2"], "by their names"


@pytest.mark.parametrize(
    "error", [SILENT, ValueError("torn"), CertificateMismatch("a", "b"), OSError(104, "reset")]
)
def test_one_that_fails_keeps_nobody_from_the_others(sxm, hosts, error):
    hosts.recover = {"p1": error, "p2": moved()}
    seen = sxm("recover")
    assert seen.status == 4 and seen.err.startswith("sxm: warning: host p1 failed: ")
    assert seen.out == "%s on p2 (source): moved\n    w\n" % ID
    assert set(sxm("recover", "--json").document["hosts that failed"]) == {"p1"}


def test_one_without_a_word_is_named_and_not_asked_to_recover(sxm, hosts):
    hosts.list, hosts.recover = {"p1": SILENT}, {"p2": moved()}
    seen = sxm("recover")
    assert seen.status == 4 and "on p2 (source): moved" in seen.out
    assert seen.err == (
        "sxm: warning: host p1 does not answer: no answer within 45 s; nothing was begun there\n"
    )
    assert ("p1", "recover", {}) not in hosts.asked
    assert sxm("recover", "--json").document["hosts that failed"]["p1"][0] == "SXM_UNREACHABLE"


@pytest.mark.parametrize("lost", [SILENT, failure("HOST_OFFLINE", "p1")])
def test_one_that_falls_silent_in_mid_recovery_is_given_up(sxm, hosts, monkeypatch, lost):
    monkeypatch.setattr(recovering, "LOOK_EVERY", 0.01)
    ends, looks = threading.Event(), []

    def looked_at():
        looks.append(1)
        return lost if len(looks) > 2 else {"migrations": [], "unreadable": []}

    hosts.list = {"p1": looked_at}
    hosts.recover = {"p1": lambda: ends.wait(PATIENCE) and moved(), "p2": moved()}
    seen = sxm("recover")
    ends.set()
    assert seen.status == 4 and "on p2 (source): moved" in seen.out
    assert seen.err.startswith("sxm: warning: host p1 does not answer: ")
    assert "what it has begun goes on there" in seen.err
    assert len(looks) == 2 + recovering.LOOKS


def test_one_that_takes_long_and_answers_meanwhile_is_waited_for(sxm, hosts, monkeypatch):
    """Now and then it is told who is waited for."""
    monkeypatch.setattr(recovering, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(recovering, "TOLD_EVERY", 0.05)
    ends, looks = threading.Event(), []

    def looked_at():
        looks.append(1)
        if len(looks) > 30:
            ends.set()
        # that a look fails once, or is refused for whatever reason, is no silence
        return SILENT if len(looks) % 3 == 0 else failure("SXM_JOURNAL", "torn")

    hosts.list = {"p1": looked_at}
    hosts.recover = {"p1": lambda: ends.wait(PATIENCE) and moved()}
    seen = sxm("recover")
    assert seen.status == 0 and "on p1 (source): moved" in seen.out
    assert "sxm: waiting for host p1 (0 s)" in seen.err


def test_ctrl_c_tells_who_has_not_answered(sxm, hosts, monkeypatch):
    def on(pool, all_of_them, given):
        yield recovering.Recovered(all_of_them[1], moved(), None)
        raise KeyboardInterrupt

    monkeypatch.setattr(recovering, "on", on)
    seen = sxm("recover")
    assert seen.status == 130 and "on p2 (source): moved" in seen.out
    assert "host p1 has not answered yet: what was begun there goes on" in seen.err


@pytest.fixture
def one(sxm, hosts):
    """A migration whose source is p2."""
    pool = sxm.pools["paris"]
    (ref,) = [ref for ref, host in pool.tables["host"].items() if host["name_label"] == "p2"]
    known = {
        "migration": ID,
        "vm": "v",
        "vm_name": "web",
        "state": "running",
        "source_host_uuid": uuid_of(pool, "host", ref),
    }
    hosts.list["p1"] = {"migrations": [known], "unreadable": []}  # the master's
    return known


def test_one_is_recovered_on_its_source_host(sxm, hosts, one):
    hosts.recover["p2"] = moved("waiting")
    seen = sxm("recover", "web", "--lost-destination")
    assert seen.status == 4 and "on p2 (source): waiting" in seen.out
    assert hosts.asked[-1] == ("p2", "recover", {"migration": ID, "lost": "destination"})
    assert sxm("recover", "--lost-destination").status == 2


def test_of_one_a_failure_is_the_commands_and_silence_is_named(sxm, hosts, one):
    hosts.recover["p2"] = failure("SXM_UNDECIDED", ID, "why")
    seen = sxm("recover", "web")
    assert seen.status == 1 and seen.err.startswith("sxm: SXM_UNDECIDED")
    hosts.list["p2"] = SILENT
    seen = sxm("recover", "web")
    assert seen.status == 4 and "host p2 does not answer" in seen.err


def test_the_password_of_nobody_is_refused(sxm, hosts):
    seen = sxm("recover", "--remote-password-file", "x")
    assert seen.status == 2 and "--remote-user, which is missing" in seen.err
    assert hosts.asked == []


def test_a_host_that_is_unknown_is_named_with_its_option(sxm, hosts):
    seen = sxm("recover", "--host", "p3")
    assert seen.status == 2 and "--host, in pool paris: there is no host 'p3'" in seen.err
