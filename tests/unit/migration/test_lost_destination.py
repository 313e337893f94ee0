# SPDX-License-Identifier: LGPL-2.1-only
"""A destination that is lost by the administrator's word: what is taken for such a word, and the
way back without that pool."""

import pytest

from fake_pool import FakePool
from move_world import LOCKED, World
from storage_motion.errors import BadArguments, Undecided, Unreachable, Waits
from storage_motion.journal import steps
from storage_motion.migration import lost_destination, recovery, recovery_source
from storage_motion.migration.phases import receive, remap, shut_gates
from storage_motion.switch import whereabouts

ID = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    "given, answer",
    [
        ({}, False),
        ({"lost": ""}, False),
        ({"migration": ID}, False),
        ({"migration": ID, "lost": "destination"}, True),
    ],
)
def test_said(given, answer):
    assert lost_destination.said(given) is answer


@pytest.mark.parametrize(
    "given",
    [
        {"lost": "destination"},
        {"lost": "source", "migration": ID},
        {"lost": "true", "migration": ID},
    ],
)
def test_a_word_that_is_none_changes_nothing(given):
    with pytest.raises(BadArguments) as raised:
        recovery.recover(None, given)
    assert str(raised.value.details[0]).startswith("lost: ")


@pytest.fixture
def world(monkeypatch):
    """A VM that was suspended at the source when the destination, whose gate was being opened, went
    away."""
    world = World(monkeypatch, [])
    # as recovery begins
    world.lost, world.destination, world.receiving_host = True, lost_destination.LostPool(), None
    world.entry["disks"]["k"]["gate"] = steps.OPENING
    world.entry.update(xenops_task="7", imported=True, receiving=True, committed=False)
    world.here.clear()
    world.here.update(LOCKED)
    world.state_here, world.leaving, world.kept = None, "Suspended", '{"vm": {"id": "v"}}'
    world.destination_vdi = lambda disk: world.destination.xenapi.VDI.get_by_uuid("d")
    world.plugin = lambda function: world.destination.xenapi.host.call_plugin(
        "h", "sxm.py", function, {}
    )
    return world


def test_without_the_word_it_is_undecided(world):
    world.lost, world.destination = False, recovery_source.Unreached(Unreachable("B", "gone"))
    with pytest.raises(Undecided, match="whether a gate is being opened"):
        shut_gates.shut_gates(world)
    assert world.here == LOCKED


def test_with_it_the_vm_is_the_sources(world):
    assert whereabouts.decide(world) == whereabouts.SOURCE
    shut_gates.shut_gates(world)
    remap.remove(world)
    receive.abort(world)
    assert world.here == {} and world.log == ["end leaving here", "given back"]
    assert (
        world.entry["imported"] is False
        and world.entry["receiving"] is False
        and world.entry["xenops_task"] is None
    )


def test_a_vm_that_had_gone_over_is_halted_at_the_source(world, monkeypatch):
    (record,) = world.source.tables["VM"].values()
    world.entry["committed"], world.state_here, world.leaving = True, None, None
    world.tasks_here, world.script = ["7"], [("Pending", 0.9), ("Failed", ["Cancelled", "7"])]
    monkeypatch.setattr(lost_destination.waiting.time, "sleep", lambda seconds: None)
    lost_destination.come_back(world)
    assert world.entry["committed"] is False and world.log == ["cancel"]
    shut_gates.shut_gates(world)
    assert (
        record["power_state"] == "Halted"
        and world.log == ["cancel", "given back"]
        and world.here == {}
    )
    lost_destination.come_back(world)
    shut_gates.shut_gates(world)
    assert world.log == ["cancel", "given back"]


@pytest.mark.parametrize("committed", [True, False])
def test_while_xenopsd_still_sends_it_nothing_is_decided(world, monkeypatch, committed):
    world.tasks_here, world.script, world.entry["committed"] = ["7"], [("Pending", 0.9)], committed
    monkeypatch.setattr(lost_destination, "GIVE_UP_TIMEOUT", 0.0)
    monkeypatch.setattr(lost_destination.waiting.time, "sleep", lambda seconds: None)
    with pytest.raises(Undecided, match="xenopsd's move"):
        lost_destination.come_back(world)
    assert world.here == LOCKED and world.entry["committed"] is committed


@pytest.mark.parametrize("taken", ["VDI", "VBD", "VM"])
def test_what_is_gone_at_the_source_is_named(world, taken):
    world.source.add("VBD", uuid=world.plan.disks[0].vbd)
    assert lost_destination.missing(world.source, world.plan) == []
    world.source.tables[taken].clear()
    assert [text.split()[0] for text in lost_destination.missing(world.source, world.plan)] == [
        taken
    ]


@pytest.mark.parametrize(
    "destination, gap, why",
    [
        (FakePool("B"), None, "the destination answers"),
        (recovery_source.Unreached(Waits("no password")), "no password", "has to be tried"),
    ],
)
def test_only_what_does_not_answer_can_be_lost(world, destination, gap, why):
    with pytest.raises(Waits, match=why):
        recovery_source._require_lost(world.source, world.plan, destination, gap)
