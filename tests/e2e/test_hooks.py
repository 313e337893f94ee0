# SPDX-License-Identifier: LGPL-2.1-only
"""xenopsd's hooks in whole moves: a second lock on what has been handed over, a reboot that costs
little, an arrival that is noted."""

import glob
import json
import os
import signal
import threading
import time

import pytest
import XenAPI

from lab.dom0 import breakpoint
from lab.pools.topology import PoolPlan
from storage_motion.dom0.launch import Process
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import MOVE, Scene, task_ended
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1", "a2"), True), PoolPlan("B", ("b1",), False))
STOP = signal.SIGSTOP
# seconds, on a busy machine, for what would wait for SM's patience of 120 s otherwise
PROMPT = 60.0
# the source's locks are begun, and xenopsd is about to be asked
STARTING = ("migration", "xenops_task", ["starting"], True)


def noted(host, migration):
    """What a host has noted of an arrival, or None."""
    path = "%s/var/lib/sxm/arrived-%s.json" % (host.root, migration)
    if not os.path.exists(path):
        return None
    with open(path) as stream:
        return json.load(stream)


def begin_and_hold(scene, when, **arguments):
    """Begin a migration whose worker is stopped by SIGSTOP at a write of its journal: (its id, the
    worker)."""
    breakpoint.arm(scene.host.root, when, signal=STOP)
    migration = scene.begin(**arguments)
    eventually(
        lambda: not breakpoint.armed(scene.host.root),
        "its worker stands still",
        MOVE,
        seen=lambda: scene.journal(migration)["phase"],
    )
    breakpoint.disarm(scene.host.root)
    return migration, Process.from_json(scene.journal(migration)["worker"])


def await_arrival(source, destination, vm):
    """Wait until xenopsd has moved the VM, and the source's has forgotten it."""
    # by its own id, or its temporary one
    known = "%s/var/lib/xenopsd/%s*.json" % (source.root, vm[:24])
    eventually(
        lambda: not glob.glob(known) and (destination.domain(vm) or {}).get("pid"),
        "the VM's arrival",
        MOVE,
    )


def await_halted(pool, vm):
    """Wait until xapi has the VM halted: the one that has been restarted finds it nowhere."""
    eventually(
        lambda: pool.xapi.VM.get_power_state(vm) == "Halted", "xapi has it halted", MOVE, poll=0.2
    )


def go_back_in_time(pool, vm):
    """Make the source's records what they are after a crash of a xapi with an older database:
    halted, and without any mark of ours."""
    pool.xapi.pool.sync_database()
    pool.master.kill("xapi")
    pool.master.start_xapi()
    pool.forget_session()
    api = pool.xapi
    await_halted(pool, vm)
    for operation in api.VM.get_blocked_operations(vm):
        api.VM.remove_from_blocked_operations(vm, operation)
    for vbd in api.VM.get_VBDs(vm):
        vdi = api.VBD.get_VDI(vbd)
        for key in api.VDI.get_sm_config(vdi):
            if key in ("paused", "relinking"):
                api.VDI.remove_from_sm_config(vdi, key)


@pytest.mark.timeout(600)
def test_a_vm_that_is_gone_is_not_started_on_its_old_disk_whatever_the_database_says(scene):
    migration = scene.begin_and_kill(MOMENTS["open"])
    pool, source, destination = scene.pool, scene.host, scene.there
    await_arrival(source, destination, scene.uuid)
    vm = pool.xapi.VM.get_by_uuid(scene.uuid)
    go_back_in_time(pool, vm)
    with pytest.raises(XenAPI.Failure) as refused:
        pool.xapi.VM.start(vm, False, True)
    details = refused.value.details
    assert (
        details[:3] == ["XAPI_HOOK_FAILED", "vm-pre-start/10-sxm", "none"]
        and migration in details[3]
        and "b1" in details[3]
    ), details
    assert source.domain(scene.uuid) is None
    assert noted(destination, migration)["vm"] == scene.uuid, (
        "the hook there has noted that it has arrived"
    )
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "moved", answer
    assert scene.settle() is destination and noted(destination, migration) is None
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
def test_nor_by_another_host_of_its_pool_that_sees_the_disk(lab):
    scene = Scene(lab, sr=("shared",))
    migration = scene.begin_and_kill(MOMENTS["open"])
    pool, destination, other = scene.pool, scene.there, lab.host("a2")
    await_arrival(scene.host, destination, scene.uuid)
    vm = pool.xapi.VM.get_by_uuid(scene.uuid)
    go_back_in_time(pool, vm)
    with pytest.raises(XenAPI.Failure) as refused:
        pool.xapi.VM.start_on(vm, pool.host_ref("a2"), False, True)
    details = refused.value.details
    assert (
        details[:3] == ["XAPI_HOOK_FAILED", "vm-pre-start/10-sxm", "none"]
        and migration in details[3]
        and "as host a1 says" in details[3]
    ), details
    assert other.domain(scene.uuid) is None
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == "moved", answer
    assert scene.settle() is destination
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
def test_a_guest_that_reboots_behind_the_locks_waits_for_nobody(scene):
    migration, worker = begin_and_hold(scene, STARTING)
    source, destination = scene.host, scene.there
    done = []

    def reboot():
        task = source.xenopsd("VM.reboot", id=scene.uuid)
        state = task_ended(source, task)
        done.append((time.monotonic(), state))

    thread = threading.Thread(target=reboot)
    thread.start()
    try:
        told = "%s/run/sxm/%s/closing" % (source.root, migration)
        eventually(lambda: os.path.exists(told), "a hook tells of the reboot", PROMPT)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
        resumed = time.monotonic()
    thread.join(MOVE)
    ended, state = done[0]
    assert state[0] == "Completed", state
    print("the guest ran again %.1f s after the worker went on" % (ended - resumed))
    assert ended - resumed < PROMPT
    entry = scene.ended(migration, source)
    assert entry["state"] == "succeeded" and entry["tries"] >= 1, entry["error"]
    scene.host = destination
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.mark.timeout(600)
def test_the_guest_may_reboot_on_its_new_disks_before_the_migration_has_ended(scene):
    """Within a host the journal that names the VM is there, and says that its disks have been
    handed over: the old ones."""
    migration, worker = begin_and_hold(scene, MOMENTS["clean-up"], **scene.within("big"))
    assert noted(scene.host, migration)["vm"] == scene.uuid
    try:
        task = scene.host.xenopsd("VM.reboot", id=scene.uuid)
        assert task_ended(scene.host, task, PROMPT)[0] == "Completed"
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    assert scene.ended(migration)["state"] == "succeeded"
    scene.assert_runs()
    scene.assert_nothing_left()
