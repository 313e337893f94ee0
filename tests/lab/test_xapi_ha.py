# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's xapi: which VMs high availability protects, what it refuses, and what it starts."""

import contextlib
import os

import pytest

from lab.xapi import ha, startup
from lab.xenopsd import wire
from test_xapi_database import restarted
from tests.eventually import eventually, never
from xapi_fixture import (
    failure_of,
    make_sr,
    pool_with_xenopsds,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)

BREAKS = ["HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"]
LOOK = 0.05
WHILE = 0.5  # seconds in which HA has looked


@contextlib.contextmanager
def pool_of(hosts):
    with pool_with_xenopsds(hosts) as pool:
        os.makedirs(pool.master.root + "/etc/xapi.conf.d")
        with open(pool.master.root + "/etc/xapi.conf.d/ha.conf", "w") as file:
            file.write("%s = %g\n" % (ha.INTERVAL, LOOK))
        yield pool


@pytest.fixture(scope="module")
def pool():
    with pool_of(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def x(pool):
    return pool.master.remote().xenapi


@pytest.fixture(scope="module")
def shared(pool, x):
    return make_sr(x, pool.master.ref(x), "/shared", shared=True)


@pytest.fixture(scope="module")
def local(pool, x):
    return make_sr(x, pool.hosts[1].ref(x), "/local")


@pytest.fixture
def make(x, pool):
    """Makes halted VMs with a disk on an SR (a ref), and removes them in the end, with HA off."""
    made = []

    def vm(sr, **fields):
        made.append(x.VM.create(vm_record(**fields)))
        x.VBD.create(vbd_record(made[-1], x.VDI.create(vdi_record(sr))))
        x.VIF.create(vif_record(made[-1], management(x)))
        return made[-1]

    yield vm
    turn(x, False)
    this = x.pool.get_all()[0]
    x.pool.set_ha_allow_overcommit(this, False)
    x.pool.set_ha_reboot_vm_on_internal_shutdown(this, True)
    for ref in made:
        if x.VM.get_power_state(ref) != "Halted":
            x.VM.hard_shutdown(ref)
        x.VM.destroy(ref)


@pytest.fixture
def vm(make, shared):
    return make(shared)


def management(x):
    return x.PIF.get_network(x.PIF.get_all()[0])


def turn(x, on):
    """HA, on or off."""
    this = x.pool.get_all()[0]
    x.pool.remove_from_other_config(this, ha.SWITCH)
    if on:
        x.pool.add_to_other_config(this, ha.SWITCH, "on")
    assert x.pool.get_ha_enabled(this) is on


def state(x, vm):
    record = x.VM.get_record(vm)
    return record["ha_restart_priority"], record["ha_always_run"]


def runs(x, vm):
    return x.VM.get_power_state(vm) == "Running"


def start(x, vm):
    x.VM.start(vm, False, False)


def test_of_a_running_vm_always_run_goes_along(x, vm):
    start(x, vm)
    for priority, always in (
        ("restart", True),
        ("best-effort", False),
        ("restart", True),
        ("restart", True),
        ("", False),
    ):
        x.VM.set_ha_restart_priority(vm, priority)
        assert state(x, vm) == (priority, always)
    x.VM.set_ha_always_run(vm, True)
    assert state(x, vm) == ("restart", True)
    x.VM.set_ha_always_run(vm, False)
    assert state(x, vm) == ("", False)


def test_of_a_halted_one_a_start_sets_it_and_a_shutdown_by_xapi_clears_it(x, vm):
    x.VM.set_ha_restart_priority(vm, "restart")
    assert state(x, vm) == ("restart", False)
    start(x, vm)
    assert state(x, vm) == ("restart", True)
    x.VM.clean_shutdown(vm)
    assert state(x, vm) == ("restart", False)
    start(x, vm)
    x.VM.hard_shutdown(vm)
    assert state(x, vm) == ("restart", False)
    x.VM.set_ha_restart_priority(vm, "best-effort")
    start(x, vm)
    assert state(x, vm) == ("best-effort", False)


@pytest.mark.parametrize("value", ["Restart", "1", "always", " "])
def test_other_priorities_there_are_none(x, vm, value):
    assert failure_of(x.VM.set_ha_restart_priority, vm, value) == [
        "INVALID_VALUE",
        "ha_restart_priority",
        value,
    ]


def test_a_snapshot_of_a_protected_vm_is_never_started(x, vm):
    start(x, vm)
    x.VM.set_ha_restart_priority(vm, "restart")
    snapshot = x.VM.snapshot(vm, "s", [])
    assert state(x, snapshot) == ("restart", False)
    x.VM.destroy(snapshot)


def halt_by_itself(x, pool, vm):
    """The guest of a VM that runs on the master shuts itself down, as xenopsd tells."""
    uuid = x.VM.get_uuid(vm)
    pool.master.xenopsd.vms[uuid]["power_state"] = "Halted"
    wire.call_unix(
        pool.master.root + "/var/lib/xcp/xapi",
        "/services/xenops-event",
        "VM.changed",
        {"id": uuid},
        10.0,
    )
    assert x.VM.get_power_state(vm) == "Halted"


def on_master(x, pool, vm):
    x.VM.start_on(vm, pool.master.ref(x), False, False)


def alerts(x, vm):
    uuid = x.VM.get_uuid(vm)
    return [one["name"] for one in x.message.get_all_records().values() if one["obj_uuid"] == uuid]


def test_ha_starts_what_is_halted_and_protected_and_nothing_else(x, pool, make, shared):
    protected, unmarked, other = make(shared), make(shared), make(shared)
    for one in (protected, unmarked):
        x.VM.set_ha_restart_priority(one, "restart")
    on_master(x, pool, protected)
    halt_by_itself(x, pool, protected)
    assert state(x, protected) == ("restart", True)
    never(lambda: runs(x, protected), "HA is off", WHILE)
    turn(x, True)
    eventually(lambda: runs(x, protected), "HA starts it")
    never(lambda: runs(x, unmarked) or runs(x, other), "nobody has started these", WHILE)
    assert alerts(x, protected) == []


def test_a_vm_whose_protection_was_taken_off_is_not_started(x, pool, vm):
    on_master(x, pool, vm)
    x.VM.set_ha_restart_priority(vm, "restart")
    turn(x, True)
    x.VM.set_ha_restart_priority(vm, "")
    halt_by_itself(x, pool, vm)
    never(lambda: runs(x, vm), "it is not protected", WHILE)
    x.VM.set_ha_restart_priority(vm, "restart")
    assert state(x, vm) == ("restart", False), "which only a start sets"
    never(lambda: runs(x, vm), "it was halted as it was protected", WHILE)


def test_a_guest_that_shuts_itself_down_is_left_alone_where_the_pool_says_so(x, pool, vm):
    x.pool.set_ha_reboot_vm_on_internal_shutdown(x.pool.get_all()[0], False)
    on_master(x, pool, vm)
    x.VM.set_ha_restart_priority(vm, "restart")
    turn(x, True)
    halt_by_itself(x, pool, vm)
    assert state(x, vm) == ("restart", False)
    never(lambda: runs(x, vm), "it is to stay halted", WHILE)


def test_a_vm_that_cannot_be_started_is_told_of_once_and_tried_later(x, pool, vm):
    on_master(x, pool, vm)
    x.VM.set_ha_restart_priority(vm, "restart")
    halt_by_itself(x, pool, vm)
    x.VM.add_to_blocked_operations(vm, "start_on", "no")
    turn(x, True)
    eventually(lambda: alerts(x, vm), "it is told of")
    x.VM.remove_from_blocked_operations(vm, "start_on")
    never(lambda: runs(x, vm), "it is tried every two minutes", WHILE)
    assert alerts(x, vm) == ["HA_PROTECTED_VM_RESTART_FAILED"]


def test_best_effort_is_for_the_first_look(x, pool, make, shared):
    before, later = make(shared), make(shared)
    for one in (before, later):
        x.VM.set_ha_restart_priority(one, "best-effort")
        on_master(x, pool, one)
    halt_by_itself(x, pool, before)
    turn(x, True)
    eventually(lambda: runs(x, before), "HA starts it as it is turned on")
    halt_by_itself(x, pool, later)
    never(lambda: runs(x, later), "no host has failed", WHILE)


def test_a_running_vm_that_not_all_hosts_can_have_is_not_protected(x, make, shared, local):
    agile, bound = make(shared), make(local)
    for one in (agile, bound):
        start(x, one)
    x.VM.set_ha_restart_priority(agile, "restart")
    turn(x, True)
    assert failure_of(x.VM.set_ha_restart_priority, bound, "restart") == BREAKS
    assert failure_of(x.VM.set_ha_always_run, bound, True) == BREAKS
    assert state(x, bound) == ("", False)
    x.VM.set_ha_restart_priority(bound, "best-effort")
    x.pool.set_ha_allow_overcommit(x.pool.get_all()[0], True)
    x.VM.set_ha_restart_priority(bound, "restart")
    assert state(x, bound) == ("restart", True)
    x.pool.set_ha_allow_overcommit(x.pool.get_all()[0], False)
    for priority in ("", "restart"):
        x.VM.set_ha_restart_priority(agile, priority)
    assert state(x, agile) == ("restart", True), "a plan that is broken cannot get worse"


def test_a_cd_that_not_all_hosts_see_is_not_put_into_a_protected_vm(x, vm, shared, local):
    drive = x.VBD.create(
        dict(vbd_record(vm, "OpaqueRef:NULL"), userdevice="3", type="CD", mode="RO", empty=True)
    )
    cds = {sr: x.VDI.create(vdi_record(sr)) for sr in (shared, local)}
    x.VM.start(vm, False, False)
    turn(x, True)
    x.VM.set_ha_restart_priority(vm, "restart")
    refused = ["HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", local]
    assert failure_of(x.VBD.insert, drive, cds[local]) == refused
    x.VBD.insert(drive, cds[shared])
    x.VBD.eject(drive)
    x.VM.set_ha_restart_priority(vm, "")
    x.VBD.insert(drive, cds[local])
    assert x.VBD.get_VDI(drive) == cds[local]


def test_of_a_halted_one_it_is_asked_when_it_is_started(x, make, local):
    bound = make(local)
    turn(x, True)
    x.VM.set_ha_restart_priority(bound, "restart")
    assert failure_of(x.VM.start, bound, False, False) == BREAKS
    assert state(x, bound) == ("restart", False)


def test_a_network_that_not_all_hosts_have_binds_a_vm_too(x, vm):
    internal = x.network.create(
        {
            "name_label": "internal",
            "name_description": "",
            "MTU": "1500",
            "other_config": {},
            "tags": [],
            "managed": True,
        }
    )
    vif = x.VIF.create(dict(vif_record(vm, internal), device="1"))
    start(x, vm)
    turn(x, True)
    assert failure_of(x.VM.set_ha_restart_priority, vm, "restart") == BREAKS
    x.VM.hard_shutdown(vm)
    x.VIF.destroy(vif)
    start(x, vm)
    x.VM.set_ha_restart_priority(vm, "restart")


def test_more_memory_than_the_hosts_have_is_in_no_plan(x, make, shared):
    """Where a host's failure is to be survived, the other one has to have room for all."""
    half = str(9 << 30)
    sizes = {"memory_static_max": half, "memory_dynamic_max": half, "memory_dynamic_min": half}
    first, second = make(shared, **sizes), make(shared, **sizes)
    for one, priority in ((first, "restart"), (second, "")):
        start_where_there_is_room(x, one)
        x.VM.set_ha_restart_priority(one, priority)
    turn(x, True)
    this = x.pool.get_all()[0]
    x.VM.set_ha_restart_priority(second, "restart")
    assert state(x, second) == ("restart", True), "no failure is to be survived"
    x.VM.set_ha_restart_priority(second, "")
    x.pool.set_ha_host_failures_to_tolerate(this, 1)
    assert x.pool.get_ha_plan_exists_for(this) == "0", "the other host is too small for the first"
    x.VM.hard_shutdown(second)
    x.pool.set_ha_host_failures_to_tolerate(this, 1)
    assert x.pool.get_ha_plan_exists_for(this) == "1"
    assert failure_of(start_where_there_is_room, x, second) == BREAKS
    assert failure_of(x.pool.set_ha_host_failures_to_tolerate, this, 2) == BREAKS
    assert failure_of(x.pool.set_ha_host_failures_to_tolerate, this, -1)[0] == "INVALID_VALUE"
    x.pool.set_ha_host_failures_to_tolerate(this, 0)
    start_where_there_is_room(x, second)


def start_where_there_is_room(x, vm):
    for host in x.host.get_all():
        if int(x.host.compute_free_memory(host)) >= int(x.VM.get_memory_dynamic_min(vm)):
            x.VM.start_on(vm, host, False, False)
            return


def test_ha_goes_on_when_xapi_is_started_again():
    with pool_of(1) as pool:
        x = pool.master.remote().xenapi
        vm = x.VM.create(vm_record())
        x.VM.set_ha_restart_priority(vm, "restart")
        on_master(x, pool, vm)
        turn(x, True)
        x.pool.sync_database()
        x = restarted(pool.master)
        assert x.pool.get_ha_enabled(x.pool.get_all()[0]) is True
        eventually(lambda: said(pool) == startup.LISTENING, "xapi hears of its VMs", 20.0)
        halt_by_itself(x, pool, vm)
        eventually(lambda: runs(x, vm), "HA starts it")


def said(pool):
    with open(pool.master.root + startup.EVENTS) as file:
        return file.read()
