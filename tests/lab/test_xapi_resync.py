# SPDX-License-Identifier: LGPL-2.1-only
"""What the lab's xapi does with the VMs of its host when it starts, where its database and xenopsd
do not agree (resync_resident_on)."""

import contextlib
import signal
import types

import pytest

from lab.xapi import startup
from lab.xapi.automaton import DETACHED
from lab.xapi.failures import Failure
from lab.xenopsd import wire
from test_xapi_database import restarted
from tests.eventually import eventually, never
from xapi_fixture import LabPool, TinyXenopsd, vm_record

PATIENCE = 20.0  # seconds
NULL = "OpaqueRef:NULL"


class Scene:
    """A pool of two, and VMs on its master."""

    def __init__(self):
        self.pool = LabPool(hosts=2)
        self.xenopsds = [TinyXenopsd(host.root) for host in self.pool.hosts]
        self.xenopsd = self.xenopsds[0]
        self.look_by(self.pool.master.remote().xenapi)
        self.x.pool.sync_database()

    def look_by(self, x):
        self.x = x
        self.here, self.there = [host.ref(x) for host in self.pool.hosts]

    def started(self, host, synced_before=True):
        """A VM that runs on `host`: (ref, uuid). The database on disk has it, halted."""
        vm = self.x.VM.create(vm_record())
        if synced_before:
            self.x.pool.sync_database()
        self.x.VM.start_on(vm, host, False, False)
        return vm, self.x.VM.get_uuid(vm)

    def restart(self):
        """Kill the master's xapi; what xenopsd was asked by the next one."""
        before = len(self.xenopsd.calls)
        self.look_by(restarted(self.pool.master))
        return lambda method: [
            members["id"] for name, members in self.xenopsd.calls[before:] if name == method
        ]

    def stop(self):
        for xenopsd in self.xenopsds:
            xenopsd.stop()
        self.pool.stop()


@pytest.fixture
def scene():
    scene = Scene()
    yield scene
    scene.stop()


def test_a_vm_that_the_database_has_lost_is_shut_down(scene):
    _, uuid = scene.started(scene.here, synced_before=False)
    asked = scene.restart()
    eventually(lambda: uuid not in scene.xenopsd.vms, "xenopsd has forgotten it")
    assert asked("VM.shutdown") == asked("VM.remove") == [uuid]
    assert uuid not in [record["uuid"] for record in scene.x.VM.get_all_records().values()]


def test_one_that_does_not_run_is_only_forgotten(scene):
    scene.xenopsd.vms["11111111-2222-3333-4444-000000000001"] = {
        "power_state": "Halted",
        "metadata": {"id": "11111111-2222-3333-4444-000000000001", "disks": [], "vifs": []},
    }
    asked = scene.restart()
    eventually(lambda: not scene.xenopsd.vms, "xenopsd has forgotten it")
    assert asked("VM.shutdown") == [] and asked("VM.remove") == [
        "11111111-2222-3333-4444-000000000001"
    ]


def test_a_vm_that_is_known_on_another_host_is_shut_down(scene):
    """It moved within the pool, and the database is older."""
    vm, uuid = scene.started(scene.there)
    scene.x.pool.sync_database()
    scene.xenopsd.vms[uuid] = scene.xenopsds[1].vms.pop(uuid)
    scene.x.VM.pool_migrate_complete(vm, scene.here)
    assert scene.x.VM.get_resident_on(vm) == scene.here
    asked = scene.restart()
    eventually(lambda: uuid not in scene.xenopsd.vms, "xenopsd has forgotten it")
    assert asked("VM.shutdown") == asked("VM.remove") == [uuid]
    assert scene.x.VM.get_resident_on(vm) == scene.there


def test_a_vm_that_is_resident_nowhere_is_adopted(scene):
    vm, uuid = scene.started(scene.here)
    asked = scene.restart()
    eventually(lambda: scene.x.VM.get_power_state(vm) == "Running", "xapi has it running")
    assert (
        scene.x.VM.get_resident_on(vm) == scene.here
        and uuid in scene.xenopsd.vms
        and asked("VM.shutdown") == []
    )


def test_a_vm_that_xenopsd_does_not_have_is_halted(scene):
    vm, uuid = scene.started(scene.here)
    scene.x.pool.sync_database()
    del scene.xenopsd.vms[uuid]
    scene.restart()
    eventually(lambda: scene.x.VM.get_power_state(vm) == "Halted", "xapi has it halted")
    assert scene.x.VM.get_resident_on(vm) == NULL


def test_xenopsd_may_come_up_later_than_xapi(scene):
    vm, uuid = scene.started(scene.here)
    scene.x.pool.sync_database()
    vms = scene.xenopsd.vms
    scene.xenopsd.stop()
    scene.restart()
    assert scene.x.VM.get_power_state(vm) == "Running", "as the database has it"
    scene.xenopsd = scene.xenopsds[0] = TinyXenopsd(scene.pool.master.root)
    del vms[uuid]
    eventually(lambda: scene.x.VM.get_power_state(vm) == "Halted", "xapi has it halted")


def test_no_host_keeps_room_any_more_for_a_vm_that_was_about_to_come(scene):
    vm = scene.x.VM.create(vm_record())
    scene.x.host.allocate_resources_for_vm(scene.there, vm, True)
    scene.x.pool.sync_database()
    assert scene.x.VM.get_scheduled_to_be_resident_on(vm) == scene.there
    scene.restart()
    assert scene.x.VM.get_scheduled_to_be_resident_on(vm) == NULL


# --- a xapi that hears nothing (on_xapi_restart)

LEAVING = "11111111-2222-3333-4444-000000000000"
NEGATIVE = 1.0  # seconds for which it is looked whether something does not happen


class Moving(TinyXenopsd):
    """It is at a move, and has given the VM's temporary id up itself when xapi's call to end that
    has its turn."""

    def VM_shutdown(self, members):
        self.vms.pop(members["id"])
        return "2"


def told(scene, uuid, state):
    """xenopsd tells how a VM is, and xapi answers."""
    scene.xenopsd.vms[uuid]["power_state"] = state
    wire.call_unix(
        scene.pool.master.root + "/var/lib/xcp/xapi",
        "/services/xenops-event",
        "VM.changed",
        {"id": uuid},
        PATIENCE,
    )


@pytest.fixture
def deaf(scene):
    """(VM that runs, its UUID), where xapi was killed in the middle of a move of another one."""
    found = scene.started(scene.here)
    scene.x.pool.sync_database()
    scene.xenopsd.stop()
    moving = Moving(scene.pool.master.root)
    moving.vms = dict(scene.xenopsd.vms)
    moving.vms[LEAVING] = {
        "power_state": "Suspended",
        "metadata": {"id": LEAVING, "disks": [], "vifs": []},
    }
    scene.xenopsd = scene.xenopsds[0] = moving
    asked = scene.restart()
    eventually(lambda: asked("VM.remove") == [LEAVING], "xapi has ended what was leaving")
    return found


def test_a_xapi_that_fails_to_end_what_ends_by_itself_hears_nothing_until_it_is_started_again(
    scene, deaf
):
    vm, uuid = deaf
    told(scene, uuid, "Halted")
    assert scene.x.VM.get_power_state(vm) == "Running"
    scene.restart()
    eventually(lambda: scene.x.VM.get_power_state(vm) == "Halted", "xapi has it halted")


@pytest.mark.parametrize("call", ["hard_shutdown", "pool_migrate_complete"])
def test_what_waits_for_it_to_hear_waits_for_ever(scene, deaf, call):
    vm, _ = deaf
    more = [scene.here] if call == "pool_migrate_complete" else []
    asked = len(scene.xenopsd.calls)
    task = getattr(scene.x.Async.VM, call)(vm, *more)
    eventually(lambda: len(scene.xenopsd.calls) > asked, "xenopsd is asked")
    never(
        lambda: (
            (scene.x.task.get_status(task), scene.x.VM.get_power_state(vm))
            != ("pending", "Running")
        ),
        "it has heard",
        NEGATIVE,
    )


def test_a_member_that_hears_nothing_does_so_though_the_master_is_started_again(scene):
    vm, uuid = scene.started(scene.there)
    scene.x.pool.sync_database()
    member = scene.pool.hosts[1]
    scene.xenopsds[1].stop()
    moving = Moving(member.root)
    moving.vms = dict(scene.xenopsds[1].vms)
    moving.vms[LEAVING] = {
        "power_state": "Suspended",
        "metadata": {"id": LEAVING, "disks": [], "vifs": []},
    }
    scene.xenopsds[1] = moving
    member.stop(signal.SIGKILL)
    member.start()
    member.wait_ready()
    eventually(
        lambda: (
            ("VM.remove", LEAVING) in [(name, members.get("id")) for name, members in moving.calls]
        ),
        "xapi has ended what was leaving",
    )
    scene.restart()
    moving.vms[uuid]["power_state"] = "Halted"
    wire.call_unix(
        member.root + "/var/lib/xcp/xapi",
        "/services/xenops-event",
        "VM.changed",
        {"id": uuid},
        PATIENCE,
    )
    assert scene.x.VM.get_power_state(vm) == "Running"


def test_a_disk_that_goes_while_xapi_looks_at_it_is_passed_over():
    """A command of SM's that outlived the xapi before removes it. The next one is looked at."""
    gone, stays = "OpaqueRef:gone", "OpaqueRef:stays"
    vdis = {
        ref: {"SR": "OpaqueRef:sr", "location": ref, "sm_config": {"host_OpaqueRef:here": "RW"}}
        for ref in (gone, stays)
    }

    def remove_from(_, ref, field, key):
        if ref not in vdis:
            raise Failure("HANDLE_INVALID", "VDI", ref)
        del vdis[ref][field][key]

    def state(_, location):
        vdis.pop(gone, None)
        return DETACHED

    database = types.SimpleNamespace(
        records=lambda _: dict(vdis),
        exists=lambda *_: True,
        get=lambda *_: "the SR",
        refs=lambda _: ["OpaqueRef:here"],
        remove_from=remove_from,
    )
    layer = types.SimpleNamespace(srs=lambda: ["the SR"], state=state, remember=lambda *_: None)
    storage = types.SimpleNamespace(exclusively=lambda _: contextlib.nullcontext())
    pool = types.SimpleNamespace(database=database, storage=storage)
    startup.refresh_local_vdi_activations(pool, "OpaqueRef:here", layer)
    assert vdis == {stays: {"SR": "OpaqueRef:sr", "location": stays, "sm_config": {}}}
