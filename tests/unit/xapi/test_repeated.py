# SPDX-License-Identifier: LGPL-2.1-only
"""An import that is done again where its xapi was restarted: what was there already stays, a part
of it goes first."""

import pytest
import XenAPI

from fake_migration import make_plan
from fake_pool import NULL, FakePool, add_vdi
from storage_motion.errors import MotionError, Unreachable
from storage_motion.migration.phases import blocking, claim, remap
from storage_motion.xapi import repeated
from storage_motion.xapi.metadata import NotAsked

FORGOTTEN = [
    XenAPI.Failure(["HANDLE_INVALID", "task", "OpaqueRef:t"]),
    XenAPI.Failure(["UUID_INVALID", "VM", "v"]),
    XenAPI.Failure(["HANDLE_INVALID", "VM", "OpaqueRef:v"]),
    XenAPI.Failure(["HANDLE_INVALID", "VTPM", "OpaqueRef:p"]),
]
AWAY = [
    NotAsked("b", "refused"),
    ConnectionResetError(104, "reset"),
    XenAPI.Failure(["HOST_OFFLINE", "h"]),
]
REFUSED = [
    XenAPI.Failure(["UUID_INVALID", "VDI", "d"]),
    XenAPI.Failure(["HOST_NOT_ENOUGH_FREE_MEMORY"]),
    XenAPI.Failure(["HANDLE_INVALID"]),
    Unreachable("b", "an import that may be under way"),
    MotionError("no"),
    ValueError("x"),
]


class World:
    """A migration whose import fails by a script: errors, or functions of the world; what is not in
    it goes well."""

    id, host_ref = "m", "OpaqueRef:h"

    def __init__(self, monkeypatch, *script):
        self.plan, self.source, self.destination = make_plan(), FakePool("A"), FakePool("B")
        self.receiving_host, self.entry, self.script, self.calls = (
            {"xenops": "https://b/x"},
            {"disks": {}},
            list(script),
            [],
        )
        vm = self.source.add("VM", uuid="v", VTPMs=[], ha_restart_priority="")
        self.vm = lambda: vm
        vdi = add_vdi(self.destination, "OpaqueRef:sr")
        self.destination.add("pool", master=self.host_ref)
        self.destination_vdi = lambda disk: vdi
        self.destination.handlers["host.allocate_resources_for_vm"] = self._allocate
        self.destination.handlers["network.attach_for_vm"] = lambda host, vm: self.calls.append(
            "attach"
        )
        monkeypatch.setattr(remap, "_document", lambda *_: b"")
        monkeypatch.setattr(remap.metadata, "bring", self._import)
        monkeypatch.setattr(repeated, "PAUSE", 0.0)

    vms = property(lambda self: list(self.destination.tables.get("VM", {}).values()))

    def note(self, key=None, **fields):
        self.entry.update(fields)

    def host(self):
        return self.host_ref

    def pulse(self, cancellable):
        assert not cancellable

    def part(self):
        return self.destination.add(
            "VM",
            uuid="v",
            power_state="Halted",
            VTPMs=[],
            blocked_operations={},
            scheduled_to_be_resident_on=NULL,
        )

    def _import(self, *_, **__):
        assert self.entry["imported"] and not self.vms
        self.calls.append("import")
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        self.part()
        if step:
            step(self)

    def _allocate(self, host, vm, live):
        self.calls.append("allocate")
        self.destination.get("VM", vm)["scheduled_to_be_resident_on"] = host

    def is_there(self):
        (vm,) = self.vms
        assert (
            set(vm["blocked_operations"]) == set(claim.DISTURBING)
            and vm["scheduled_to_be_resident_on"] == self.host_ref
        )
        assert remap.lacking(self) == []


def forgets(world):
    world.destination.tables["VM"].clear()


def is_cut(world):
    raise FORGOTTEN[0]


def name(step):
    return getattr(step, "__name__", None) or "%s %s" % (type(step).__name__, step)


@pytest.mark.parametrize("step", FORGOTTEN + AWAY + [forgets, is_cut], ids=name)
def test_it_is_done_again(monkeypatch, step):
    world = World(monkeypatch, step)
    remap.keep_live(world)
    assert world.calls == ["import", "import", "allocate", "attach"]
    world.is_there()


@pytest.mark.parametrize("step", REFUSED, ids=name)
def test_what_is_refused_or_may_be_under_way_is_not(monkeypatch, step):
    world = World(monkeypatch, step)
    with pytest.raises(type(step)):
        remap.keep_live(world)
    assert world.calls == ["import"]


def test_there_is_a_bound_for_a_xapi_that_forgets(monkeypatch):
    world = World(monkeypatch, *[forgets] * 9)
    with pytest.raises(XenAPI.Failure):
        remap.keep_live(world)
    assert world.calls == ["import"] * repeated.TRIES


def test_and_for_one_that_is_away(monkeypatch):
    monkeypatch.setattr(repeated, "AWAY_BOUND", 0.0)
    world = World(monkeypatch, *[AWAY[0]] * 99)
    with pytest.raises(NotAsked):
        remap.keep_live(world)


def test_what_is_there_stays(monkeypatch):
    world = World(monkeypatch)
    remap.keep_live(world)
    world.calls.clear()
    remap.keep_live(world)
    assert world.calls == []


def test_room_that_went_with_a_restart_is_kept_again(monkeypatch):
    world = World(monkeypatch)
    remap.keep_live(world)
    world.vms[0]["scheduled_to_be_resident_on"] = NULL
    assert remap.lacking(world) == ["the room for it there"]
    world.calls.clear()
    remap.keep_live(world)
    assert world.calls == ["allocate", "attach"]
    world.is_there()


@pytest.mark.parametrize("blocked", [{}, {"start": blocking.reason("m")}])
def test_a_part_of_an_import_goes_first(monkeypatch, blocked):
    world = World(monkeypatch)
    world.entry["imported"] = True
    world.destination.get("VM", world.part())["blocked_operations"] = blocked
    assert remap.lacking(world) == ["the VM at the destination"]
    remap.keep_live(world)
    assert ("destroy", "VM", "v") in world.destination.calls and world.calls[0] == "import"
    world.is_there()


def test_a_vm_that_is_not_of_the_migration_is_left_to_the_import_to_refuse(monkeypatch):
    world = World(monkeypatch)
    world.part()
    with pytest.raises(AssertionError):  # the import meets it
        remap.keep_live(world)
    assert ("destroy", "VM", "v") not in world.destination.calls
