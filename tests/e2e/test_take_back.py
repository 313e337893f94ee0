# SPDX-License-Identifier: LGPL-2.1-only
"""Migrations that fail or are cancelled: taken back without the guest's noticing, with nothing
left, and open to a second try."""

import json
import os
import time

import pytest
import XenAPI

from lab.dom0 import dying_create
from lab.pools.link import Link
from lab.pools.topology import PoolPlan
from tests.e2e.scene import KILLED, MIB
from tests.eventually import eventually

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
PROMISED = 10.0  # seconds that a cancel may take
ARRIVES = 60.0
RATE = 1 * MIB  # bytes a second
NOBODY = "0" * 8 + "-0000-0000-0000-" + "0" * 12
# What at-switch does while a test kills a xenopsd: says that it is there, and waits for the end of
# the pretence.
HOLD = "#!/bin/sh\ntouch %(at)s\nwhile [ -e %(at)s ]; do sleep 0.1; done\n"


@pytest.fixture
def unharmed(scene):
    """Checks what holds after every migration that did not come to its end."""
    before = scene.guest.status()["writes_acknowledged"]
    yield
    assert scene.guest.status()["writes_acknowledged"] > before
    scene.assert_runs()
    scene.assert_nothing_left()


def disk(entry):
    return next(iter(entry["disks"].values()))


def in_sync(entry):
    return (
        disk(entry)["state"] == "in-sync" and entry["phase"] == "sync" or entry["phase"] == "remap"
    )


def mirroring(entry):
    return disk(entry)["state"] in ("copying", "in-sync")


def assert_cancelled(scene, migration):
    begun = time.monotonic()
    assert scene.call("cancel", migration=migration)["state"] == "cancelled"
    took = time.monotonic() - begun
    entry = scene.ended(migration)
    assert entry["error"][0] == "SXM_CANCELLED" and entry["left"] == []
    print("cancelled within %.1f s" % took)


def assert_log_says_that_it_was_a_cancel(scene, migration):
    """On both sides; nobody has to ask what had broken there."""
    told = []
    for host in (scene.host, scene.there):
        lines = scene.call("log", host, migration=migration)["lines"]
        told += ["%(level)s %(text)s" % line for line in lines]
    assert any("the source gives it up: the migration is cancelled" in line for line in told)
    wrong = [line for line in told if line.startswith(("WARNING", "ERROR"))]
    wrong += [line for line in told if "SXM_CONNECTION_LOST" in line or "broken" in line]
    assert wrong == [], "\n".join(told)


@pytest.fixture
def link(lab):
    """The link that disks go over, so slow that a test can do something in mid-copy on a machine of
    any pace."""
    with Link(lab.hosts) as link:
        link.limit(RATE)
        yield link


def test_sm_is_killed_when_it_has_made_an_image_and_not_told_xapi(scene, unharmed):
    """No VDI names the image; SM's next scan would make one without a name of it."""
    dying_create.arm(scene.there.root)
    try:
        migration = scene.begin()
        entry = scene.ended(migration)
    finally:
        died = dying_create.disarm(scene.there.root)
    assert died and entry["state"] == "failed" and entry["left"] == [], entry["error"]
    assert "SXM" not in entry["error"][0], "xapi's own error is what the user reads"


def test_cancel_while_a_disk_is_copied(scene, unharmed, link):
    migration = scene.begin()
    scene.until(migration, mirroring)
    receiver = scene.journal("receive-" + migration, scene.there)["receivers"][0]
    assert (
        scene.there.open_ports() == ["tcp/%d" % receiver["port"]] and scene.host.open_ports() == []
    )
    assert_cancelled(scene, migration)
    now = {"here": True, "power_state": "Running", "host": scene.host.name, "disks": "old"}
    assert scene.call("status", migration=migration)["vm_now"] == now
    assert_log_says_that_it_was_a_cancel(scene, migration)


def test_cancel_while_the_memory_moves(scene, unharmed):
    migration = scene.begin()
    entry = scene.until(migration, lambda entry: entry["phase"] == "move")
    try:
        assert_cancelled(scene, migration)
    except XenAPI.Failure as failure:
        # The guest was suspended by then: the cancel came too late, and says so.
        assert failure.details[0] == "SXM_TOO_LATE"
        assert scene.ended(migration)["state"] == "succeeded"
        scene.settle()
    assert entry["committed"] is False


@pytest.mark.parametrize("process", ["mover", "receiver"])
def test_kill(scene, unharmed, link, process):
    migration = scene.begin(**dict(scene.arguments(), **{"retry-limit": "0"}))
    entry = scene.until(migration, mirroring)
    if process == "mover":
        scene.kill(disk(entry)["mover"])
    else:
        scene.kill(scene.journal("receive-" + migration, scene.there)["receivers"][0]["process"])
    entry = scene.ended(migration)
    assert entry["state"] == "failed" and entry["left"] == []
    assert entry["error"][0] == "SXM_MIRROR_BROKEN"


@pytest.mark.parametrize(
    "wrong, code",
    [
        ({"destination-sr-uuid": NOBODY}, "SXM_BAD_ARGUMENTS"),
        ({"remote-password": "wrong"}, "SXM_BAD_ARGUMENTS"),
        ({"remote-password": ""}, "SXM_BAD_ARGUMENTS"),
        ({"vdi:" + NOBODY: NOBODY}, "SXM_BAD_ARGUMENTS"),
    ],
)
def test_refused_arguments_change_nothing(scene, wrong, code):
    journals = os.listdir(scene.host.root + "/var/lib/sxm")
    with pytest.raises(XenAPI.Failure) as refused:
        scene.begin(**dict(scene.arguments(), **wrong))
    assert refused.value.details[0] == code and len(refused.value.details) > 1
    assert "wrong" not in json.dumps(
        [detail for detail in refused.value.details if "remote-password" in detail][1:]
    )
    assert os.listdir(scene.host.root + "/var/lib/sxm") == journals
    scene.assert_nothing_left()


def test_a_destination_where_it_is_not_installed_is_named_before_anything_is_changed(scene):
    plugin = scene.there.root + "/etc/xapi.d/plugins/sxm.py"
    os.rename(plugin, plugin + ".away")
    try:
        with pytest.raises(XenAPI.Failure) as refused:
            scene.begin()
    finally:
        os.rename(plugin + ".away", plugin)
    assert refused.value.details[0] == "SXM_BAD_ARGUMENTS"
    assert "host %s has no Storage XenMotion" % scene.there.name in refused.value.details[1]
    scene.assert_nothing_left()


def test_a_second_migration_succeeds(scene):
    scene.moves()


def test_the_destinations_xenopsd_dies_after_the_gates_opened(scene):
    """The guest was suspended and cannot go on, so the VM is halted; and at the destination, since
    once the gates are open it may have run there and have written, for all that anybody can
    tell."""
    there, at = scene.there, scene.there.root + "/run/held"
    there.at_switch(HOLD % {"at": at})
    try:
        migration = scene.begin()
        scene.until(migration, lambda entry: os.path.exists(at))
        there.kill("xenopsd")
    finally:
        there.at_switch(None)
        if os.path.exists(at):
            os.unlink(at)
    there.start_xenopsd()
    entry = scene.ended(migration)
    assert (
        entry["state"] == "failed"
        and entry["error"][0] == "SXM_ARRIVED_HALTED"
        and entry["left"] == []
    )
    scene.host = there
    assert scene.record["power_state"] == "Halted"
    for vbd in scene.record["VBDs"]:
        assert not scene.pool.xapi.VDI.get_sm_config(scene.pool.xapi.VBD.get_VDI(vbd))
    scene.assert_nothing_left()
    scene.pool.start_vm(scene.pool.xapi.VM.get_by_uuid(scene.uuid), scene.host.name)
    scene.assert_runs()
    scene.assert_nothing_left()
    scene.moves()


def test_a_vm_that_ended_there_before_anybody_saw_it_run(scene):
    """The worker dies as the gate opens; the VM arrives, writes, and crashes. Only the
    destination's disks have what it wrote."""
    source, there = scene.host, scene.there
    migration = scene.begin_and_kill(("disk", "gate", ["open"], True))
    eventually(lambda: (there.domain(scene.uuid) or {}).get("pid"), "the VM's arrival", ARRIVES)
    scene.host = there
    scene.wait_for_writes(20)
    os.kill(there.domain(scene.uuid)["pid"], KILLED)
    (answer,) = scene.call("recover", host=source, migration=migration)["migrations"]
    assert (
        answer["outcome"] == "moved"
        and "halted" in answer["why"]
        and answer["error"] == ["SXM_ARRIVED_HALTED", scene.uuid]
    ), answer
    assert scene.record["power_state"] == "Halted"
    scene.assert_nothing_left()
    scene.pool.start_vm(scene.pool.xapi.VM.get_by_uuid(scene.uuid), there.name)
    scene.assert_runs()
    scene.moves()


def test_the_xenopsd_of_both_dies_after_the_gates_opened(scene):
    """Within a host: the VM is halted on its new disks."""
    here, at = scene.host, scene.host.root + "/run/held"
    here.at_switch(HOLD % {"at": at})
    try:
        migration = scene.begin(**scene.within("big"))
        scene.until(migration, lambda entry: os.path.exists(at))
        here.kill("xenopsd")
    finally:
        here.at_switch(None)
        if os.path.exists(at):
            os.unlink(at)
    here.start_xenopsd()
    entry = scene.ended(migration)
    assert entry["error"] == ["SXM_ARRIVED_HALTED", scene.uuid] and entry["left"] == []
    assert scene.record["power_state"] == "Halted"
    scene.assert_nothing_left()
    scene.pool.start_vm(scene.pool.xapi.VM.get_by_uuid(scene.uuid), here.name)
    scene.assert_runs()
