# SPDX-License-Identifier: LGPL-2.1-only
"""Changed block tracking: what is disabled is owed until it is on disk that it is enabled, where
the VM is, whatever is killed and whatever xapi forgets."""

import json

import pytest

from fake_pool import add_vdi, by_name, make_pool
from storage_motion.errors import DiskTracked, TaskFailed
from storage_motion.migration import durable
from storage_motion.migration.phases import block_tracking, claim, release
from test_claim import FakeMigration

NEW = "99999999-2222-3333-4444-555555555555"


class Killed(Exception):
    pass


class World:
    """A migration of a disk that is tracked. `logs`: the VDIs of which SM has a log, by UUID; the
    records of its xapi say what they say."""

    def __init__(self, monkeypatch, planned=True):
        self.m = FakeMigration()
        self.key = self.m.vdi["uuid"]
        disk = self.m.plan.disks[0]._replace(tracked=planned)
        self.m.plan = self.m.plan._replace(disks=[disk])
        self.m.destination = make_pool("B", ["b1"])
        there = add_vdi(self.m.destination, by_name(self.m.destination, "SR", "b1-sr"), uuid=NEW)
        self.m.destination_vdi = lambda disk: there
        self.m.disk(self.key)["destination_vdi"] = NEW
        self.m.plugin = self._plugin
        self.m.warn = self._warn
        self.m.vdi["cbt_enabled"] = True
        self.logs, self.calls, self.refusal, self.before = {self.key}, [], None, None
        monkeypatch.setattr(durable.database, "sync", lambda session: session.sync())
        monkeypatch.setattr(block_tracking.tracking, "end", self._end)
        monkeypatch.setattr(block_tracking.tracking, "renew", self._renew)
        self.m.source.sync()
        self.m.destination.sync()

    def record(self, session, uuid):
        return session.get("VDI", session.xenapi.VDI.get_by_uuid(uuid))

    def _end(self, session, uuid):
        assert uuid in self.m.entry["cbt_disabled"], "it is noted first"
        self._go("end %s" % uuid)
        record = self.record(session, uuid)
        if record["cbt_enabled"]:
            self.logs.discard(uuid)
            record["cbt_enabled"] = False

    def _begin(self, session, uuid):
        record = self.record(session, uuid)
        if self.refusal or record["cbt_enabled"]:
            return self.refusal
        self.logs.add(uuid)
        record["cbt_enabled"] = True
        return None

    def _renew(self, session, uuid):
        self._end(session, uuid)
        self._go("begin %s" % uuid)
        return self._begin(session, uuid)

    def _plugin(self, function, vdis):
        assert function == "receive-track"
        self._go("track %s" % vdis)
        answers = {uuid: self._begin(self.m.destination, uuid) for uuid in json.loads(vdis)}
        return json.dumps({"failed": {uuid: why for uuid, why in answers.items() if why}})

    def _warn(self, text, **fields):
        told = self.m.entry.get("warnings", [])
        self.m.note(warnings=told + [text], **fields)

    def _go(self, call):
        if self.before == call:
            raise Killed
        self.calls.append(call)

    def is_tracked(self, session=None, uuid=None):
        """Whether it is, by SM and by xapi."""
        uuid = uuid or self.key
        said = self.record(session or self.m.source, uuid)["cbt_enabled"]
        assert said == (uuid in self.logs)
        return said


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_the_claim_disables_what_is_tracked_and_notes_it_first(world):
    claim.claim(world.m)
    assert not world.is_tracked() and world.m.entry["cbt_disabled"] == [world.key]
    claim.claim(world.m)
    assert world.m.entry["cbt_disabled"] == [world.key] and len(world.calls) == 1


def test_a_disk_that_is_not_tracked_is_not_touched(world):
    world.m.vdi["cbt_enabled"] = False
    claim.claim(world.m)
    release.release(world.m)
    assert world.calls == [] and "cbt_disabled" not in world.m.entry


def test_taken_back_it_is_tracked_again(world):
    claim.claim(world.m)
    release.release(world.m)
    assert world.is_tracked() and world.m.entry["cbt_disabled"] == []
    assert "warnings" not in world.m.entry
    release.release(world.m)
    assert world.calls.count("begin %s" % world.key) == 1, "nothing is owed any more"


@pytest.mark.parametrize("moment", ["end %s", "begin %s"])
def test_a_kill_on_either_way_leaves_it_owed(world, moment):
    if moment == "end %s":
        world.before = moment % world.key
        with pytest.raises(Killed):
            claim.claim(world.m)
    else:
        claim.claim(world.m)
        world.before = moment % world.key
        with pytest.raises(Killed):
            release.release(world.m)
    assert world.m.entry["cbt_disabled"] == [world.key]
    world.before = None
    release.release(world.m)
    assert world.is_tracked() and world.m.entry["cbt_disabled"] == []


def test_a_database_that_says_falsely_that_it_is_tracked_is_not_believed(world):
    """It is of before the claim, and the log has gone."""
    claim.claim(world.m)
    world.m.source.goes_back()
    assert world.record(world.m.source, world.key)["cbt_enabled"] and world.logs == set()
    world.m.vdi = world.record(world.m.source, world.key)
    release.release(world.m)
    assert world.is_tracked() and world.m.entry["cbt_disabled"] == []


def test_a_database_that_goes_back_as_it_is_enabled_has_it_enabled_again(world, monkeypatch):
    claim.claim(world.m)
    world.m.source.sync()
    crashes = [world.m.source.goes_back]
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda session: (crashes.pop()() if crashes else None, session.sync()),
    )
    release.release(world.m)
    assert world.is_tracked()
    world.m.source.goes_back()
    assert world.is_tracked(), "it is on disk"


def test_what_cannot_be_enabled_is_told_with_what_to_do_and_ends_nothing(world):
    claim.claim(world.m)
    world.refusal = "SR_BACKEND_FAILURE_457 no room"
    release.release(world.m)
    (warning,) = world.m.entry["warnings"]
    assert "disk xvda (n)" in warning and world.refusal in warning
    assert "xe vdi-enable-cbt uuid=%s" % world.key in warning
    assert world.m.entry["cbt_disabled"] == []


def test_a_claim_that_xapi_refuses_to_disable_it_for_fails(world, monkeypatch):
    def refuse(session, uuid):
        raise TaskFailed("SR_BACKEND_FAILURE_458")

    monkeypatch.setattr(block_tracking.tracking, "end", refuse)
    with pytest.raises(TaskFailed):
        claim.claim(world.m)
    assert world.m.entry["cbt_disabled"] == [world.key]


def test_at_the_end_the_new_disk_is_tracked(world):
    claim.claim(world.m)
    assert block_tracking.owed_at_destination(world.m) == ["that VDI %s is tracked" % NEW]
    block_tracking.enable_at_destination(world.m)
    assert world.is_tracked(world.m.destination, NEW) and not world.is_tracked()
    assert block_tracking.owed_at_destination(world.m) == []
    assert world.m.entry["cbt_disabled"] == [world.key], "it may be forgotten before it is on disk"
    world.m.destination.goes_back()
    assert block_tracking.owed_at_destination(world.m) != []
    block_tracking.enable_at_destination(world.m)
    block_tracking.done(world.m)
    assert world.m.entry["cbt_disabled"] == [] and block_tracking.owed_at_destination(world.m) == []
    block_tracking.enable_at_destination(world.m)
    assert len([call for call in world.calls if call.startswith("track")]) == 2


def test_at_the_end_too_a_refusal_is_a_warning(world):
    claim.claim(world.m)
    world.refusal = "SR_OPERATION_NOT_SUPPORTED OpaqueRef:x"
    for _ in range(2):
        block_tracking.enable_at_destination(world.m)
    (warning,) = world.m.entry["warnings"]
    assert world.refusal in warning and "uuid=%s" % NEW in warning
    assert block_tracking.owed_at_destination(world.m) == []


def test_one_that_somebody_enables_meanwhile_is_disabled_before_it_is_mirrored(world):
    """As a backup program does before each backup."""
    (disk,) = world.m.plan.disks
    claim.claim(world.m)
    world._begin(world.m.source, world.key)
    block_tracking.require_disabled(world.m, disk)
    assert not world.is_tracked()
    world.m.vdi["cbt_enabled"] = False
    block_tracking.require_disabled(world.m, disk)


def test_unless_nobody_has_asked_for_that(monkeypatch):
    world = World(monkeypatch, planned=False)
    (disk,) = world.m.plan.disks
    claim.claim(world.m)
    assert world.is_tracked() and "cbt_disabled" not in world.m.entry
    with pytest.raises(DiskTracked) as refused:
        block_tracking.require_disabled(world.m, disk)
    assert refused.value.details == [world.key]
    release.release(world.m)
    assert world.calls == [], "it was never mirrored"


@pytest.mark.parametrize("how", [{"mover": {"pid": 1}}, {"renewed": True}])
def test_one_that_was_enabled_beside_a_mirror_is_renewed(monkeypatch, how):
    """The end of a mirror may have cost its log, of which neither SM nor xapi knows."""
    world = World(monkeypatch, planned=False)
    world.m.disk(world.key).update(how)
    release.release(world.m)
    assert world.calls == ["end %s" % world.key, "begin %s" % world.key] and world.is_tracked()
