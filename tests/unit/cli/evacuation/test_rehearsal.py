# SPDX-License-Identifier: LGPL-2.1-only
"""The plan of all of it names everything that is wrong, also what is wrong only with all
together."""

import io

import pytest
import XenAPI
from rich.console import Console

from fake_pool import GIB, add_sr, add_vdi, add_vm, by_name, make_pool, uuid_of
from storage_motion.cli.evacuation import plan_shown, rehearsal as rehearsals, selection
from storage_motion.cli.evacuation.goals import To
from storage_motion.cli.output import Output
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
        self.asked = []

    def plugin(self, function, **given):
        assert (function, given["dry-run"], given["remote-password"]) == ("migrate", "true", "hush")
        vm = Records(self.fake).by_uuid("VM", given["vm"])[1]
        self.asked.append(vm["name_label"])
        if vm["name_label"] in self.refuses:
            raise XenAPI.Failure(self.refuses[vm["name_label"]])
        disks = [
            {"key": name[len("vdi:") :], "data": GIB} for name in given if name.startswith("vdi:")
        ]
        size = int(vm["name_label"][-1]) * GIB
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
            "plan": {
                "source_host": "h1",
                "destination_host": "h2",
                "disks": disks,
                "history": [],
                "warnings": ["HA"] if vm["name_label"] == "vm1" else [],
            },
        }

    def rehearse(self):
        source = Records(self.fake)
        found = selection.select(source, selection.What(selection.POOL))
        to = To(source, srs=(self.goal,))
        return rehearsals.rehearse(self, source, found, to, {"remote-password": "hush"})


@pytest.fixture
def world():
    return World()


def test_the_smallest_is_first_and_knows_its_hosts(world):
    found = world.rehearse()
    assert [one.planned.name for one in found.rehearsed] == ["vm1", "vm2", "vm3"] == world.asked
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
