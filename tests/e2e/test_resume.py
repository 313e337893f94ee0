# SPDX-License-Identifier: LGPL-2.1-only
"""A move whose mirror breaks ends by itself all the same: the guest loses nothing, the disks are
equal, nothing is left.

What was across already is not sent again, as `saved` tells.
"""

import contextlib
import json
import os
import re
import signal
import time

import pytest
import XenAPI

from lab.blktap import reply
from lab.pools import at_switch, leftovers
from lab.pools.lab import Lab
from lab.pools.link import Link
from lab.pools.topology import PoolPlan
from storage_motion.dom0.launch import Process
from storage_motion.errors import MotionError
from storage_motion.wire import control_socket
from tests.e2e.scene import MIB, task_ended
from tests.eventually import eventually

DISKS = (8 * MIB, 64 * MIB)
PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
PATIENCE = 240.0
STALL = 8.0  # more than the bound of 5 s
ACROSS = 2 * MIB  # of the second disk, before something happens to it
RATE = 8 * MIB  # bytes a second that the link carries until then


@pytest.fixture(scope="module")
def lab():
    with Lab(plan=PLAN) as lab:
        for host in lab.hosts:
            host.at_switch(at_switch.script(lab))
        yield lab


@pytest.fixture
def link(lab):
    """The link that the disks go over: slow, so that something can happen in mid-copy; `Move` makes
    it fast then."""
    with Link(lab.hosts) as link:
        link.limit(RATE)
        yield link


class Move:
    """A migration of the scene's VM to the other pool, which is copying its second disk; the first
    one is in sync."""

    def __init__(self, scene, link, **arguments):
        self.scene = scene
        self.was, self.pool, self.source, self.destination = (
            self._footprint(),
            scene.pool,
            scene.host,
            scene.there,
        )
        self.writes = scene.guest.status()["writes_acknowledged"]
        self.id = scene.begin(**dict(scene.arguments(), **arguments))
        self.first, self.second = [disk["key"] for disk in scene.journal(self.id)["plan"]["disks"]]
        self._until_across()
        self._link = link

    def _footprint(self):
        pool = self.scene.pool
        return leftovers.footprint(pool, pool.xapi.VM.get_by_uuid(self.scene.uuid))

    def _until_across(self):
        path = "%s/run/sxm/%s/m1.ctl" % (self.source.root, self.id)

        def entry():
            return json.dumps(self.scene.journal(self.id), indent=1)

        def across():
            assert self.scene.journal(self.id)["state"] == "running", entry()
            with contextlib.suppress(MotionError):
                copy = control_socket.request(path, {"cmd": "status"}, 5)["copy"]
                return copy if copy["verified"] >= ACROSS else None

        copy = eventually(across, "some of it is across", PATIENCE, seen=entry)
        assert copy["state"] == "running", "the copy is too fast for this test"

    def mover(self, key):
        return self.scene.journal(self.id)["disks"][key]["mover"]

    def receiver(self):
        with open("%s/var/lib/sxm/receive-%s.json" % (self.destination.root, self.id)) as stream:
            return json.load(stream)["receivers"][-1]["process"]

    def tapdisk(self, key):
        vdi = self.scene.journal(self.id)["disks"][key]["destination_vdi"]
        return next(
            one["pid"] for one in leftovers.tapdisks(self.destination) if vdi in one["args"]
        )

    def status(self):
        return self.scene.call("status", self.source, migration=self.id)

    def await_broken(self):
        """Wait until it has been noticed; what the journal says of it. The link is a fast one from
        now on."""
        broken = self.scene.until(self.id, lambda entry: entry["broken"])["broken"]
        self._link.heal()
        return broken

    def arrives(self, killed=None, before_looking=None):
        """It ends well by itself; its last status. `killed`: the pid of a tapdisk, which could not
        take its files away; `before_looking`: what takes away what is to be left."""
        entry = self.scene.ended(self.id, self.source)
        assert entry["state"] == "succeeded", " ".join(entry["error"])
        status = self.status()
        self.scene.host = self.destination
        self.scene.assert_runs()
        assert self.scene.guest.status()["writes_acknowledged"] > self.writes
        switch = self.destination.xenopsd("VM.stat", id=self.scene.uuid)["migration"]["at_switch"]
        assert switch["exit"] == 0 and len(json.loads(switch["output"])) == len(DISKS), switch
        if before_looking:
            before_looking()
        assert leftovers.of_vm(self.pool, self.was) == []
        for directory, _, names in os.walk(self.destination.root + "/run/blktap-control"):
            for name in names:
                if killed and re.match(r"(ctl|nbd)?%d(\.|$)" % killed, name):
                    os.unlink(os.path.join(directory, name))
        self.scene.assert_nothing_left()
        assert status["tries"] >= 1 and status["broken"] is None
        assert all(disk["verified"] == disk["copied"] for disk in status["disks"])
        print(
            "tries %d, saved %s, copied %s, to copy %s"
            % (
                status["tries"],
                [disk["saved"] for disk in status["disks"]],
                [disk["copied"] for disk in status["disks"]],
                [disk["to_copy"] for disk in status["disks"]],
            )
        )
        return {disk["vdi"]: disk for disk in status["disks"]}, status


def assert_undisturbed(disk, status):
    """Nothing of it was copied again; unless a machine too busy to answer within the stall bound
    has broken something by itself."""
    assert disk["saved"] == 0 or status["tries"] > 1


def test_the_mover_is_killed_in_mid_copy(scene, link):
    move = Move(scene, link)
    scene.kill(move.mover(move.second))
    broken = move.await_broken()
    assert (broken["limit"], broken["waiting"]) == (5, "the next try") and broken["attempt"] >= 1, (
        broken
    )
    assert broken["error"][0] == "SXM_MIRROR_BROKEN"
    disks, status = move.arrives()
    assert disks[move.second]["saved"] > 0
    assert_undisturbed(disks[move.first], status)
    assert status["saved"] == sum(disk["saved"] for disk in disks.values())


def test_the_mover_of_a_disk_in_sync_is_killed(scene, link):
    move = Move(scene, link)
    second = move.mover(move.second)
    scene.kill(move.mover(move.first))
    move.await_broken()
    scene.until(move.id, lambda entry: not entry["broken"])
    assert move.mover(move.second) == second, "the copy of the other disk goes on"
    disks, status = move.arrives()
    assert disks[move.first]["saved"] > 0
    assert_undisturbed(disks[move.second], status)


def test_the_receiver_is_killed_in_mid_copy_and_somebody_says_resume(scene, link):
    move = Move(scene, link)
    scene.kill(move.receiver())
    move.await_broken()
    try:
        assert scene.call("resume", move.source, migration=move.id)["broken"]["attempt"] >= 1
    except XenAPI.Failure as failure:
        # the next try, after two seconds, was quicker
        assert failure.details[0] == "SXM_NOTHING_TO_RESUME"
    disks, _ = move.arrives()
    assert disks[move.second]["saved"] > 0 and disks[move.first]["saved"] > 0


def test_the_tapdisk_of_the_destination_is_killed(scene, link):
    move = Move(scene, link)
    pid = move.tapdisk(move.second)
    os.kill(pid, signal.SIGKILL)
    move.await_broken()
    disks, status = move.arrives(killed=pid)
    assert_undisturbed(disks[move.first], status)


def test_the_link_is_cut(scene, link):
    move = Move(scene, link)
    link.cut()
    move.await_broken()
    disks, _ = move.arrives()
    assert disks[move.second]["saved"] > 0
    # The link is whole again as soon as one of them has noticed: the other one need not have.
    assert disks[move.first]["saved"] > 0 or not scene.journal(move.id, move.source)["disks"][
        move.first
    ].get("given_up")


def test_the_receiver_stands_still(scene, link):
    move = Move(scene, link)
    receiver = Process.from_json(move.receiver())
    os.kill(receiver.pid, signal.SIGSTOP)
    scene.guest.status(reset=True)
    begun = time.monotonic()
    move.await_broken()
    assert 4.0 < time.monotonic() - begun < STALL + 20
    # the guest's writes to the one disk may wait longer than those to the other
    scene.until(move.id, lambda entry: entry["disks"][move.second].get("given_up"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(receiver.pid, signal.SIGCONT)
    disks, _ = move.arrives()
    assert disks[move.second]["saved"] > 0


def test_the_guest_reboots(scene, link):
    """A hook tells of it before the disks are closed, and when they are about to be opened again:
    one try, and no waiting for it."""
    move = Move(scene, link)
    task = move.source.xenopsd("VM.reboot", id=scene.uuid, delay=60.0)
    move.await_broken()
    task_ended(move.source, task)
    runs_again = time.monotonic()

    def first(entry):
        return entry["disks"][move.first]

    entry = scene.until(
        move.id,
        lambda entry: (
            first(entry).get("renewed") and first(entry)["state"] in ("copying", "in-sync")
        ),
    )
    print(
        "the first disk is mirrored again %.1f s after the guest ran again"
        % (time.monotonic() - runs_again)
    )
    assert entry["tries"] == 1
    disks, _ = move.arrives()
    assert disks[move.second]["saved"] > 0 and disks[move.first]["saved"] > 0


def test_no_tries(scene, link):
    move = Move(scene, link, **{"retry-limit": "0"})
    scene.kill(move.mover(move.second))
    entry = scene.ended(move.id, move.source)
    assert (
        entry["state"] == "failed"
        and entry["error"][0] == "SXM_MIRROR_BROKEN"
        and entry["left"] == []
    )
    scene.assert_runs()
    scene.assert_nothing_left()


@pytest.fixture
def prompt(lab):
    """SM pokes no tapdisk that it pauses, and would stand there for minutes under I/O, moving or
    not (docs/facts/tapdisk-and-sm.md, 2)."""
    for host in lab.hosts:
        reply.choose(host.root, "prompt")
    yield
    for host in lab.hosts:
        reply.choose(host.root, None)


def test_somebody_takes_a_snapshot_of_a_disk_in_mid_move(scene, link, prompt):
    """Its pause and unpause attach the mirror anew, which is as good as none. The snapshot is his,
    and stays where it is."""
    move = Move(scene, link)
    api = move.pool.xapi.VDI
    snapshot = api.snapshot(api.get_by_uuid(move.first), {})
    move.await_broken()
    move.arrives(before_looking=lambda: take_away(api, snapshot))


def take_away(api, snapshot):
    assert "sxm_migration" not in api.get_other_config(snapshot)
    api.destroy(snapshot)
