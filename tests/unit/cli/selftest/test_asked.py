# SPDX-License-Identifier: LGPL-2.1-only
"""What `sxm selftest` is asked for: what it refuses before anything is changed, and what it does
with a VM that is named."""

import pytest

from fake_pool import add_vdi, add_vm, by_name, failure, uuid_of
from storage_motion.api.selftest_marks import TESTED
from storage_motion.cli import exit_codes


def add(pool, srs, state="Running", marks=None):
    """A VM with a disk in each of these SRs; its ref."""
    host = by_name(pool, "host", "p1")
    vdis = [add_vdi(pool, by_name(pool, "SR", sr)) for sr in srs]
    vm = add_vm(
        pool,
        host,
        vdis,
        by_name(pool, "network", "guests"),
        power_state=state,
        other_config=marks or {},
    )
    return vm


@pytest.mark.parametrize(
    "words, told",
    [
        (["--to-sr", "l1-sr"], "--to-sr is of the pool of --to-pool, which is missing"),
        (["--sr", "p1-sr"], "there is one SR only"),
        (["--to-pool", "paris"], "--to-pool: is the pool of --server"),
        (["--size", "4"], "--size: from 16 to 1024 MiB"),
        (["--vm", "web", "--size", "32", "--yes"], "--size is of the disk that is made, and a VM"),
        (["--report", "nowhere/it"], "--report: nowhere/it: in no folder where you may write"),
        (["--remote-password-file", "x"], "--remote-password-file is for --to-pool, which"),
        (["--sr", "p9-sr"], "--sr, in pool paris: there is no SR 'p9-sr'"),
        (["--vm", "wob"], "--vm, in pool paris: there is no VM 'wob'"),
        (["--vm", "web"], "nobody can be asked: give --yes"),
        (["--vm", "two", "--yes"], "the disks of this VM are in 2 SRs, not in one"),
        (["--vm", "asleep", "--yes"], "--vm: it is Suspended"),
        (["--vm", "tested", "--yes"], "it has the mark of another selftest"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changed(sxm, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    paris = sxm.pools["paris"]
    for name, srs, state, marks in (
        ("web", ["p1-sr"], "Running", None),
        ("two", ["p1-sr", "shared"], "Running", None),
        ("asleep", ["p1-sr"], "Suspended", None),
        ("tested", ["p1-sr"], "Running", {TESTED: "ffff0000"}),
    ):
        vm = add(paris, srs, state, marks)
        paris.tables["VM"][vm]["name_label"] = name
    seen = sxm("selftest", *words)
    assert seen.status == exit_codes.NOT_UNDERSTOOD and told in seen.err
    assert paris.calls == [] and sxm.asked == []
    assert list(tmp_path.glob("sxm-selftest*")) == []


class Plugin:
    """Moves a VM of pool paris at once, and answers as the plugin does."""

    def __init__(self, sxm, vm):
        self.pool, self.vm, self.begun = sxm.pools["paris"], vm, []
        self.slow = None  # the one that is under way
        self.keeps = True  # whether a cancelled move leaves the VM where it is
        sxm.answers.update(
            {
                "migrate": self.migrate,
                "status": self.status,
                "cancel": self.cancel,
                "selftest-kill": self.cancel,
                "installed": {"version": "0.1.0"},
                "list": {"migrations": []},
            }
        )

    def migrate(self, given):
        self.begun.append(given)
        self.slow = given if "bandwidth" in given else None
        if not self.slow:
            self.go(given)
        return {"migration": "m%d" % len(self.begun)}

    def go(self, given):
        (vbd,) = self.pool.tables["VM"][self.vm]["VBDs"]
        vdi = self.pool.tables["VBD"][vbd]["VDI"]
        goal = self.pool.call("SR", "get_by_uuid", (given["destination-sr-uuid"],))
        self.pool.tables["VDI"][vdi]["SR"] = goal

    def status(self, given):
        running = self.slow is not None
        return {
            "migration": given["migration"],
            "state": "running" if running else self.state,
            "bytes_moved": 1 << 20,
            "alive": True,
            "doing": "copying",
            "error": None,
            "left": [],
        }

    state = "succeeded"

    def cancel(self, given):
        if not self.keeps:
            self.go(self.slow)
        self.slow, self.state = None, "cancelled"
        return {}


@pytest.fixture
def named(sxm, tmp_path, monkeypatch):
    """VM web runs in paris, in an SR that p1 sees: (sxm, its plugin)."""
    monkeypatch.chdir(tmp_path)
    vm = add(sxm.pools["paris"], ["p1-sr"])
    return sxm, Plugin(sxm, vm)


GO = ("selftest", "--vm", "web", "--sr", "p1-sr", "--sr", "shared", "--yes")


@pytest.mark.parametrize("short", [[], ["--short"]], ids=["all ways", "short"])
def test_a_vm_that_was_named_is_moved_as_it_is(named, short):
    """Also by the short way it goes out and back as it is: it is not halted for the one, and not
    started for the other."""
    sxm, plugin = named
    paris = sxm.pools["paris"]
    seen = sxm(*GO, "--json", *short)
    assert seen.status == 0, seen.out + seen.err
    assert "neither started nor shut down" in seen.err.replace("\n", " ")
    uuid = uuid_of(paris, "VM", plugin.vm)
    assert {given["vm"] for given in plugin.begun} == {uuid}
    assert [step["what"] for step in seen.document["steps"]] == [
        "move, running",
        "move, running",
        "kill the worker half-way, running",
        "cancel a move half-way, running",
        "clean up",
    ]
    assert {step["disks"] for step in seen.document["steps"][:4]} == {"not compared"}
    changed = {call[0] for call in paris.calls}
    assert changed == {"add_to_other_config", "remove_from_other_config"}
    assert paris.tables["VM"][plugin.vm]["other_config"] == {}


def test_beside_the_sr_that_it_is_in_one_is_enough(named):
    sxm, plugin = named
    seen = sxm("selftest", "--vm", "web", "--sr", "shared", "--yes", "--short")
    assert seen.status == 0 and "to each of 1 SRs and back" in seen.err.replace("\n", " ")
    alone = sxm("selftest", "--vm", "web", "--sr", "p1-sr", "--yes")
    assert alone.status == exit_codes.NOT_UNDERSTOOD and "there is one SR only" in alone.err


def test_one_with_too_little_data_is_moved_and_comes_home(named):
    sxm, plugin = named
    go = plugin.migrate
    sxm.answers["migrate"] = lambda given: go({k: v for k, v in given.items() if k != "bandwidth"})
    seen = sxm(*GO, "--json")
    assert seen.status == 0 and seen.document["held"]
    assert [step["outcome"] for step in seen.document["steps"]] == ["ok"] * 2 + ["left out"] * 2 + [
        "ok"
    ]
    assert "the VM is in" not in seen.err


def test_what_did_not_hold_is_an_exit_status(named):
    """A move that is cancelled, and has moved the VM all the same."""
    sxm, plugin = named
    plugin.keeps = False
    seen = sxm(*GO)
    assert seen.status == exit_codes.FAILED
    assert "its disks are not where they have to be" in seen.out
    assert "NOT EVERY STEP HELD." in seen.out
    assert "the VM is in" in seen.err, "it was named, and is not where it was"
    assert sxm.pools["paris"].tables["VM"][plugin.vm]["other_config"] == {}


def test_a_way_that_was_asked_for_has_to_be_possible(named):
    sxm, plugin = named

    def refuse(_):
        raise failure("SXM_BAD_ARGUMENTS", "disk: is odd")

    sxm.answers["migrate"] = refuse
    seen = sxm(*GO)
    assert seen.status == exit_codes.FAILED and "disk: is odd" in seen.out


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["words", "json"])
def test_control_c_ends_what_it_began_and_cleans_up(named, json_too):
    """With --json the report is the one document; it says that not all held."""
    sxm, plugin = named
    paris = sxm.pools["paris"]
    uuid = uuid_of(paris, "VM", plugin.vm)
    cancelled = []

    def interrupt(given):
        raise KeyboardInterrupt

    sxm.answers["status"] = interrupt
    sxm.answers["list"] = {"migrations": [dict(migration="m1", vm=uuid, state="running")]}
    sxm.answers["cancel"] = lambda given: cancelled.append(given["migration"]) or {}
    seen = sxm(*GO, *json_too)
    assert seen.status == exit_codes.INTERRUPTED and cancelled == ["m1"]
    assert seen.document["held"] is False if json_too else "SXM_INTERRUPTED" in seen.err
    assert paris.tables["VM"][plugin.vm]["other_config"] == {}
