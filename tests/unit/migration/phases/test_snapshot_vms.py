# SPDX-License-Identifier: LGPL-2.1-only
"""The snapshots as VMs: nobody disturbs them at either end while they move, and what the user had
blocked stays so."""

import pytest

from fake_migration import make_plan
from fake_pool import NULL, FakePool, add_vdi
from storage_motion.errors import BadMetadata
from storage_motion.migration.phases import blocking, snapshot_vms
from storage_motion.plan.plan import Snapshot

OURS = blocking.reason("m")


class World:
    id = "m"

    def __init__(self):
        self.source, self.destination = FakePool("A"), FakePool("B")
        self.vdi = add_vdi(self.source, "sr", uuid="f")
        other = add_vdi(self.source, "sr")
        self.vbds = [
            self.source.add("VBD", VDI=vdi, empty=vdi == NULL) for vdi in (self.vdi, other, NULL)
        ]
        self.vm = self.source.add(
            "VM",
            uuid="s",
            power_state="Halted",
            blocked_operations={"copy": "the user's"},
            VBDs=list(self.vbds),
        )
        self.plan = make_plan(
            history=[make_plan().disks[0]._replace(key="f", snapshot="s")],
            snapshots=[Snapshot("s", "name", True)],
        )

    blocked = property(lambda self: self.source.tables["VM"][self.vm]["blocked_operations"])

    def arrive(self):
        return self.destination.add("VM", uuid="s", blocked_operations={})


@pytest.fixture
def world():
    return World()


def test_claimed_and_released(world):
    for _ in range(2):
        snapshot_vms.claim(world)
    assert {name for name, text in world.blocked.items() if text == OURS} == set(
        snapshot_vms.DISTURBING
    ) - {"copy"}
    assert world.source.tables["VDI"][world.vdi]["other_config"] == {"sxm_migration": "m"}
    assert snapshot_vms.blocked(world) == ["snapshot s is blocked"]
    for _ in range(2):
        snapshot_vms.release(world)
    assert world.blocked == {"copy": "the user's"} and snapshot_vms.blocked(world) == []
    assert world.source.tables["VDI"][world.vdi]["other_config"] == {}


def test_they_have_come_along(world):
    with pytest.raises(BadMetadata, match="has not taken snapshot s"):
        snapshot_vms.block_arrived(world)
    assert snapshot_vms.forgotten(world) == ["snapshot s"]
    vm = world.arrive()
    snapshot_vms.block_arrived(world)
    record = world.destination.tables["VM"][vm]
    assert set(record["blocked_operations"]) == set(snapshot_vms.DISTURBING)
    assert snapshot_vms.forgotten(world) == [] and len(snapshot_vms.blocked_there(world)) == 1
    snapshot_vms.unblock_arrived(world)
    assert record["blocked_operations"] == {} and snapshot_vms.blocked_there(world) == []


def test_taken_out_again(world):
    world.arrive()
    snapshot_vms.block_arrived(world)
    for _ in range(2):
        snapshot_vms.remove_arrived(world)
    assert world.destination.tables["VM"] == {} and world.vm in world.source.tables["VM"]


def test_destroyed_at_the_source_with_the_vbds_of_what_goes(world):
    world.blocked["destroy"] = "the user's"
    snapshot_vms.claim(world)
    snapshot_vms.destroy_vbds(world)
    world.source.tables["VM"][world.vm]["VBDs"] = world.vbds[1:]
    snapshot_vms.destroy_vbds(world)
    assert sorted(world.source.tables["VBD"]) == sorted(world.vbds[1:])
    world.source.tables["VM"][world.vm]["VBDs"] = []
    for _ in range(2):
        snapshot_vms.destroy(world)
    assert world.source.tables["VM"] == {}


def test_a_checkpoint_is_destroyed_as_a_whole(world):
    """Its VBDs are plugged, for xapi: nobody destroys them."""
    world.source.tables["VM"][world.vm]["power_state"] = "Suspended"
    snapshot_vms.claim(world)
    for _ in range(2):
        snapshot_vms.destroy_vbds(world)
    assert world.source.tables["VM"] == {} and len(world.source.tables["VBD"]) == 3
    assert world.vdi in world.source.tables["VDI"]


def test_what_is_blocked_is_an_operation_of_xapis():
    import json
    import os

    docs = os.path.join(os.path.dirname(__file__), *[".."] * 4 + ["docs", "facts"])
    with open(os.path.join(docs, "xapi-datamodel.json"), encoding="utf-8") as file:
        model = json.load(file)
    assert not set(snapshot_vms.DISTURBING) - set(model["VM"]["enums"]["vm_operations"])
