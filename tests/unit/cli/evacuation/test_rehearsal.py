# SPDX-License-Identifier: LGPL-2.1-only
"""The plan of all of it names everything that is wrong, also what is wrong only with all
together."""

import io
import socket
import threading

import pytest
import XenAPI
from rich.console import Console

from fake_pool import GIB, add_sr, add_vdi, add_vm, by_name, make_pool, uuid_of
from storage_motion.cli.estimates import Earlier
from storage_motion.cli.evacuation import (
    duration,
    plan_shown,
    rehearsal as rehearsals,
    scans,
    selection,
)
from storage_motion.cli.evacuation.goals import To
from storage_motion.cli.evacuation.order import Limits
from storage_motion.cli.output import Output
from storage_motion.errors import TaskFailed
from storage_motion.xapi.records import Records

MORE = 1 << 20
"""Bytes that a VM takes there only while it moves."""


class World:
    """Three VMs, the largest first, and an SR with room for them."""

    def __init__(self):
        self.fake = make_pool("A", ["a1"])
        self.goal = add_sr(
            self.fake, "new", [by_name(self.fake, "host", "a1")], physical_size=str(7 * GIB)
        )
        for size in (3, 2, 1):
            vdi = add_vdi(self.fake, by_name(self.fake, "SR", "a1-sr"), size * GIB)
            add_vm(
                self.fake,
                by_name(self.fake, "host", "a1"),
                [vdi],
                by_name(self.fake, "network", "guests"),
                name_label="vm%d" % size,
            )
        self.refuses = {}
        self.scanned, self.scan_fails = [], {}
        self.asked, self.scan_left_out = [], set()

    @property
    def master(self):
        return by_name(self.fake, "host", "a1")

    def plugin_on(self, host, function, **given):
        assert host == self.master and given["dry-run"] == "true"
        assert (function, given["remote-password"]) == ("migrate", "hush")
        vm = Records(self.fake).by_uuid("VM", given["vm"])[1]
        self.asked.append(vm["name_label"])
        if given.get("scan") == "false":
            self.scan_left_out.add(vm["name_label"])
        if vm["name_label"] in self.refuses:
            raise XenAPI.Failure(self.refuses[vm["name_label"]])
        disks = [
            {"key": name[len("vdi:") :], "data": GIB} for name in given if name.startswith("vdi:")
        ]
        size = int(vm["name_label"][-1]) * GIB
        old, new = (dict(name="x", type="ext", allocation=one) for one in ("thin", "thick"))
        return {
            "room": [
                {
                    "sr": uuid_of(self.fake, "SR", self.goal),
                    "name": "new",
                    "destination": True,
                    "free": int(self.fake.tables["SR"][self.goal]["physical_size"]),
                    "needed": size + MORE,
                    "stays": size,
                },
                {"sr": "old", "name": "old", "destination": False, "free": 0, "needed": 9},
            ],
            "disks": [
                {
                    "vdi": disk["key"],
                    "moves": True,
                    "format": "vhd",
                    "sr": old,
                    "destination": dict(new, format="qcow2"),
                }
                for disk in disks
            ]
            + [{"vdi": "stays", "moves": False}],
            "vifs": [{"vif": "v", "network": "guests", "destination": {"name": "dmz"}}],
            "plan": {
                "source_host": "h1",
                "source_host_name": "a1",
                "destination_host_name": "a2",
                "destination_host": "h2",
                "disks": disks,
                "history": [{"key": "h", "data": MORE}] if size == GIB else [],
                "warnings": ["HA"] if vm["name_label"] == "vm1" else [],
                "notes": ["what is on network guests goes to guests"],
            },
        }

    def scan_one(self, session, sr):
        name = self.fake.tables["SR"][sr]["name_label"]
        assert session is self.fake and not self.asked, "before all dry runs"
        self.scanned.append(name)
        if name in self.scan_fails:
            raise self.scan_fails[name]

    def read(self):
        source = Records(self.fake)
        return source, To(source, srs=(self.goal,))

    def rehearse(self, tell=lambda done, of, doing: None):
        what = selection.What(selection.POOL)
        return rehearsals.rehearse(self, self.read, what, {"remote-password": "hush"}, tell)


@pytest.fixture
def world(monkeypatch):
    found = World()
    monkeypatch.setattr(scans.up_to_date, "scan_one", found.scan_one)
    return found


def test_the_smallest_is_first_and_knows_its_hosts(world):
    found = world.rehearse()
    assert [one.planned.name for one in found.rehearsed] == ["vm1", "vm2", "vm3"]
    assert sorted(world.asked) == ["vm1", "vm2", "vm3"]
    assert found.rehearsed[0].planned.hosts == ("h1", "h2")
    assert found.whole and [one["needed"] for one in found.room] == [6 * GIB + MORE]
    assert "hush" not in str(rehearsals.to_json(found))


def test_each_has_room_and_all_together_have_not(world):
    world.fake.tables["SR"][world.goal]["physical_size"] = str(6 * GIB)
    found = world.rehearse()
    assert not found.refused and not found.whole
    assert "6.00 GiB free" in found.short[0] and found.room[0]["left"] == -MORE


def test_all_that_is_refused_is_named_and_can_be_left_out(world):
    world.fake.tables["SR"][world.goal]["physical_size"] = str(5 * GIB)
    world.refuses = {"vm2": ["SXM_BAD_ARGUMENTS", "vdi:x: is paused; wait", "vdi:y: is encrypted"]}
    found = world.rehearse()
    assert [one.planned.name for one in found.refused] == ["vm2"] and not found.whole
    assert not found.short, "what is refused takes no room"
    kept = rehearsals.without(found, found.refused)
    assert kept.whole and [left.name for left in kept.left if left.refused] == ["vm2"]
    assert "is paused" in kept.left[-1].reason and "is encrypted" in kept.left[-1].reason


@pytest.mark.parametrize(
    "refusal",
    [
        ["SXM_REFUSED", "host x", "TOO_MANY_STORAGE_MIGRATES 3", "wait"],
        ["SXM_BAD_ARGUMENTS", "vm: VM web is being moved already by migration x; wait for it"],
    ],
)
def test_that_one_has_to_wait_is_not_wrong(world, refusal):
    world.refuses = {"vm2": refusal}
    found = world.rehearse()
    assert found.whole and found.rehearsed[1].error == refusal


def test_a_person_is_told_all_of_it(world):
    world.refuses = {"vm2": ["SXM_BAD_ARGUMENTS", "vdi:x: is paused; wait"]}
    add_vm(world.fake, by_name(world.fake, "host", "a1"), [], "network", name_label="diskless")
    screen = io.StringIO()
    plan_shown.show(
        world.rehearse(),
        Output(console=Console(file=screen, width=80)),
        selection.What(selection.POOL),
        "pool",
        lambda uuid: "new" if uuid == uuid_of(world.fake, "SR", world.goal) else "?",
    )
    shown = screen.getvalue()
    for text in (
        "2 disks of 2 VMs would move",
        "refused: VM vm2: SXM_BAD_ARGUMENTS",
        "    vdi:x: is paused; wait",
        "not moved: VM diskless",
        "VM vm1: warning: HA",
        "SR new: 7.0 GiB free",
    ):
        assert text in shown, shown
    assert shown.count("note: what is on network guests") == 1, "once for all of them"


def test_each_sr_is_scanned_once_and_by_no_dry_run(world):
    found = world.rehearse()
    assert sorted(world.scanned) == ["a1-sr", "new"]
    assert world.scan_left_out == {"vm1", "vm2", "vm3"} and found.unscanned == []


def test_what_others_are_at_is_judged_by_its_last_scan_which_is_told(world):
    world.scan_fails = {"new": scans.up_to_date.Busy("vdi_create")}
    found = world.rehearse()
    assert world.scan_left_out == {"vm1", "vm2", "vm3"}, "each would wait for as long again"
    assert found.unscanned == [scans.NOT_SCANNED % ("new", "vdi_create")]
    assert rehearsals.to_json(found)["unscanned"] == found.unscanned


def test_what_cannot_be_scanned_is_left_to_the_dry_runs_to_tell(world):
    world.scan_fails = {"new": TaskFailed("SR_BACKEND_FAILURE_40")}
    world.rehearse()
    assert world.scan_left_out == set()


def test_a_pool_that_is_gone_ends_it(world):
    world.scan_fails = {"new": ConnectionRefusedError("refused")}
    with pytest.raises(ConnectionRefusedError):
        world.rehearse()


def test_the_plan_is_the_same_in_whatever_order_the_dry_runs_end(world, monkeypatch):
    """The largest ends first here; the room adds up, and the order is that of the moves."""
    ends, usual = {name: threading.Event() for name in ("vm1", "vm2", "vm3")}, world.plugin_on
    ends["vm3"].set()

    def plugin_on(host, function, **given):
        name = Records(world.fake).by_uuid("VM", given["vm"])[1]["name_label"]
        assert ends[name].wait(30)
        return usual(host, function, **given)

    def tell(done, of, doing):
        if doing.startswith("planned"):
            told.append((done, of, doing))
            ends["vm2" if "vm3" in doing else "vm1"].set()

    monkeypatch.setattr(world, "plugin_on", plugin_on)
    told = []
    found = world.rehearse(tell)
    assert told == [(1, 3, "planned vm3"), (2, 3, "planned vm2"), (3, 3, "planned vm1")]
    assert [one.planned.name for one in found.rehearsed] == ["vm1", "vm2", "vm3"]
    assert [one["needed"] for one in found.room] == [6 * GIB + MORE]


@pytest.mark.parametrize("fault", [socket.timeout("timed out"), ValueError("no JSON")])
def test_one_without_an_answer_fails_no_other(world, monkeypatch, fault):
    usual = world.plugin_on

    def plugin_on(host, function, **given):
        if Records(world.fake).by_uuid("VM", given["vm"])[1]["name_label"] == "vm2":
            raise fault
        return usual(host, function, **given)

    monkeypatch.setattr(world, "plugin_on", plugin_on)
    found = world.rehearse()
    assert [one.error[:2] for one in found.rehearsed] == [[], ["SXM_UNREACHABLE", "its host"], []]
    assert not found.whole and [one.planned.name for one in found.refused] == ["vm2"]


def test_one_that_does_not_run_is_planned_by_the_master(world):
    vm = by_name(world.fake, "VM", "vm2")
    world.fake.tables["VM"][vm].update(power_state="Halted", resident_on="OpaqueRef:NULL")
    assert world.rehearse().whole


class Pool:
    """Of which some migrations from a1 to a2 are known, with what they moved in ten seconds."""

    def __init__(self, *moved):
        self.moved, self.asked = moved, []

    def plugin(self, function, **given):
        self.asked.append(function)
        if function == "status":
            moved = self.moved[int(given["migration"])]
            return {"bytes_moved": moved, "started": 1.0, "updated": 11.0}
        known = {"state": "succeeded", "source_host": "a1", "destination_host": "a2"}
        return {
            "migrations": [dict(known, migration=str(at)) for at in range(len(self.moved))],
            "unreadable": [],
        }


def estimated(found, pool, *limits):
    return duration.of(found.moves, Limits(*limits), Earlier(pool), len(found.waiting))


def test_how_long_all_of_it_takes_at_least(world):
    """Each of three sends 1 GiB, the first one a snapshot besides; earlier ones sent as much in ten
    seconds."""
    pool, found = Pool(GIB, GIB), world.rehearse()
    one = estimated(found, pool, 1)
    assert one.bytes == 3 * GIB + MORE
    assert one.seconds == pytest.approx(30, rel=0.01)
    assert one.basis == (
        "1 VM at a time at most; measured: 2 earlier from a1 to a2, 2048 MiB in 20 s, all phases"
    )
    assert pool.asked == ["list", "status", "status"], "once for all of them"
    for limits, seconds in (((3, 3, 3), 10), ((2, 3, 3), 15), ((3, 1, 3), 30), ((3, 3, 2), 15)):
        least = estimated(found, Pool(GIB), *limits).seconds
        assert least == pytest.approx(seconds, rel=0.01), limits
    assert estimated(found, Pool(GIB), 9, 9, 9).seconds == pytest.approx(10, rel=0.01), (
        "the longest"
    )


def test_where_nobody_knows_how_fast_it_goes_that_is_told(world):
    waits = ["SXM_REFUSED", "host x", "TOO_MANY_STORAGE_MIGRATES 3", "wait"]
    world.refuses = {"vm2": waits}
    found = world.rehearse()
    one = estimated(found, Pool(0))
    assert one.seconds is None and one.bytes == 2 * GIB + MORE
    assert one.basis == (
        "unknown: one has succeeded from a1 to a2, and moved too little to measure by; "
        "not counted: 1 VM waiting"
    )
    assert estimated(found, Pool(GIB)).basis.endswith("; not counted: 1 VM waiting")


def test_the_formats_and_networks_of_each_are_told(world):
    world.refuses = {"vm2": ["SXM_BAD_ARGUMENTS", "vdi:x: is paused; wait"]}
    found = world.rehearse()
    document = rehearsals.to_json(found, estimated(found, Pool(GIB)))
    first, refused, _ = document["vms"]
    (disk,) = first["disks"]
    assert (disk["size"], disk["format"], disk["sr"]["allocation"]) == (GIB, "vhd", "thin")
    assert disk["destination"]["format"] == "qcow2"
    assert [vif["destination"]["name"] for vif in first["vifs"]] == ["dmz"]
    assert [disk["format"] for disk in refused["disks"]] == [None] and refused["vifs"] == []
    assert document["estimates"]["seconds"] > 0
    screen = io.StringIO()
    plan_shown.show(
        found,
        Output(console=Console(file=screen, width=80)),
        selection.What(selection.POOL),
        "pool",
        lambda uuid: "new",
        estimated(found, Pool(GIB)),
    )
    lines = screen.getvalue().splitlines()
    told = "VM vm1: 1 disk from vhd (thin) to qcow2 (thick); network guests to dmz"
    assert told in lines and not any(line.startswith("VM vm2") for line in lines)
    words = " ".join(screen.getvalue().split())
    assert "to send: 2.0 GiB; what guests write comes on top" in words
    assert "time: about 10 s (4 VMs at a time at most; measured: 1 earlier" in words
    assert max(len(line) for line in lines if line.startswith(("time", "to send"))) <= 80
