"""The move: xenopsd's task and the gates together, whatever fails, and the way back."""
import errno
import json

import pytest

import storage_motion
from fake_pool import NULL, FakePool, add_vdi, failure
from storage_motion.control import bar, claim, durable, gate, move, phases, remains, remap, resume, whereabouts
from storage_motion.errors import (Cancelled, DestinationFull, JournalNotWritten, MirrorBroken, MoveFailed, MoverFailed, NotCleanedUp, NotDurable,
                                   Refused, TimedOut, Undecided, Unreachable, XenopsError)
from test_migration import make_plan

HOST = "host_OpaqueRef:1"
SHUT = {"paused": "storage-motion", "relinking": "storage-motion"}
MIRRORING, ENDED = {"state": "mirroring", "clean": False}, {"state": "ended", "clean": True}


class FakeMover:
    def __init__(self, world):
        self.key, self._world = "k", world

    def status(self):
        if isinstance(self._world.told, Exception):
            raise self._world.told
        return self._world.told

    def finish(self, mirrored):
        self._world.log.append("gate opened")
        self._world.open()


class World:
    """One disk on its way. `script`: what xenopsd's task is at each look: a state, or a function that changes the world and
    returns one. `there`, `here`: the sm_configs."""
    id, lost, closes, outage_there = "m", False, None, None

    @staticmethod
    def full(fields):
        """Whether the journal cannot be written now, that the record of a disk or of all becomes `fields`."""
        return False

    def __init__(self, monkeypatch, script, same_host=False):
        self.log, self.script, self.told = [], list(script), MIRRORING
        self.source, self.destination = FakePool("A"), FakePool("B")
        self._here = add_vdi(self.source, "OpaqueRef:sr", sm_config={HOST: "RW"})
        self._there = add_vdi(self.destination, "OpaqueRef:sr", sm_config=dict(SHUT), managed=False)
        self.plan = make_plan(**({"kind": "in-pool", "destination_host": "h"} if same_host else {}))
        self.arrival = {"xenops": "https://b/services/xenops?session_id=x", "session_id": "x"}
        self.destination.add("network", uuid=self.plan.network)
        monkeypatch.setattr(remap, "arrive", lambda session, host, network: {"xenops": "https://b/services/xenops?session_id=y", "session_id": "y"})
        monkeypatch.setattr(remap, "depart", lambda session, arrival: None)
        self.entry = {"disks": {"k": {"index": 0, "destination_vdi": "d"}}, "blocked": ["hard_shutdown"], "begun": ["claim", "move"], "imported": True}
        self.state_here, self.state_there, self.arriving, self.asks_to_cancel = "Running", None, None, False
        self.leaving, self.kept, self.busy_there = None, None, False
        monkeypatch.setattr(remains.kept, "keep", lambda migration, text: setattr(self, "kept", text))
        monkeypatch.setattr(remains.kept, "get", lambda migration: self.kept)
        self.plugin_fails, self.tasks_here, self.arrived, self.witness = None, [], False, False
        monkeypatch.setattr(durable.database, "sync", FakePool.sync)
        monkeypatch.setattr(move.xenops.Xenops, "local", classmethod(lambda cls, session, label: FakeXenops(self, "here")))
        monkeypatch.setattr(move.xenops.Xenops, "at", classmethod(lambda cls, url, label, **_: FakeXenops(self, "there")))
        monkeypatch.setattr(whereabouts, "SETTLE_TIMEOUT", 0.3)
        monkeypatch.setattr(move, "SILENCE_TIMEOUT", 0.3)
        monkeypatch.setattr(gate, "SETTLE_TIMEOUT", 0.3)
        monkeypatch.setattr(move, "_maps", lambda m: ({}, {}))
        monkeypatch.setattr(move.activation, "let_go_dead", lambda session, uuid, vm: False)
        monkeypatch.setattr(move.pool_lock, "_others", lambda m: [])
        self.installed = {"version": storage_motion.__version__, "driver": True}
        monkeypatch.setattr(move.installed, "_ask", lambda session, host: self.installed)
        vbd = self.source.add("VBD", VDI=self._here, empty=False, type="Disk")
        self.source.add("VM", uuid="v", power_state="Running", other_config={}, blocked_operations={"hard_shutdown": "ours"}, VBDs=[vbd], VIFs=[])
        self.source.tables["VDI"][self._here]["uuid"] = "k"
        self.source.add("SR", uuid="s")
        self.destination.tables["VDI"][self._there]["uuid"] = "d"
        there = self.destination.add("VM", uuid="v", blocked_operations={"destroy": claim.reason("m")}, resident_on=NULL, power_state="Running",
                                     scheduled_to_be_resident_on=self.host())
        self.destination.tables["VDI"][self._there]["VBDs"] = [self.destination.add("VBD", VM=there)]
        self.tapdisk = "mirroring"
        monkeypatch.setattr(bar.driver, "ask", lambda *_, **__: '{"state": "%s", "outstanding": 0}' % self.tapdisk)
        self.source.handlers["VM.hard_shutdown"] = lambda ref: self.log.append("shut down")

    here = property(lambda self: self.source.tables["VDI"][self._here]["sm_config"])
    there = property(lambda self: self.destination.tables["VDI"][self._there]["sm_config"])

    def disk(self, key):
        return self.entry["disks"][key]

    def guest_closes(self):
        return self.closes

    def closed(self):
        self.closes = None

    def note(self, key=None, **fields):
        if self.full(dict(self.entry if key is None else self.disk(key), **fields)):
            raise JournalNotWritten("/x", "No space left on device")
        (self.entry if key is None else self.disk(key)).update(fields)

    def vm(self):
        return self.source.xenapi.VM.get_by_uuid("v")

    def mover(self, key):
        return FakeMover(self)

    def host(self):
        return "OpaqueRef:i"

    def source_vdi(self, disk):
        return self.source.xenapi.VDI.get_by_uuid("k")

    def destination_vdi(self, disk):
        return self._there

    def cancel_asked(self):
        return self.asks_to_cancel

    def pulse(self, cancellable=True):
        pass

    def open(self):
        """What a `finish` does."""
        self.witness = True
        for key in SHUT:
            self.there.pop(key, None)

    def plugin(self, function, **arguments):
        self.log.append(function)
        if self.plugin_fails:
            raise self.plugin_fails
        if function == "receive-give":
            self.destination.tables["VDI"][self._there]["managed"] = True
        return json.dumps({"arrived": self.arrived, "opened": ["k"] if self.witness else []})

    def describe(self, error):
        return [str(error)]

    def suspend(self):
        """The guest's tapdisk is closed at the source."""
        self.here.pop(HOST, None)
        self.told, self.state_here, self.leaving = ENDED, None, "Suspended"
        return "Pending", 0.5

    def arrive(self):
        """The destination activates, if it can, and runs."""
        if "paused" in self.there:
            return "Pending", 0.9
        self.there[HOST] = "RW"
        self.state_there, self.state_here, self.leaving = "Running", None, None
        return "Completed", {}


class FakeXenops:
    def __init__(self, world, side):
        self._world, self._side = world, side

    @property
    def at_once(self):
        return self

    def migrate(self, *_, **__):
        return "7"

    def task(self, _):
        step = self._world.script[0] if len(self._world.script) == 1 else self._world.script.pop(0)
        found = step() if callable(step) else step
        if isinstance(found, Exception):
            raise found
        return found

    def busy(self):
        return self._world.busy_there

    def tasks_of_label(self):
        return self._world.tasks_here

    def cancel(self, _):
        self._world.log.append("cancel")

    def destroy(self, _):
        pass

    def power_state(self, vm):
        if vm == move.xenops.leaving("v"):
            return self._world.leaving if self._side == "here" else None
        if vm == move.xenops.incoming("v"):
            return self._world.arriving
        found = self._world.state_here if self._side == "here" else self._world.state_there
        if isinstance(found, Exception):
            raise found
        return found

    def end(self, vm):
        if self.power_state(vm) is None:
            return
        name = {"v": "v", move.xenops.leaving("v"): "leaving", move.xenops.incoming("v"): "incoming"}[vm]
        self._world.log.append("end %s %s" % (name, self._side))
        if name == "v":
            setattr(self._world, "state_" + self._side, None)
        else:
            setattr(self._world, {"incoming": "arriving"}.get(name, name), None)

    def forget(self, vm):
        assert self.power_state(vm) not in ("Running", "Paused")
        self._world.state_here = None

    def export_metadata(self, vm):
        return json.dumps({"vm": {"id": vm}, "domains": "running"})

    def import_metadata(self, text):
        assert json.loads(text) == {"vm": {"id": "v"}}
        self._world.log.append("given back")
        self._world.state_here = "Halted"

    def refresh(self, vm):
        if self.power_state(vm) == "Halted":
            record, = self._world.source.tables["VM"].values()
            record["power_state"], self._world.state_here = "Halted", None


PENDING, FAILED = ("Pending", 0.1), ("Failed", ["Internal_error", "boom"])
SEALED = {"paused": "sxm m", "relinking": "sxm m"}


def world_of(monkeypatch, *script, **options):
    world = World(monkeypatch, [], **options)
    world.script = [getattr(world, step) if isinstance(step, str) else step for step in script]
    monkeypatch.setattr(move, "_gate", lambda m, disk, mirrored: gate.Gate(
        m.source, m.source_vdi(disk), FakeMover(m), mirrored, "sxm m", lambda step: m.note(disk.key, gate=step), m.disk(disk.key).get("gate")))
    return world


def test_it_moves(monkeypatch):
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, "arrive")
    move.move(world)
    assert world.disk("k")["gate"] == "open" and world.here == SEALED and world.entry["downtime"] is not None


def test_a_broken_mirror_stops_it_before_the_suspend(monkeypatch):
    world = world_of(monkeypatch, PENDING, PENDING, FAILED)
    world.told = {"state": "broken", "clean": False, "error": "cut"}
    with pytest.raises(MirrorBroken):
        move.move(world)
    assert world.log == ["cancel"]
    move.shut_gates(world)
    assert world.here == {HOST: "RW"} and world.log == ["cancel"] and world.state_here == "Running", "the guest has not noticed"


def test_a_guest_that_reboots_waits_for_no_move_that_waits_for_it(monkeypatch):
    """Its disks are closed as cleanly as by a move, and opened again only without the bars; xenopsd moves it only then."""
    world = world_of(monkeypatch, PENDING)

    def reboots():
        world.closes, world.told = "hard-reboot", ENDED
        world.here.pop(HOST)
        return PENDING

    def waits():
        assert world.here == {} and world.log == ["mover abort", "cancel"], "no gate can be opened any more, and the bar is lifted"
        world.here[HOST] = "RW"
        return FAILED
    world.script = [PENDING, reboots, waits]
    monkeypatch.setattr(FakeMover, "end", lambda mover, process, command: world.log.append("mover " + command), raising=False)
    with pytest.raises(MirrorBroken) as raised:
        move.move(world)
    assert "hard-reboot" in str(raised.value) and world.disk("k").get("gate") is None and "paused" in world.there
    move.shut_gates(world)
    assert world.here == {HOST: "RW"} and "gate opened" not in world.log and "shut down" not in world.log


def test_a_mirror_that_breaks_at_the_suspend_opens_nothing(monkeypatch):
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, FAILED)
    real = world.suspend

    def suspend():
        real()
        world.told = {"state": "ended", "clean": False}
        return PENDING
    world.script[1] = suspend
    with pytest.raises(MirrorBroken):
        move.move(world)
    assert "gate opened" not in world.log and "paused" in world.there
    move.shut_gates(world)
    assert world.log[-2:] == ["end leaving here", "given back"], "like xapi: its data is whole at the source"
    assert world.source.tables["VM"][world.vm()]["power_state"] == "Halted" and world.state_here is None, "noted, and forgotten"
    done = list(world.log)
    move.shut_gates(world)
    assert world.log == done


def behind_the_suspend(monkeypatch, **options):
    """A move that has failed with its gate shut, as xenopsd leaves it."""
    world = world_of(monkeypatch, PENDING, **options)
    record, = world.source.tables["VM"].values()
    world.state_here, world.leaving, world.kept = None, "Suspended", json.dumps({"vm": {"id": "v"}})
    world.note("k", gate="sealed")
    world.here.clear()
    world.here.update(SEALED)
    return world, record


@pytest.mark.parametrize("at_the_destination", ["", "end v there", "end incoming there"])
@pytest.mark.parametrize("how_far", range(4))
def test_whatever_a_failed_move_has_left_in_xenopsd_the_vm_is_halted_and_free(monkeypatch, at_the_destination, how_far):
    """`how_far`: what somebody who was killed had done of it."""
    world, record = behind_the_suspend(monkeypatch)
    world.state_there = "Paused" if "v" in at_the_destination.split() else None
    world.arriving = "Paused" if "incoming" in at_the_destination else None
    world.leaving = None if how_far > 0 else world.leaving
    world.state_here = "Halted" if how_far > 1 else None
    record["power_state"] = "Halted" if how_far > 2 else "Running"
    move.shut_gates(world)
    assert record["power_state"] == "Halted" and world.here == {}
    assert (world.state_here, world.state_there, world.arriving, world.leaving) == (None, None, None, None)
    assert sorted(world.log) == sorted([what for what in [at_the_destination] if what] + ["end leaving here"][how_far:] + ["given back"] * (how_far < 2))


def test_a_copy_with_one_open_disk_of_two_is_ended_before_its_gate_is_shut(monkeypatch):
    """xenopsd leaves it paused, with the disk that it got active."""
    world, record = behind_the_suspend(monkeypatch)
    first = world.plan.disks[0]
    world.plan = world.plan._replace(disks=(first, first._replace(key="l")))
    world.entry["disks"]["l"] = {"index": 1, "gate": "attached"}
    other = add_vdi(world.destination, "OpaqueRef:sr", sm_config=dict(SHUT))
    monkeypatch.setattr(World, "destination_vdi", lambda self, disk: other if disk.key == "l" else self._there)
    world.note("k", gate="open")
    world.open()
    world.there[HOST] = "RW"
    world.state_there = "Paused"
    ended = FakeXenops.end
    monkeypatch.setattr(FakeXenops, "end", lambda self, vm: (ended(self, vm), self._side == "there" and world.there.pop(HOST, None)))
    assert whereabouts.decide(world) == whereabouts.SOURCE and world.log == ["receive-stop", "end v there"]
    move.shut_gates(world)
    assert world.there == SHUT and record["power_state"] == "Halted"


def test_where_both_hosts_are_one_the_copy_has_the_vms_id(monkeypatch):
    world, record = behind_the_suspend(monkeypatch, same_host=True)
    world.state_here = "Paused"
    taken = []
    monkeypatch.setattr(remains.adopt, "_replace", lambda m, disk, vdi: taken.append((disk.key, vdi == m.source_vdi(disk))))
    vbd, = world.source.tables["VBD"].values()
    vbd.update(uuid=world.plan.disks[0].vbd, VDI="OpaqueRef:the new one")
    move.shut_gates(world)
    assert world.log == ["end v here", "end leaving here", "given back"] and record["power_state"] == "Halted"
    assert taken == [("k", True)], "xapi has taken the new disk already, which is not to stay"


def test_a_copy_that_has_all_its_disks_open_and_never_runs_is_ended_and_is_the_destinations(monkeypatch):
    world, _ = behind_the_suspend(monkeypatch)
    world.note("k", gate="open")
    world.open()
    world.state_there = "Paused"
    world.busy_there = True
    with pytest.raises(Undecided):
        whereabouts.decide(world)
    world.busy_there = False
    assert whereabouts.decide(world) == whereabouts.DESTINATION and world.log == 2 * ["receive-stop"] + ["end v there"]


def test_a_record_that_xapi_took_for_suspended_is_halted(monkeypatch):
    world, record = behind_the_suspend(monkeypatch)
    record["power_state"] = "Suspended"
    world.source.handlers["VM.hard_shutdown"] = lambda ref: record.update(power_state="Halted")
    move.shut_gates(world)
    assert record["power_state"] == "Halted" and record["blocked_operations"] == {} and world.log == ["end leaving here"]


def test_without_what_was_kept_a_member_is_believed_and_the_user_told(monkeypatch):
    world, record = behind_the_suspend(monkeypatch)
    world.kept = None
    world.source.handlers["VM.power_state_reset"] = lambda ref: (_ for _ in ()).throw(failure("HOST_IS_LIVE", "OpaqueRef:host"))
    with pytest.raises(NotCleanedUp, match="HOST_IS_LIVE"):
        move.shut_gates(world)


def test_before_a_move_what_an_earlier_one_has_left_is_ended_and_what_xenopsd_knows_is_kept(monkeypatch):
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, "arrive")
    world.leaving, world.arriving = "Suspended", "Paused"
    move.move(world)
    assert world.log[:2] == ["end leaving here", "end incoming there"] and json.loads(world.kept) == {"vm": {"id": "v"}}


def test_a_vm_that_runs_under_a_temporary_id_is_left_alone(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.arriving = "Running"
    with pytest.raises(MoveFailed, match="runs a VM of that id"):
        move.move(world)
    assert world.arriving == "Running" and "xenops_task" not in world.entry


def test_a_cancel_in_time(monkeypatch):
    world = world_of(monkeypatch, PENDING, ("Failed", ["Cancelled", "7"]))
    world.asks_to_cancel = True
    with pytest.raises(Cancelled):
        move.move(world)
    assert world.log == ["cancel"]


def test_a_cancel_too_late_is_ignored(monkeypatch):
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, "arrive")
    real = world.suspend
    world.script[0] = lambda: (real(), setattr(world, "asks_to_cancel", False))[0]
    world.script[1] = lambda: (setattr(world, "asks_to_cancel", True), PENDING)[1]
    move.move(world)
    assert "cancel" not in world.log


def test_a_failure_before_the_gate_opened_goes_back_in_the_right_order(monkeypatch):
    world = world_of(monkeypatch, PENDING, "suspend", FAILED)
    monkeypatch.setattr(FakeMover, "finish", lambda mover, mirrored: (_ for _ in ()).throw(MoverFailed("k", "no")))
    with pytest.raises(MoverFailed):
        move.move(world)
    assert world.disk("k")["gate"] == "opening"
    order = []
    for name, pool in (("source", world.source), ("destination", world.destination)):
        for method in ("add_to_sm_config", "remove_from_sm_config"):
            pool.handlers["VDI." + method] = lambda *a, name=name, method=method, pool=pool: (
                order.append((name, method, a[1])), pool._field("VDI", method, a))[1]
    move.shut_gates(world)
    assert order == [("destination", "add_to_sm_config", "paused"), ("destination", "add_to_sm_config", "relinking"),
                     ("source", "remove_from_sm_config", "paused"), ("source", "remove_from_sm_config", "relinking")]
    assert world.there == SHUT and world.here == {} and world.disk("k")["opened"] and world.entry["xenops_task"] is None
    move.shut_gates(world)


def test_what_the_vm_has_left_active_at_the_source_is_let_go_of_once_nothing_bars_that(monkeypatch):
    """As when xapi dies while SM deactivates: SM deactivates nothing that is `paused`."""
    world = world_of(monkeypatch, PENDING, "suspend", FAILED)
    monkeypatch.setattr(FakeMover, "finish", lambda mover, mirrored: (_ for _ in ()).throw(MoverFailed("k", "no")))
    with pytest.raises(MoverFailed):
        move.move(world)
    monkeypatch.setattr(move.activation, "let_go_dead", lambda session, uuid, vm: world.log.append(("let go", uuid, vm, dict(world.here))))
    move.shut_gates(world)
    assert world.log[-1] == ("let go", "k", world.plan.vm, {})


def test_a_failure_after_the_gate_opened_leaves_the_vm_at_the_destination(monkeypatch):
    """It may have run there, and written, and have ended before anybody looked."""
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, PENDING, FAILED)
    move.move(world)
    assert world.there == {} and world.here == SEALED and world.disk("k")["gate"] == "open"
    with pytest.raises(Undecided):
        move.shut_gates(world)
    assert world.there == {} and world.here == SEALED


def test_a_finish_that_died_half_way_has_opened_the_gate(monkeypatch):
    """It is noted there; SM may take `paused` away at any time, as it does when the SR is plugged."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.witness = True
    del world.there["relinking"]
    assert whereabouts.decide(world) == whereabouts.DESTINATION
    whereabouts.open_again(world)
    assert world.there == {} and world.disk("k")["gate"] == "open"


def test_a_finish_that_is_under_way_is_stopped_before_the_gate_is_shut(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.here["paused"] = "sxm m"
    world.destination.handlers["VDI.add_to_sm_config"] = lambda *a: (
        world.log.append("shut"), world.destination._field("VDI", "add_to_sm_config", a))[1]
    move.shut_gates(world)
    assert world.log == ["receive-stop", "shut", "shut"] and "paused" not in world.here
    move.shut_gates(world)
    assert world.log == ["receive-stop", "shut", "shut"], "there is nothing to stop any more"


@pytest.mark.parametrize("error", [failure("SXM_TIMED_OUT", "process 7", "300"), ConnectionResetError("cut"), TimedOut("x", "1")])
def test_if_it_cannot_be_stopped_nothing_is_unsealed(monkeypatch, error):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.here["paused"] = "sxm m"
    world.plugin_fails = error
    with pytest.raises(Undecided):
        move.shut_gates(world)
    assert world.here["paused"] == "sxm m" and world.disk("k")["gate"] == "opening"


def test_xenopsd_reports_a_failure_but_the_vm_is_there(monkeypatch):
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, PENDING)
    world.script.append(lambda: (world.arrive(), FAILED)[1])
    move.move(world)
    assert world.here == SEALED
    with pytest.raises(Undecided):
        move.shut_gates(world)
    assert world.here == SEALED, "the source stays sealed"


@pytest.mark.parametrize("step", ["opening", "open"])
def test_a_vm_that_has_arrived_is_there_whatever_the_databases_say(monkeypatch, step):
    """A xapi that went back in time has the gate shut, and has shut the guest down."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate=step)
    world.arrived = True
    assert whereabouts.decide(world) == whereabouts.DESTINATION and world.entry["arrived"]
    with pytest.raises(Undecided):
        move.shut_gates(world)
    whereabouts.open_again(world)
    assert world.there == {} and world.disk("k")["gate"] == "open"


def test_it_is_known_to_have_arrived_even_if_the_record_of_its_disk_is_gone(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.arrived = True
    monkeypatch.setattr(World, "destination_vdi", lambda self, disk: (_ for _ in ()).throw(failure("UUID_INVALID", "VDI", "d")))
    assert whereabouts.decide(world) == whereabouts.DESTINATION
    whereabouts.open_again(world)
    assert world.disk("k")["gate"] == "open"


LOST = Unreachable("b", "gone")


@pytest.mark.parametrize("gate_is, active, there, arriving, same_host, expected", [
    ("shut", False, None, None, False, whereabouts.SOURCE), ("shut", False, "Halted", None, False, whereabouts.SOURCE),
    ("shut", False, "Suspended", "Suspended", False, whereabouts.SOURCE), ("shut", False, "Running", None, False, None),
    ("shut", False, LOST, None, False, None), ("shut", False, XenopsError("VM.stat", "boom"), None, False, None),
    ("shut", False, "Running", None, True, whereabouts.SOURCE), ("shut", False, None, None, True, whereabouts.SOURCE),
    ("open", True, "Running", None, False, whereabouts.DESTINATION), ("open", True, None, None, False, None),
    ("open", True, "Suspended", None, False, None), ("open", False, "Running", None, False, whereabouts.DESTINATION),
    ("open", False, None, None, False, whereabouts.DESTINATION), ("open", False, "Halted", None, False, whereabouts.DESTINATION),
    ("open", False, None, "Paused", False, None), ("open", False, LOST, None, False, None),
    ("open", True, "Running", None, True, whereabouts.DESTINATION), ("open", False, "Running", None, True, None),
    ("open", False, "Suspended", None, True, whereabouts.DESTINATION), ("open", False, "Suspended", None, False, None)])
def test_whereabouts(monkeypatch, gate_is, active, there, arriving, same_host, expected):
    world = world_of(monkeypatch, PENDING, same_host=same_host)
    world.state_there, world.arriving, world.busy_there = there, arriving, arriving is not None
    if gate_is == "open":
        world.note("k", gate="opening")
        world.open()
    if same_host:
        world.state_here = there
    if active:
        world.there[HOST] = "RW"
    if expected is None:
        with pytest.raises(Undecided):
            whereabouts.decide(world)
    else:
        assert whereabouts.decide(world) == expected


def test_one_gate_that_is_shut_is_enough_to_know_that_the_vm_never_ran_there(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    first = world.plan.disks[0]
    world.plan = world.plan._replace(disks=(first, first._replace(key="l")))
    world.entry["disks"]["l"] = {"index": 1, "gate": "sealed"}
    other = add_vdi(world.destination, "OpaqueRef:sr", sm_config=dict(SHUT))
    monkeypatch.setattr(World, "destination_vdi", lambda self, disk: other if disk.key == "l" else self._there)
    world.note("k", gate="open")
    world.open()
    assert whereabouts.decide(world) == whereabouts.SOURCE
    move.shut_gates(world)
    assert world.there == SHUT and world.log == ["receive-stop", "receive-stop"]


@pytest.mark.parametrize("steps", [{}, {"gate": "opening"}])
def test_after_a_reset_by_sm_the_gate_is_shut_still(monkeypatch, steps):
    world = world_of(monkeypatch, PENDING)
    world.note("k", **steps)
    del world.there["paused"]
    assert whereabouts.decide(world) == whereabouts.SOURCE


@pytest.mark.parametrize("step, task, sealed", [("attached", None, {}), ("attached", "7", {"relinking": "sxm m"}), ("sealed", "7", SEALED),
                                                ("open", "7", SEALED), ("opening", None, SEALED)])
def test_recovery_seals_again_what_sm_has_reset(monkeypatch, step, task, sealed):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate=step)
    world.note(xenops_task=task)
    world.here.clear()
    move.seal_again(world)
    assert world.here == sealed


def test_a_xenopsd_that_falls_silent(monkeypatch):
    world = world_of(monkeypatch, PENDING, Unreachable("xenopsd", "refused"))
    with pytest.raises(Unreachable):
        move.move(world)


def test_a_xapi_that_is_away_for_a_moment(monkeypatch):
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, PENDING, PENDING, "arrive")
    left = [2]

    def flaky(ref):
        left[0] -= 1
        if left[0] > 0:
            raise ConnectionRefusedError("xapi restarts")
        return dict(world.here)
    suspend = world.script[0]
    world.script[0] = lambda: (world.source.handlers.update({"VDI.get_sm_config": flaky}), suspend())[1]
    move.move(world)
    assert world.disk("k")["gate"] == "open"


def test_a_disk_in_use_at_the_destination_is_not_shut_out_of_its_vm(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="open")
    world.open()
    monkeypatch.setattr(whereabouts, "decide", lambda m: whereabouts.SOURCE)
    world.there[HOST] = "RW"
    with pytest.raises(Undecided):
        move.shut_gates(world)
    assert world.there == {HOST: "RW"}, "SM lets nobody deactivate a disk that is paused"


def test_the_url_of_the_destination():
    assert remap._https("http://10.0.0.1/services/xenops?session_id=x") == "https://10.0.0.1/services/xenops?session_id=x"
    assert remap._https("http://10.0.0.1:8080/services/xenops?session_id=x") == "http://10.0.0.1:8080/services/xenops?session_id=x"


def test_a_guest_that_rebooted_a_moment_ago_is_not_moved(monkeypatch):
    """Its mover has not noticed yet that tapdisk has gone; the tapdisk of now has no mirror."""
    world = world_of(monkeypatch, PENDING)
    world.tapdisk = "none"
    with pytest.raises(MirrorBroken):
        move.move(world)
    assert "xenops_task" not in world.entry, "xenopsd was not asked"
    assert world.here["relinking"] == "sxm m", "nothing activates the disk until the undo"
    move.shut_gates(world)
    assert "relinking" not in world.here


def test_the_source_cannot_be_activated_again_from_before_the_move_on(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.script = [lambda: ("Failed", ["Internal_error", "no"]) if world.here.get("relinking") == "sxm m" else ("Completed", {})]
    with pytest.raises(MoveFailed):
        move.move(world)
    move.shut_gates(world)
    assert "relinking" not in world.here


def test_a_destination_that_has_another_version_by_now_is_not_sent_it(monkeypatch):
    world = World(monkeypatch, [])
    world.installed = {"version": "9", "driver": True}
    with pytest.raises(Refused) as raised:
        move.move(world)
    assert "it has version 9 of" in raised.value.details[1] and "xenops_task" not in world.entry


def test_a_host_that_does_not_take_the_vm_any_more_is_not_sent_it(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.plan = make_plan(kind="in-pool", destination_host="h2")
    asked = []

    def refused(m):
        asked.append(dict(m.here))
        raise Refused("host h2 does not take VM v", "HOST_NOT_ENOUGH_FREE_MEMORY 2 1", "free memory there")
    monkeypatch.setattr(move.verdict, "ask_again", refused)
    monkeypatch.setattr(move.changes, "require_none", lambda m: None)
    with pytest.raises(Refused):
        move.move(world)
    assert asked == [world.here] and "relinking" not in world.here and "xenops_task" not in world.entry


def test_a_bar_of_sm_itself_is_waited_for_and_not_lifted(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.here["relinking"] = "True"
    monkeypatch.setattr(bar, "COALESCE_TIMEOUT", 0.2)
    with pytest.raises(TimedOut):
        move.move(world)
    bar.lift(world, world.plan.disks[0])
    assert world.here["relinking"] == "True"


def completing(monkeypatch, **options):
    """A world whose gate is open, and what `complete` does with the records: a list."""
    world, done = world_of(monkeypatch, PENDING, **options), []
    world.note("k", gate="open", state="in-sync")
    world.open()
    monkeypatch.setattr(move, "_take_running", lambda m: done.append("running"))
    monkeypatch.setattr(move, "_detach_networks", lambda m: done.append("networks"))
    monkeypatch.setattr(move.remap, "depart", lambda session, arrival: done.append("departed"))
    monkeypatch.setattr(move.adopt, "adopt", lambda m: done.append("adopted"))
    world.state_here, world.kept = None, json.dumps({"vm": {"id": "v"}})
    monkeypatch.setattr(move, "COMPLETE_TIMEOUT", 0.3)
    vm = next(iter(world.destination.tables["VM"].values()))
    vm["power_state"] = "Running"
    world.destination.handlers["VM.power_state_reset"] = lambda ref: (done.append("reset at B"), vm.update(power_state="Halted"))
    return world, done


def at_the_source(world):
    record, = world.source.tables["VM"].values()
    return record["power_state"]


def test_a_vm_that_runs_is_taken_as_running(monkeypatch):
    world, done = completing(monkeypatch)
    world.there[HOST], world.state_there = "RW", "Running"
    move.complete(world)
    assert done == ["running", "networks", "departed"] and world.entry["arrived_halted"] is False
    assert world.disk("k")["state"] == "moved" and at_the_source(world) == "Halted" and world.log == ["receive-give", "given back"]
    world.arrival = {"xenops": "https://b", "session_id": "x"}
    move.complete(world)
    assert world.log == ["receive-give", "given back", "receive-give"], "to give it back once is enough"


def test_a_xapi_that_takes_no_notice_of_the_vm_is_not_waited_for_without_a_bound(monkeypatch):
    """It hears nothing of its xenopsd, and the call never ends: the lab's and the real one are so after a kill in mid-move."""
    world = world_of(monkeypatch, PENDING)
    monkeypatch.setattr(move, "COMPLETE_TIMEOUT", 0.3)
    monkeypatch.setattr(remap, "destination_vm", lambda m: "OpaqueRef:vm")
    world.destination.handlers["Async.VM.pool_migrate_complete"] = lambda vm, host: "OpaqueRef:task"
    world.destination.handlers["task.get_status"] = {"OpaqueRef:task": "pending"}.get
    with pytest.raises(NotCleanedUp, match="of host i there takes no notice of it within 0.3 s; restart the toolstack of that host, then recover"):
        move._take_running(world)


def test_what_a_killed_xenopsd_kept_of_a_vm_that_has_gone_is_ended(monkeypatch):
    world, _ = completing(monkeypatch)
    world.there[HOST], world.state_there, world.leaving = "RW", "Running", "Suspended"
    move.complete(world)
    assert world.log == ["receive-give", "end leaving here", "given back"] and world.leaving is None


def test_a_vm_that_runs_on_both_sides_is_told(monkeypatch):
    world, _ = completing(monkeypatch)
    world.there[HOST], world.state_there, world.state_here = "RW", "Running", "Running"
    with pytest.raises(NotCleanedUp, match="running at the source as well"):
        move.complete(world)


def test_once_cleaned_up_it_is_completed_again_all_the_same(monkeypatch):
    world, done = completing(monkeypatch)
    world.there[HOST], world.state_there = "RW", "Running"
    world.source.tables["VDI"].clear()
    world.source.tables["VM"].clear()
    move.complete(world)
    assert done == ["running", "networks", "departed"] and world.log == ["receive-give"]


def test_a_vm_that_has_ended_is_taken_as_halted(monkeypatch):
    world, done = completing(monkeypatch)
    world.state_there, world.leaving = "Halted", "Suspended"
    move.complete(world)
    assert done == ["reset at B", "networks", "departed"] and world.log == ["receive-give", "end v there", "end leaving here", "given back"]
    assert world.entry["arrived_halted"] is True and at_the_source(world) == "Halted"
    done.clear()
    world.state_here, world.arrival = None, {"xenops": "https://b", "session_id": "x"}
    move.complete(world)
    assert "reset at B" not in done, "once is enough"


def test_a_vm_that_has_ended_within_its_pool_gets_its_new_disks(monkeypatch):
    world, done = completing(monkeypatch)
    world.plan, world.state_here = make_plan(kind="in-pool", destination_host="h2"), None
    move.complete(world)
    assert done == ["adopted", "networks", "departed"] and world.log == ["receive-give", "given back"]


def test_the_source_is_not_left_before_the_new_disks_are_the_vms_for_good(monkeypatch):
    """A xapi that is killed between that and the sync forgets it."""
    world, done = completing(monkeypatch)
    world.there[HOST], world.state_there = "RW", "Running"
    crashes = [world.destination.goes_back, world.destination.goes_back]
    world.destination.sync()
    monkeypatch.setattr(durable.database, "sync", lambda pool: (crashes.pop()() if crashes and pool is world.destination else None, pool.sync()))
    move.complete(world)
    assert done[:3] == 3 * ["running"] and world.log[:3] == 3 * ["receive-give"]
    world.destination.goes_back()
    assert world.destination.xenapi.VDI.get_managed(world._there)


def test_a_vm_that_may_come_yet_is_waited_for(monkeypatch):
    world, done = completing(monkeypatch)
    world.arriving, world.busy_there = "Suspended", True
    with pytest.raises(TimedOut):
        move.complete(world)
    assert done == [] and world.arriving == "Suspended"


@pytest.mark.parametrize("gate_is, expected", [("shut", whereabouts.SOURCE), ("open", whereabouts.DESTINATION)])
def test_a_copy_that_a_killed_xenopsd_has_left_under_its_temporary_id_is_ended(monkeypatch, gate_is, expected):
    """Campaign seed 18: xenopsd cleans up nothing of it at its start, and it was waited for."""
    world = world_of(monkeypatch, PENDING)
    world.arriving = "Paused"
    if gate_is == "open":
        world.note("k", gate="opening")
        world.open()
    assert whereabouts.decide(world) == expected
    assert world.arriving is None


def test_a_bar_that_sm_took_away_is_put_back_with_its_proof(monkeypatch):
    world = world_of(monkeypatch, PENDING, PENDING, PENDING, "suspend", PENDING, PENDING, "arrive")
    monkeypatch.setattr(move, "BAR_INTERVAL", 0.0)
    world.script[1] = lambda: (world.here.pop("relinking"), PENDING)[1]
    move.move(world)
    assert world.here == SEALED


def test_who_came_in_without_a_mirror_while_the_bar_was_away_is_noticed(monkeypatch):
    world = world_of(monkeypatch, PENDING, PENDING, PENDING, PENDING, FAILED)
    monkeypatch.setattr(move, "BAR_INTERVAL", 0.0)
    world.script[1] = lambda: (world.here.pop("relinking"), setattr(world, "tapdisk", "none"), PENDING)[2]
    with pytest.raises(MirrorBroken):
        move.move(world)
    assert world.log == ["cancel"]


@pytest.mark.parametrize("status, error", [({"errno": errno.ENOSPC}, DestinationFull), ({"errno": errno.EIO}, MirrorBroken),
                                           (MoverFailed("k", "is gone"), MirrorBroken)])
def test_a_bar_without_a_mirror_behind_it_names_the_cause(monkeypatch, status, error):
    world = world_of(monkeypatch, PENDING)
    world.tapdisk = "broken"
    world.told = status
    with pytest.raises(error):
        bar.put(world, world.plan.disks[0])


def test_while_sm_relinks_the_bar_is_its_own(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.here["relinking"], world.tapdisk = "True", "none"
    bar.hold(world, world.plan.disks[0])
    assert world.here["relinking"] == "True"


def test_disks_that_recovery_there_has_taken_away_were_never_run_from(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="opening")
    world.here.update(SEALED)

    def gone(self, disk):
        raise failure("UUID_INVALID", "VDI", "d")
    monkeypatch.setattr(World, "destination_vdi", gone)
    assert whereabouts.decide(world) == whereabouts.SOURCE
    move.shut_gates(world)
    assert "paused" not in world.here and "relinking" not in world.here


def test_a_journal_that_is_full_while_the_guest_runs_ends_the_move_before_the_suspend(monkeypatch):
    monkeypatch.setattr(move, "BAR_INTERVAL", 0.0)
    world = world_of(monkeypatch, PENDING, PENDING, lambda: ("Failed", ["Cancelled", "7"]) if "cancel" in world.log else PENDING)
    world.full = lambda fields: fields.get("xenops_task") == "7" and "cancel" not in world.log and len(world.script) == 1
    with pytest.raises(JournalNotWritten):
        move.move(world)
    assert world.log == ["cancel"] and world.here[HOST] == "RW" and world.disk("k").get("gate") is None and world.there == SHUT


def test_a_journal_that_cannot_take_the_name_of_xenopsds_task(monkeypatch):
    world = world_of(monkeypatch, lambda: ("Failed", ["Cancelled", "7"]) if "cancel" in world.log else PENDING)
    world.full = lambda fields: fields.get("xenops_task") == "7"
    with pytest.raises(JournalNotWritten):
        move.move(world)
    assert world.log == ["cancel"] and world.entry["xenops_task"] == move.STARTING, "recovery looks for it by its label"


@pytest.mark.parametrize("step", ["detached", "sealing", "sealed", "opening"])
def test_no_gate_opens_unjournalled(monkeypatch, step):
    """SM at the destination waits; then xenopsd's task fails, and the journal is why. Nothing is opened, and nothing undone."""
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, PENDING, FAILED)
    world.full = lambda fields: fields.get("gate") == step
    with pytest.raises(JournalNotWritten):
        move.move(world)
    assert "gate opened" not in world.log and world.there == SHUT and world.disk("k").get("gate") != step
    before = dict(world.here), dict(world.disk("k"))
    world.full = lambda fields: True
    with pytest.raises(JournalNotWritten):
        move.shut_gates(world)
    assert world.there == SHUT and world.here["relinking"] == before[0]["relinking"] and world.disk("k") == before[1]
    world.full = lambda fields: False
    move.shut_gates(world)
    assert world.there == SHUT and world.here == {} and world.log[-1] == "given back"


@pytest.mark.parametrize("step", ["detached", "sealing", "sealed", "opening"])
def test_a_journal_that_is_full_for_a_moment_only_in_the_suspend(monkeypatch, step):
    looks = []
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, PENDING, PENDING, "arrive")
    world.full = lambda fields: fields.get("gate") == step and len(looks) < 3 and (looks.append(1) or True)
    move.move(world)
    assert len(looks) == 3 and world.disk("k")["gate"] == "open" and "cancel" not in world.log


def test_a_gate_that_is_open_and_could_not_be_noted(monkeypatch):
    """The VM has moved. Nobody takes it back, and recovery finds it there."""
    world = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, "arrive", PENDING)
    world.full = lambda fields: fields.get("gate") == "open"
    with pytest.raises(JournalNotWritten):
        move.move(world)
    assert world.disk("k")["gate"] == "opening" and world.there == {HOST: "RW"} and world.here["paused"]
    world.full, world.script = lambda fields: False, [XenopsError("Task.stat", "Does_not_exist")]
    move.move(world)
    assert world.disk("k")["gate"] == "open" and world.there == {HOST: "RW"}


# What xapi has not written to disk it forgets when it is killed.

def test_before_the_vm_may_leave_both_databases_are_on_disk(monkeypatch):
    world = world_of(monkeypatch, PENDING, FAILED)
    seen = []
    monkeypatch.setattr(FakeXenops, "migrate", lambda self, *_, **__: seen.append((world.source.syncs, world.destination.syncs)) or "7")
    with pytest.raises(MoveFailed):
        move.move(world)
    assert seen == [(1, 1)]
    world.source.goes_back()
    world.destination.goes_back()
    assert world.here["relinking"] == "sxm m" and world.there == SHUT


def test_if_that_cannot_be_proven_the_vm_does_not_leave(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    monkeypatch.setattr(durable.database, "sync", lambda session: (_ for _ in ()).throw(NotDurable("no answer")))
    with pytest.raises(NotDurable):
        move.move(world)
    assert "xenops_task" not in world.entry
    monkeypatch.setattr(durable.database, "sync", FakePool.sync)
    move.shut_gates(world)
    assert world.here == {HOST: "RW"}


def test_a_vm_that_is_gone_at_the_destination_is_brought_there_again_before_it_leaves(monkeypatch):
    world, seen = world_of(monkeypatch, PENDING, FAILED), []

    def bring(session, url, document, check_cpu):
        world.destination.add("VM", uuid="v", blocked_operations={}, scheduled_to_be_resident_on=NULL, VIFs=[])
    monkeypatch.setattr(remap, "_document", lambda *_: b"")
    monkeypatch.setattr(remap.metadata, "bring", bring)
    world.destination.handlers["host.allocate_resources_for_vm"] = lambda host, vm, live: (
        world.destination.get("VM", vm).update(scheduled_to_be_resident_on=host))
    world.destination.handlers["network.attach_for_vm"] = lambda host, vm: ""
    monkeypatch.setattr(FakeXenops, "migrate", lambda self, *_, **__: seen.append(world.destination.goes_back()) or "7")
    world.destination.tables["VM"].clear()
    with pytest.raises(MoveFailed):
        move.move(world)
    (vm,) = world.destination.tables["VM"].values()
    assert seen and set(vm["blocked_operations"]) == set(claim.DISTURBING) and vm["scheduled_to_be_resident_on"] == world.host(), "it is on disk"


def test_a_disk_whose_gate_is_gone_is_noticed_before_the_vm_leaves(monkeypatch):
    """Others may have used it: that is nothing to be put back."""
    world = world_of(monkeypatch, PENDING)
    world.there.clear()
    with pytest.raises(NotDurable):
        move.move(world)
    assert "xenops_task" not in world.entry and world.there == {}


def test_a_source_that_goes_back_while_the_gate_is_open_is_sealed_again(monkeypatch):
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, PENDING, PENDING, PENDING, "arrive")

    def killed():
        assert world.disk("k")["gate"] == "open"
        world.source.goes_back()
        assert world.here.pop("paused", None) is None
        raise Unreachable("xenopsd", "its xapi is away")
    world.script[4] = killed
    world.script[5] = lambda: (PENDING, world.here.pop(HOST, None))[0]
    move.move(world)
    assert world.here == SEALED
    vm = world.source.tables["VM"][world.vm()]
    assert vm["other_config"] == {"sxm_migration": "m"} and "hard_shutdown" in vm["blocked_operations"]


def test_a_gate_that_comes_back_shut_while_the_vm_waits_is_opened_again(monkeypatch):
    monkeypatch.setattr(move, "BAR_INTERVAL", 0.0)
    world = world_of(monkeypatch, "suspend", PENDING, PENDING, PENDING, PENDING, PENDING, "arrive")

    def killed():
        assert world.disk("k")["gate"] == "open" and world.there == {}
        world.destination.goes_back()
        assert world.there == SHUT
        return PENDING
    world.script[4] = killed
    move.move(world)
    assert world.there == {HOST: "RW"}


@pytest.mark.parametrize("mark", [{"activating": "True"}, {HOST: "RW"}])
def test_an_activation_that_dies_after_the_destination_was_told_to_stop_is_ended_as_well(monkeypatch, mark):
    """SM was still at it then; the VM has been given up, and nobody but that host can take the mark away."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="open")
    world.open()
    world.there.update(mark)
    stop = world.plugin

    def plugin(function, **arguments):
        if "receive-stop" in world.log:
            world.there.clear()
        return stop(function, **arguments)
    world.plugin = plugin
    assert whereabouts.decide(world) == whereabouts.DESTINATION and world.log == 2 * ["receive-stop"]


def test_the_journal_decides_whether_a_gate_was_open(monkeypatch):
    """The VM has run there, and written, and ended; then its xapi was killed."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="open")
    assert world.there == SHUT and whereabouts.decide(world) == whereabouts.DESTINATION


def test_a_gate_that_came_back_shut_on_an_active_disk_is_opened_for_whoever_has_it(monkeypatch):
    """SM deactivates nothing that is `paused`."""
    world = world_of(monkeypatch, PENDING)
    world.note("k", gate="open")
    world.there[HOST], world.state_there = "RW", "Running"
    assert whereabouts.decide(world) == whereabouts.DESTINATION
    assert world.there == {HOST: "RW"}


def test_a_gate_that_is_shut_again_is_so_on_disk_before_the_source_is_unsealed(monkeypatch):
    world = world_of(monkeypatch, PENDING)
    first = world.plan.disks[0]
    world.plan = world.plan._replace(disks=(first, first._replace(key="l")))
    world.entry["disks"]["l"] = {"index": 1, "gate": "sealed"}
    other = add_vdi(world.destination, "OpaqueRef:sr", sm_config=dict(SHUT))
    monkeypatch.setattr(World, "destination_vdi", lambda self, disk: other if disk.key == "l" else self._there)
    world.note("k", gate="open")
    world.open()
    world.here.update(SEALED)
    monkeypatch.setattr(durable.database, "sync", lambda session: (world.log.append(("synced", dict(world.here))), session.sync()))
    move.shut_gates(world)
    assert ("synced", dict(SEALED, **{HOST: "RW"})) in world.log and "paused" not in world.here
    world.destination.goes_back()
    assert world.there == SHUT


def test_what_the_destination_has_forgotten_when_the_move_is_completed_is_brought_again(monkeypatch):
    """Its xapi has shut the guest down, since it did not know it; the image is there, and the source has all else."""
    world, done = completing(monkeypatch)
    world.destination.tables["VM"].clear()
    found = world.destination.tables["VDI"].pop(world._there)
    monkeypatch.setattr(World, "destination_vdi", lambda self, disk: self.destination.xenapi.VDI.get_by_uuid("d"))
    world.destination.add("SR", uuid="d")

    def scan(sr):
        done.append("scanned")
        world.destination.tables["VDI"][world._there] = dict(found, name_label="", sm_config={})

    def bring(m):
        done.append("brought")
        vm = world.destination.add("VM", uuid="v", power_state="Running", resident_on=NULL, blocked_operations={})
        world.destination.tables["VDI"][world._there]["VBDs"] = [world.destination.add("VBD", VM=vm)]
        world.destination.handlers["VM.power_state_reset"] = lambda ref: world.destination.tables["VM"][ref].update(power_state="Halted")
    world.destination.handlers["SR.scan"] = scan
    monkeypatch.setattr(remap, "bring", bring)
    move.complete(world)
    assert done[:2] == ["scanned", "brought"] and world.entry["arrived_halted"] is True
    assert world.destination.tables["VDI"][world._there]["name_label"] == "n"


def test_a_vm_that_xapi_forgets_after_it_was_taken_is_taken_again(monkeypatch):
    world, done = completing(monkeypatch)
    world.there[HOST], world.state_there = "RW", "Running"
    world.destination.sync()
    shut_again = [lambda: world.there.update(SHUT)]
    monkeypatch.setattr(durable.database, "sync", lambda session: (shut_again.pop()() if shut_again else None, session.sync()))
    move.complete(world)
    assert done[:2] == ["running", "running"] and world.there == {HOST: "RW"}


# A xapi that is restarted as xenopsd is asked.

def has_ended(session):
    raise failure("HANDLE_INVALID", "session", session)


@pytest.mark.parametrize("script, session, again", [
    ([PENDING, FAILED], has_ended, True),
    ([PENDING, FAILED], lambda session: "its uuid", False),                     # it has failed for another reason
    ([PENDING, XenopsError("Task.stat", "Does_not_exist")], has_ended, False),   # nobody knows what has become of it
])
def test_a_move_that_fails_before_the_suspend_as_the_destinations_xapi_is_restarted_is_tried_again(monkeypatch, script, session, again):
    world = world_of(monkeypatch, *script)
    world.destination.handlers["session.get_uuid"] = session
    with pytest.raises((MoveFailed, XenopsError)) as raised:
        move.move(world)
    phase = next(phase for phase in phases.PHASES if phase.name == "move")
    assert (getattr(resume.begins(world, phase, raised.value), "name", None) == "sync") is again
    if again:
        assert raised.value.failure() == ["SXM_MOVE_FAILED", "v", "Internal_error", "boom"]


def test_one_that_fails_behind_the_suspend_is_not(monkeypatch):
    """The guest is shut down by now."""
    world = world_of(monkeypatch, FAILED)
    world.destination.handlers["session.get_uuid"] = has_ended
    world.entry["xenops_task"], world.told = "7", ENDED
    world.note("k", gate="detached")
    with pytest.raises(MoveFailed) as raised:
        move.move(world)
    assert not isinstance(raised.value, resume.BROKEN)


@pytest.mark.parametrize("begun", [True, False])
def test_an_answer_of_xenopsd_that_was_lost_with_the_xapi_between(monkeypatch, begun):
    """Whether it moves the VM its tasks tell: those of an earlier try are others."""
    world, asked = world_of(monkeypatch, PENDING, "suspend", PENDING, PENDING, "arrive"), []
    world.tasks_here = ["5"]

    def migrate(self, *_, **__):
        asked.append(1)
        if len(asked) > 1:
            return "7"
        world.tasks_here = ["5"] + ["6"] * begun
        raise Unreachable("xenopsd", "reset")
    monkeypatch.setattr(FakeXenops, "migrate", migrate)
    move.move(world)
    assert world.entry["xenops_task"] == ("6" if begun else "7") and len(asked) == (1 if begun else 2)


def test_it_is_asked_with_a_session_of_now(monkeypatch):
    """One that a xapi has forgotten, which was restarted since the import, leads nowhere."""
    world, urls = world_of(monkeypatch, PENDING, FAILED), []
    world.destination.handlers["session.get_uuid"] = lambda session: "its uuid"
    monkeypatch.setattr(FakeXenops, "migrate", lambda self, *_, xenops_url, **__: urls.append(xenops_url) or "7")
    with pytest.raises(MoveFailed):
        move.move(world)
    assert urls == ["https://b/services/xenops?session_id=y"]
