# SPDX-License-Identifier: LGPL-2.1-only
"""One disk on its way, for the tests of the move: a world of two pools, xenopsd on both sides, and
a mover."""

import json

import storage_motion
from fake_migration import make_plan
from fake_pool import NULL, FakePool, add_vdi
from storage_motion.errors import JournalNotWritten
from storage_motion.migration import durable, move_watch, xenopsd_leftovers
from storage_motion.migration.phases import blocking, move, shut_gates
from storage_motion.switch import disk_switch, gate, source_lock, whereabouts
from storage_motion.xapi import receiving_host

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

    def stand_by(self):
        self._world.stood_by += 1

    def await_end(self):
        return True

    def finish(self, mirrored):
        self._world.log.append("gate opened")
        self._world.open()


class World:
    """One disk on its way. `script`: what xenopsd's task is at each look: a state, or a function
    that changes the world and returns one. `there`, `here`: the sm_configs."""

    id, lost, closes, outage_there = "m", False, None, None
    stood_by = 0  # how often the destination was told to

    @staticmethod
    def full(fields):
        """Whether the journal cannot be written now, that the record of a disk or of all becomes
        `fields`."""
        return False

    def __init__(self, monkeypatch, script, same_host=False):
        self.log, self.script, self.told = [], list(script), MIRRORING
        self.source, self.destination = FakePool("A"), FakePool("B")
        self._here = add_vdi(self.source, "OpaqueRef:sr", sm_config={HOST: "RW"})
        self._there = add_vdi(self.destination, "OpaqueRef:sr", sm_config=dict(SHUT), managed=False)
        self.plan = make_plan(**({"kind": "in-pool", "destination_host": "h"} if same_host else {}))
        self.receiving_host = {
            "xenops": "https://b/services/xenops?session_id=x",
            "session_id": "x",
        }
        self.destination.add("network", uuid=self.plan.network)
        monkeypatch.setattr(
            receiving_host,
            "ask",
            lambda session, host, network: {
                "xenops": "https://b/services/xenops?session_id=y",
                "session_id": "y",
            },
        )
        monkeypatch.setattr(receiving_host, "leave", lambda session, answer: None)
        self.entry = {
            "disks": {"k": {"index": 0, "destination_vdi": "d"}},
            "blocked": ["hard_shutdown"],
            "begun": ["claim", "move"],
            "imported": True,
        }
        self.state_here, self.state_there, self.arriving, self.asks_to_cancel = (
            "Running",
            None,
            None,
            False,
        )
        self.leaving, self.kept, self.busy_there = None, None, False
        monkeypatch.setattr(
            xenopsd_leftovers.xenopsd_export,
            "keep",
            lambda migration, text: setattr(self, "kept", text),
        )
        monkeypatch.setattr(xenopsd_leftovers.xenopsd_export, "get", lambda migration: self.kept)
        self.plugin_fails, self.tasks_here, self.arrived, self.witness = None, [], False, False
        monkeypatch.setattr(durable.database, "sync", FakePool.sync)
        monkeypatch.setattr(
            move.xenops.Xenops,
            "local",
            classmethod(lambda cls, session, label: FakeXenops(self, "here")),
        )
        monkeypatch.setattr(
            move.xenops.Xenops,
            "at",
            classmethod(lambda cls, url, label, **_: FakeXenops(self, "there")),
        )
        monkeypatch.setattr(whereabouts, "SETTLE_TIMEOUT", 0.3)
        monkeypatch.setattr(move_watch, "SILENCE_TIMEOUT", 0.3)
        monkeypatch.setattr(gate, "SETTLE_TIMEOUT", 0.3)
        monkeypatch.setattr(move, "_maps", lambda m: ({}, {}))
        monkeypatch.setattr(
            shut_gates.stale_activation, "let_go_dead", lambda session, uuid, vm: False
        )
        monkeypatch.setattr(move.pool_lock, "_others", lambda m: [])
        version = storage_motion.__version__
        whole = {"version": version, "driver": True, "driver_version": version}
        self.installed = whole
        monkeypatch.setattr(move.installed, "_ask", lambda session, host: self.installed)
        monkeypatch.setattr(move.installed, "here", lambda: dict(whole))
        vbd = self.source.add(
            "VBD", VDI=self._here, empty=False, type="Disk", currently_attached=False
        )
        self.source.add(
            "VM",
            uuid="v",
            power_state="Running",
            other_config={},
            blocked_operations={"hard_shutdown": "ours"},
            ha_restart_priority="",
            VBDs=[vbd],
            VIFs=[],
            VGPUs=[],
            blobs={},
            current_operations={},
            VTPMs=[],
            snapshots=[],
        )
        self.source.tables["VDI"][self._here]["uuid"] = "k"
        self.source.add("SR", uuid="s")
        self.destination.tables["VDI"][self._there]["uuid"] = "d"
        there = self.destination.add(
            "VM",
            uuid="v",
            blocked_operations={"destroy": blocking.reason("m")},
            ha_restart_priority="",
            resident_on=NULL,
            power_state="Running",
            scheduled_to_be_resident_on=self.host(),
        )
        self.destination.tables["VDI"][self._there]["VBDs"] = [
            self.destination.add("VBD", VM=there)
        ]
        self.tapdisk = "mirroring"
        monkeypatch.setattr(
            source_lock.repeated_commands,
            "ask",
            lambda *_, **__: '{"state": "%s", "outstanding": 0}' % self.tapdisk,
        )
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

    def note_steps(self, steps):
        for key, step in steps.items():
            self.note(key, gate=step)

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
        name = {
            "v": "v",
            move.xenops.leaving("v"): "leaving",
            move.xenops.incoming("v"): "incoming",
        }[vm]
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
            (record,) = self._world.source.tables["VM"].values()
            record["power_state"], self._world.state_here = "Halted", None


PENDING, FAILED = ("Pending", 0.1), ("Failed", ["Internal_error", "boom"])
LOCKED = {"paused": "sxm m", "relinking": "sxm m"}


def world_of(monkeypatch, *script, **options):
    world = World(monkeypatch, [], **options)
    world.script = [getattr(world, step) if isinstance(step, str) else step for step in script]
    monkeypatch.setattr(
        disk_switch,
        "of_disk",
        lambda m, disk: disk_switch.DiskSwitch(
            m.source,
            m.source_vdi(disk),
            FakeMover(m),
            m.plan.mirrors(disk),
            "sxm m",
            lambda step: m.note(disk.key, gate=step),
            m.disk(disk.key).get("gate"),
        ),
    )
    return world


def behind_the_suspend(monkeypatch, **options):
    """A move that has failed with its gate shut, as xenopsd leaves it."""
    world = world_of(monkeypatch, PENDING, **options)
    (record,) = world.source.tables["VM"].values()
    world.state_here, world.leaving, world.kept = None, "Suspended", json.dumps({"vm": {"id": "v"}})
    world.note("k", gate="locked")
    world.here.clear()
    world.here.update(LOCKED)
    return world, record
