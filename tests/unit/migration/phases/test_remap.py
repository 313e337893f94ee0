# SPDX-License-Identifier: LGPL-2.1-only
"""In the pool that it comes to, nobody starts the VM before the migration has ended; it has its
virtual TPM there."""

import json
import logging

import pytest

from fake_migration import make_plan
from fake_pool import FakePool, add_vdi
from storage_motion.errors import BadMetadata, NotDurable, Undecided
from storage_motion.migration import durable
from storage_motion.migration.phases import claim, cleanup, remap
from storage_motion.plan.checks import CLAIM
from tpm_document import SECRET, UUID, with_tpm


@pytest.fixture(autouse=True)
def synced(monkeypatch):
    monkeypatch.setattr(durable.database, "sync", FakePool.sync)


class World:
    id = "m"

    def __init__(self, live=True, power_state="Suspended"):
        self.plan = make_plan(live=live)
        self.destination, self.receiving_host, self.plugins = FakePool("B"), None, []
        self.lost, self.warned = False, []
        self.entry = {
            "imported": True,
            "receiving": True,
            "disks": {"k": {"gate": "open", "destination_vdi": "d"}},
        }
        self.vm = self.destination.add(
            "VM", uuid="v", power_state=power_state, blocked_operations={"snapshot": "the user's"}
        )
        self.destination.handlers["VM.power_state_reset"] = lambda ref: self.record.update(
            power_state="Halted"
        )
        self.destination.handlers["VM.destroy"] = self._destroy

    def _destroy(self, ref):
        assert (
            "destroy" not in self.record["blocked_operations"]
            and "start" in self.record["blocked_operations"]
        )
        del self.destination.tables["VM"][ref]

    @property
    def record(self):
        return self.destination.tables["VM"][self.vm]

    def disk(self, key):
        return self.entry["disks"][key]

    def destination_vdi(self, disk):
        return self.destination.xenapi.VDI.get_by_uuid("d")

    def note(self, key=None, **fields):
        self.entry.update(fields)

    def warn(self, text):
        self.warned.append(text)

    def plugin(self, function):
        assert "start" in self.record["blocked_operations"], "this comes before"
        self.plugins.append(function)


def test_it_is_blocked_until_the_very_end_which_is_on_disk():
    world = World()
    vdi = add_vdi(
        world.destination,
        "OpaqueRef:sr",
        uuid="d",
        sm_config={"paused": "storage-motion", "relinking": "storage-motion"},
    )
    for _ in range(2):
        claim.block_arrived(world, world.vm)
    assert (
        set(world.record["blocked_operations"]) == set(claim.DISTURBING)
        and world.record["blocked_operations"]["snapshot"] == "the user's"
    )
    cleanup.end(world)
    assert world.plugins == ["receive-end"] and world.record["blocked_operations"] == {
        "snapshot": "the user's"
    }
    world.destination.goes_back()
    assert world.record["blocked_operations"] == {"snapshot": "the user's"}
    assert world.destination.tables["VDI"][vdi]["sm_config"] == {}, (
        "an older database had shut its gate"
    )


def test_a_mark_that_an_older_database_brings_back_at_the_end_goes_again(monkeypatch):
    """The destination's journal, by which `receive-end` takes it away, has gone by then."""
    world = World()
    vdi = add_vdi(world.destination, "OpaqueRef:sr", uuid="d", other_config={CLAIM: world.id})
    claim.block_arrived(world, world.vm)
    world.destination.sync()
    world.destination.tables["VDI"][vdi]["other_config"] = {}
    crashes = [world.destination.goes_back]
    monkeypatch.setattr(
        durable.database,
        "sync",
        lambda session: (crashes.pop()() if crashes else None, session.sync()),
    )
    cleanup.end(world)
    world.destination.goes_back()
    assert world.destination.tables["VDI"][vdi]["other_config"] == {}


def test_what_the_user_had_blocked_at_the_source_is_blocked_here_in_the_end():
    world = World()
    world.record["blocked_operations"] = {}
    claim.block_arrived(world, world.vm)
    world.entry.update(blocked_by_user={"destroy": "precious", "send_trigger": "hands off"})
    for _ in range(2):
        claim.hand_on(world, world.vm)
        claim.unblock_arrived(world, world.vm)
    assert world.record["blocked_operations"] == {
        "destroy": "precious",
        "send_trigger": "hands off",
    }


def test_taking_it_away_lifts_no_more_than_it_needs():
    world = World()
    claim.block_arrived(world, world.vm)
    for _ in range(2):
        remap.remove(world)
    assert not world.destination.tables["VM"] and world.entry["imported"] is False


def test_a_crash_does_not_bring_it_back_when_its_disks_go(monkeypatch):
    """They go next. Nobody would look for the VM any more, which would stay there for good,
    blocked, and in the way of the next migration."""
    world, crashes = World(power_state="Halted"), []
    claim.block_arrived(world, world.vm)
    world.destination.sync()

    def sync(session):
        if not crashes:
            crashes.append(session.goes_back())
        session.sync()

    monkeypatch.setattr(durable.database, "sync", sync)
    remap.remove(world)
    assert not world.destination.tables["VM"] and world.entry["imported"] is False
    world.destination.goes_back()
    assert not world.destination.tables["VM"]


def test_what_is_not_known_to_be_on_disk_is_not_noted(monkeypatch):
    """So a recovery looks for it again."""
    world = World(power_state="Halted")
    claim.block_arrived(world, world.vm)

    def sync(session):
        raise NotDurable("no answer")

    monkeypatch.setattr(durable.database, "sync", sync)
    with pytest.raises(NotDurable):
        remap.remove(world)
    assert world.entry["imported"] is True


def test_a_vm_that_was_halted_and_has_been_started_is_not_taken_away():
    world = World(live=False, power_state="Running")
    claim.block_arrived(world, world.vm)
    with pytest.raises(Undecided):
        remap.remove(world)
    assert world.record["power_state"] == "Running"


@pytest.mark.parametrize("state", ["Suspended", "Running"])
def test_a_suspended_vm_is_taken_away_unless_it_has_been_resumed(state):
    world = World(live=False, power_state=state)
    (disk,) = world.plan.disks
    world.plan = world.plan._replace(disks=[disk, disk._replace(key="memory", vbd="")])
    claim.block_arrived(world, world.vm)
    if state == "Running":
        with pytest.raises(Undecided):
            remap.remove(world)
    else:
        remap.remove(world)
        assert not world.destination.tables["VM"]


@pytest.mark.parametrize("status", ["success", "failure"])
def test_an_import_that_outlives_its_worker_is_waited_for(status):
    """Else what it makes stays there, halted and blocked, when all else has been taken back."""
    world = World(power_state="Halted")
    made = world.destination.tables.pop("VM")
    world.note(import_tasks=["OpaqueRef:import"])
    world.destination.tables["task"] = {"OpaqueRef:import": {"error_info": ["X"], "result": ""}}
    looks = ["pending", status]

    def get_status(task):
        if len(looks) == 1 and status == "success":
            world.destination.tables["VM"] = made
            claim.block_arrived(world, world.vm)
        return looks.pop(0)

    world.destination.handlers["task.get_status"] = get_status
    remap.remove(world)
    assert not looks and not world.destination.tables.get("VM")
    assert not world.entry["imported"] and not world.entry["import_tasks"]


def test_of_an_import_that_does_not_end_the_user_is_warned(monkeypatch):
    monkeypatch.setattr(remap.metadata, "IMPORT_TIMEOUT", 0.0)
    world = World(power_state="Halted")
    world.destination.tables["VM"].clear()
    world.note(import_tasks=["OpaqueRef:import"])
    world.destination.tables["task"] = {"OpaqueRef:import": {"status": "pending"}}
    remap.remove(world)
    assert "if it appears there, destroy it there" in world.warned[0]


def of_a_member(monkeypatch, bound=120.0):
    """A destination host that is a member, whose xapi was asked for an import; and a master that
    has been killed since, and has no task of it any more: (the world, the host's other_config)."""
    monkeypatch.setattr(remap.metadata, "IMPORT_TIMEOUT", bound)
    world = World(power_state="Halted")
    destination = world.destination
    destination.add("pool", master=destination.add("host", other_config={}))
    host = destination.add("host", other_config={remap.STARTED: "1764291000."})
    world.host = lambda: host
    world.note(import_tasks=["OpaqueRef:import"], import_started="1764291000.")
    return world, destination.tables["host"][host]["other_config"]


def test_the_import_of_a_member_that_lives_has_not_ended_with_its_masters_task(monkeypatch):
    """Its thread goes on, and asks the master that is back for the database."""
    world, _ = of_a_member(monkeypatch, bound=0.0)
    world.destination.tables["VM"].clear()
    remap.remove(world)
    assert "if it appears there, destroy it there" in world.warned[0]
    assert world.entry["import_tasks"] == ["OpaqueRef:import"]


def test_what_a_member_makes_after_its_master_is_back_is_taken_away(monkeypatch):
    """It is waited for until the member's xapi has gone, too."""
    world, other_config = of_a_member(monkeypatch)
    made, looks = world.destination.tables.pop("VM"), []

    def look(host):
        looks.append(host)
        if len(looks) == 2:
            world.destination.tables["VM"] = made
            claim.block_arrived(world, world.vm)
            other_config[remap.STARTED] = "1764291900."
        return dict(other_config)

    world.destination.handlers["host.get_other_config"] = look
    remap.remove(world)
    assert not world.destination.tables["VM"] and not world.warned
    assert not world.entry["import_tasks"]


def test_the_import_of_a_master_has_ended_with_its_task(monkeypatch):
    world, _ = of_a_member(monkeypatch)
    (pool,) = world.destination.tables["pool"].values()
    pool["master"] = world.host()
    world.destination.tables["VM"].clear()
    remap.remove(world)
    assert not world.warned and not world.entry["import_tasks"]


class WithTpm:
    """A VM with a virtual TPM whose metadata is brought to another pool. `taken`: the UUIDs of
    those that the importer there makes of it. `sent`: [(document, whether for a rehearsal)]."""

    id = "m"

    def __init__(self, monkeypatch, taken=(UUID,)):
        self.plan = make_plan(vm="vm", disks=[], vifs=[])
        self.source, self.destination = FakePool("A"), FakePool("B")
        self.receiving_host, self.entry = {"xenops": "https://b/x"}, {"disks": {}}
        self.sent, self._taken = [], taken
        tpm = self.source.add("VTPM", uuid=UUID)
        vm = self.source.add("VM", uuid="vm", VTPMs=[tpm], ha_restart_priority="")
        self.vm = lambda: vm
        host = self.destination.add("host", uuid=self.plan.destination_host, other_config={})
        self.host = lambda: host
        self.destination.add("pool", master=host)
        self.destination.add("network", uuid=self.plan.network)
        monkeypatch.setattr(remap.metadata, "export", lambda session, ref, snapshots: with_tpm())
        monkeypatch.setattr(remap.metadata, "bring", self._import)
        monkeypatch.setattr(
            remap.receiving_host, "ask", lambda *_: {"xenops": "https://b/x", "session_id": "s"}
        )
        monkeypatch.setattr(remap.receiving_host, "leave", lambda *_: None)

    def note(self, key=None, **fields):
        self.entry.update(fields)

    def _import(self, session, url, document, check_cpu, dry_run=False, copy=False, asked=None):
        self.sent.append((document, dry_run))
        if not dry_run:
            asked("OpaqueRef:import")
            assert self.entry["import_tasks"][-1] == "OpaqueRef:import", "noted before it is sent"
            tpms = [self.destination.add("VTPM", uuid=uuid) for uuid in self._taken]
            self.destination.add("VM", uuid="vm", VTPMs=tpms, blocked_operations={})

    def told(self, caplog):
        """All that is written down of it."""
        return caplog.text + json.dumps(self.entry)


def test_what_is_in_a_tpm_goes_to_the_import_alone(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    world = WithTpm(monkeypatch)
    remap.rehearse(world.source, world.destination, world.plan)
    remap.bring(world)
    (rehearsed, _), (brought, _) = world.sent
    assert [dry_run for _, dry_run in world.sent] == [True, False]
    assert UUID.encode() in rehearsed and SECRET.split()[0].encode() not in rehearsed
    assert SECRET.encode() in brought
    assert not [part for part in SECRET.split() if part in world.told(caplog)]


def test_a_destination_that_passes_over_the_tpm(monkeypatch, caplog):
    world = WithTpm(monkeypatch, taken=())
    with pytest.raises(BadMetadata, match="has not taken virtual TPM %s" % UUID):
        remap.bring(world)
    (vm,) = world.destination.tables["VM"].values()
    assert vm["blocked_operations"] == {}, "the undo, or the next try, takes it away"
    assert not [part for part in SECRET.split() if part in world.told(caplog)]


def test_an_import_that_has_not_ended_is_waited_for_again_by_the_undo(monkeypatch):
    """The next one must not hide it: what it makes would be there, halted and unblocked, when all
    else has been taken back."""
    monkeypatch.setattr(remap.metadata, "IMPORT_TIMEOUT", 0.0)
    world = WithTpm(monkeypatch)
    world.lost, world.warned = False, []
    world.warn = world.warned.append
    world.entry["import_tasks"] = ["OpaqueRef:first"]
    status = {"OpaqueRef:first": "pending", "OpaqueRef:import": "success"}
    world.destination.handlers["task.get_status"] = status.get
    world.destination.handlers["task.get_result"] = lambda task: ""
    remap.bring(world)
    assert world.entry["import_tasks"] == ["OpaqueRef:first"], "its own has ended"
    assert not world.warned, "the VM is to be there"
    world.destination.tables["VM"].clear()
    remap.remove(world)
    assert "if it appears there, destroy it there" in world.warned[0]
    assert world.entry["import_tasks"] == ["OpaqueRef:first"]
