# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that a running VM has not plugged, or a halted VM has: what keeps it closed, and what it
says when somebody may have been in."""

import types

import pytest

from fake_migration import make_plan
from fake_pool import FakePool, add_vdi
from storage_motion.errors import MirrorBroken
from storage_motion.migration import durable, mirror_health, unplugged_disks
from storage_motion.migration.phases import move, receive, shut_gates, sync
from storage_motion.switch import disk_switch, source_lock

OURS, HOST = "sxm m", "host_OpaqueRef:1"
BOTH = {"paused": OURS, "relinking": OURS}


class World:
    """One such disk; what a sync has written down comes back by `pool.goes_back`."""

    id = "m"

    def __init__(self, monkeypatch, live):
        self.pool = self.source = FakePool("A")
        self._vdi = add_vdi(self.pool, "OpaqueRef:sr", sm_config={})
        plan = make_plan()
        self.one = plan.disks[0]._replace(unplugged=live)
        self.plan = plan._replace(disks=[self.one], live=live)
        self.entry = {"disks": {"k": {}}}
        self.notes = []
        monkeypatch.setattr(durable.database, "sync", FakePool.sync)

    @property
    def config(self):
        return self.pool.tables["VDI"][self._vdi]["sm_config"]

    @config.setter
    def config(self, value):
        self.pool.tables["VDI"][self._vdi]["sm_config"] = value

    def disk(self, key):
        return self.entry["disks"][key]

    def note(self, key, **fields):
        self.notes.append((dict(fields), dict(self.config)))
        self.disk(key).update(fields)

    def source_vdi(self, disk):
        return self._vdi


@pytest.fixture(params=[True, False], ids=["unplugged", "halted"])
def world(request, monkeypatch):
    return World(monkeypatch, request.param)


def closed(world):
    """It is copied, and closed."""
    world.config = {HOST: "RO"}  # our tapdisk
    unplugged_disks.keep_copying(world, world.one)
    del world.config[HOST]
    unplugged_disks.keep_closed(world, world.one)


def test_one_mark_is_there_before_the_copy_is_closed_and_both_after(world):
    world.config = {HOST: "RO"}
    unplugged_disks.keep_copying(world, world.one)
    assert world.config == {HOST: "RO", "relinking": OURS}
    assert world.pool.syncs == 1, "whatever xapi forgets"
    world.pool.goes_back()
    assert world.config["relinking"] == OURS
    del world.config[HOST]
    unplugged_disks.keep_closed(world, world.one)
    assert world.config == BOTH
    unplugged_disks.require_kept(world, world.one)


def test_each_is_noted_before_it_is_there_and_taken_away_before_that_is_noted(world):
    closed(world)
    unplugged_disks.let_go(world, world.one)
    assert world.config == {} and world.disk("k")["kept"] is None
    assert world.notes == [
        ({"kept": "copying"}, {HOST: "RO"}),
        ({"kept": "closed"}, {"relinking": OURS}),
        ({"kept": None}, {}),
    ]
    unplugged_disks.let_go(world, world.one)


@pytest.mark.parametrize("gone", ["paused", "relinking"])
def test_of_the_two_one_may_go_and_is_put_back(world, gone):
    """The one with a master that plugs the SR, the other with a coalesce."""
    closed(world)
    del world.config[gone]
    unplugged_disks.require_kept(world, world.one)
    unplugged_disks.put_back(world, world.one)
    assert world.config == BOTH


@pytest.mark.parametrize("config", [{}, dict(BOTH, **{HOST: "RW"}), {"relinking": "True"}])
def test_who_may_have_been_in_has_it_copied_anew(world, config):
    closed(world)
    world.config = config
    with pytest.raises(MirrorBroken):
        unplugged_disks.hand_over(world)


def test_where_the_mark_was_gone_as_the_copy_was_closed_it_is_copied_anew(world):
    unplugged_disks.keep_copying(world, world.one)
    world.config = {}
    with pytest.raises(MirrorBroken):
        unplugged_disks.keep_closed(world, world.one)
    assert world.disk("k")["kept"] == "copying" and world.config == {}


def test_a_move_that_is_taken_back_leaves_them_for_the_copy_to_take_away(world):
    closed(world)
    source_lock.lift(world, world.one)
    assert world.config == BOTH
    world.config = {}
    world.entry["disks"]["k"]["gate"] = "attached"
    shut_gates.lock_again(world)
    assert world.config == BOTH, "a recovery begins with that"


def test_it_is_handed_over_behind_both(world, monkeypatch):
    closed(world)
    world.config = {"paused": OURS}
    seen = []
    mover = types.SimpleNamespace(
        key="k", finish=lambda mirrored: seen.append((mirrored, dict(world.config)))
    )
    world.mover = lambda key: mover
    unplugged_disks.hand_over(world)
    assert seen == [(False, BOTH)] and world.disk("k")["gate"] == "open"
    unplugged_disks.hand_over(world)
    assert len(seen) == 1 and disk_switch.has_begun(world, world.one)


def test_the_lock_before_the_move_does_not_hide_that_somebody_was_in(world, monkeypatch):
    """It is the same mark: what is looked for afterwards would be there."""
    monkeypatch.setattr(source_lock, "begin", lambda m, disk: m.config.update(relinking=OURS))
    closed(world)
    move._begin_lock(world, world.one)
    world.config = {}
    with pytest.raises(MirrorBroken):
        move._begin_lock(world, world.one)
    assert world.config == {}
    world.entry["disks"]["k"]["gate"] = "open"  # it has been handed over: nobody else was in
    move._begin_lock(world, world.one)
    assert world.config == {"relinking": OURS}


@pytest.mark.parametrize("config, anew", [(BOTH, []), ({}, ["k"]), ({"paused": OURS}, [])])
def test_one_that_was_not_kept_closed_is_made_anew_though_its_copy_is_sound(
    world, monkeypatch, config, anew
):
    closed(world)
    world.config, renewed = config, []
    world.guest_closes = lambda: None
    world.vm = lambda: "ref"
    state = types.SimpleNamespace(get_power_state=lambda ref: "Running")
    world.source = types.SimpleNamespace(
        xenapi=types.SimpleNamespace(VM=state, VDI=world.pool.xenapi.VDI)
    )
    monkeypatch.setattr(mirror_health, "is_sound", lambda m, disk: True)
    monkeypatch.setattr(sync, "_END", ())
    monkeypatch.setattr(
        receive, "reopen", lambda m, disks: renewed.extend(disk.key for disk in disks)
    )
    sync.clear_broken(world)
    assert renewed == anew


def test_the_disk_of_a_snapshot_is_not_kept_closed(world):
    """Others may read it, as we do for the next one that is based on it; nobody writes to it."""
    assert world.plan.keeps_closed(world.one)
    assert not world.plan.keeps_closed(world.one._replace(snapshot="s", unplugged=False))
