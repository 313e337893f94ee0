# SPDX-License-Identifier: LGPL-2.1-only
"""Synchronising: a cancel is noticed between any two commands, and the way back begins at both ends
at once."""

import contextlib
import errno
import json
import threading
import types

import pytest

from fake_clock import Clock
from fake_migration import make_plan
from storage_motion.errors import (
    Cancelled,
    CopyFailed,
    DestinationFull,
    DiskTracked,
    MirrorBroken,
    MotionError,
    SmFault,
)
from storage_motion.migration import mirror_health, resume
from storage_motion.migration.phases import copying, receive, sync, table as phases
from storage_motion.sm import smapi


class Process:
    def to_json(self):
        return {"pid": 1, "started": 1}


class World:
    """A migration of `keys`; cancelled at the look number `cancelled_at`."""

    id, lost, closes = "m", False, None

    def __init__(self, monkeypatch, keys=("k",), cancelled_at=None):
        one = make_plan().disks[0]
        self.plan = make_plan()._replace(disks=tuple(one._replace(key=key) for key in keys))
        self.entry = {
            "migration": "m",
            "disks": {key: {"state": "waiting", "blank": True} for key in keys},
            "left": [],
        }
        self.log, self.looks, self.cancelled_at = [], 0, cancelled_at
        monkeypatch.setattr(
            copying,
            "ask",
            lambda m, disk, command, vdi, args=(), timeout=None: (
                self.log.append(command),
                '{"size": 1}',
            )[1],
        )
        self.source, self.tracked = None, False
        monkeypatch.setattr(sync.block_tracking, "require_disabled", self._require_disabled)
        monkeypatch.setattr(
            sync.durable, "keep", lambda pools, make, lacking, what: self.log.append("database")
        )
        monkeypatch.setattr(copying, "close", lambda m, disk: self.log.append("close"))
        monkeypatch.setattr(copying, "_require_there", lambda m, disk: None)
        monkeypatch.setattr(
            mirror_health, "watch", lambda m: {key: {"copy": {"state": "done"}} for key in keys}
        )

    def disk(self, key):
        return self.entry["disks"][key]

    def limit(self, bandwidth):
        assert bandwidth == 0, "there is none"

    def _require_disabled(self, _m, disk):
        if self.tracked:
            raise DiskTracked(disk.key)

    def guest_closes(self):
        return self.closes

    def closed(self):
        self.closes = None

    def note(self, key=None, **fields):
        (self.entry if key is None else self.disk(key)).update(fields)

    def mover(self, key):
        return self

    secondary, verified = "/run/m0.nbd", "/run/v0-0.map"

    def start(self, size):
        self.log.append("mover")
        return Process()

    def copy(self, source, extents, blank, heading, compare, known, based):
        self.log.append("copy")

    def pulse(self):
        self.looks += 1
        if self.looks == self.cancelled_at:
            raise Cancelled(self.id)

    def describe(self, error):
        return [str(error)]

    @contextlib.contextmanager
    def tolerated(self, what):
        try:
            yield
        except Exception as error:
            self.entry["left"].append("%s: %s" % (what, error))


def test_a_disk_that_is_tracked_by_then_is_not_mirrored_nor_tried_again(monkeypatch):
    world = World(monkeypatch)
    world.tracked = True
    with pytest.raises(DiskTracked) as refused:
        sync.synchronise(world)
    assert "vdi_mirror_start" not in world.log and "mirror" not in world.disk("k")
    assert resume.begins(world, phases.of(world.plan)[3], refused.value) is None


@pytest.mark.parametrize(
    "status, error",
    [
        (
            {
                "state": "mirroring",
                "copy": {"state": "failed", "error": "full", "errno": errno.ENOSPC},
            },
            DestinationFull,
        ),
        (
            {"state": "mirroring", "copy": {"state": "failed", "error": "bad", "errno": errno.EIO}},
            CopyFailed,
        ),
        (
            {"state": "mirroring", "copy": {"state": "failed", "error": "gone", "errno": None}},
            CopyFailed,
        ),
        (
            {
                "state": "broken",
                "error": "full",
                "errno": errno.ENOSPC,
                "copy": {"state": "failed", "error": "x"},
            },
            DestinationFull,
        ),
        ({"state": "broken", "error": "cut", "copy": {"state": "running"}}, MirrorBroken),
    ],
)
def test_a_full_destination_is_no_broken_mirror_that_could_be_taken_up(monkeypatch, status, error):
    real = mirror_health.watch
    world = World(monkeypatch)
    monkeypatch.setattr(mirror_health, "watch", real)
    world.progress = world
    world.take = lambda key, status: None
    world.status = lambda: status
    world.disk("k").update(state="copying", mover={"pid": 1, "started": 1})
    with pytest.raises(error) as raised:
        sync.synchronise(world)
    taken_up = resume.begins(
        type("M", (), {"plan": world.plan, "entry": world.entry}),
        next(phase for phase in phases.PHASES if phase.name == "sync"),
        raised.value,
    )
    assert (taken_up is None) == (error is DestinationFull)


@pytest.mark.parametrize(
    "power_state, fault, faults, tries, error",
    [
        ("Running", copying.NOT_ACTIVE, 3, 4, None),
        ("Running", copying.NOT_ACTIVE, 1000, 121, MirrorBroken),
        ("Halted", copying.NOT_ACTIVE, 1000, 1, MirrorBroken),
        ("Running", copying.PAUSED, 1000, 1, MirrorBroken),
        ("Running", smapi.AWAY, 1000, 1, MirrorBroken),
        ("Running", 1200, 1000, 1, SmFault),
    ],
)
def test_a_disk_that_is_closed_while_the_guest_reboots_is_waited_for(
    monkeypatch, power_state, fault, faults, tries, error
):
    world, clock = World(monkeypatch), Clock()
    monkeypatch.setattr(sync, "time", clock)
    world.source = types.SimpleNamespace(
        xenapi=types.SimpleNamespace(
            VM=types.SimpleNamespace(get_power_state=lambda ref: power_state)
        )
    )
    world.vm = lambda: "ref"

    def refused(m, disk, command, vdi, args=(), timeout=None):
        world.log.append(command)
        if len(world.log) <= faults:
            raise SmFault(command, fault, "no")
        return "snapshot"

    monkeypatch.setattr(copying, "ask", refused)
    with pytest.raises(error) if error else contextlib.ExitStack():
        assert sync._mirror(world, world.plan.disks[0], world) == "snapshot"
    assert [step for step in world.log if step != "database"] == ["vdi_mirror_start"] * tries


def test_a_guest_that_is_about_to_reboot_ends_the_try_before_its_disk_is_closed(monkeypatch):
    real = mirror_health.watch
    world = World(monkeypatch)
    monkeypatch.setattr(mirror_health, "watch", real)
    world.disk("k").update(state="copying", mover={"pid": 1, "started": 1})
    world.status, world.closes = (
        (lambda: {"state": "mirroring", "copy": {"state": "running"}}),
        "hard-reboot",
    )
    with pytest.raises(MirrorBroken) as raised:
        sync.synchronise(world)
    assert "hard-reboot" in str(raised.value)


@pytest.mark.parametrize("closed_after, waited", [(3, 0.3), (None, 60.0)])
def test_what_is_about_to_break_is_not_taken_for_sound(monkeypatch, closed_after, waited):
    """It is made anew once the disk is closed; after a while it is not believed any more."""
    world, clock, looks = World(monkeypatch), Clock(), []
    monkeypatch.setattr(sync.waiting, "time", clock)
    monkeypatch.setattr(
        receive, "reopen", lambda m, disks: world.log.append([disk.key for disk in disks])
    )
    monkeypatch.setattr(sync, "_END", ())
    world.source = types.SimpleNamespace(
        xenapi=types.SimpleNamespace(
            VM=types.SimpleNamespace(get_power_state=lambda ref: "Running")
        )
    )
    world.vm = lambda: "ref"
    world.disk("k").update(state="copying", mover={"pid": 1, "started": 1})

    def status():
        looks.append(1)
        ended = closed_after and len(looks) > closed_after
        return {
            "state": "ended" if ended else "mirroring",
            "clean": True,
            "copy": {"state": "running"},
        }

    world.status, world.closes = status, "hard-reboot"
    sync.clear_broken(world)
    assert world.closes is None and clock.now == pytest.approx(waited, abs=0.2)
    assert world.log == ([["k"]] if closed_after else [])


def read_only(monkeypatch, **changes):
    world = World(monkeypatch)
    disk = world.plan.disks[0]._replace(read_only=True, **changes)
    world.plan = world.plan._replace(disks=(disk,))
    return world


def test_a_read_only_disk_is_copied_beside_its_guest_and_not_mirrored(monkeypatch):
    world, asked = read_only(monkeypatch), []
    monkeypatch.setattr(
        copying,
        "ask",
        lambda m, disk, command, vdi, args=(), timeout=None: (
            asked.append((command, vdi, args)),
            '{"size": 1}',
        )[1],
    )
    sync.synchronise(world)
    assert asked == [("vdi_copy_open", "k", ("beside-reader",)), ("vdi_extents", "k", ())]
    assert world.disk("k")["state"] == "in-sync" and "mirror" not in world.disk("k")


def test_one_whose_guest_has_it_closed_just_now_is_tried_again(monkeypatch):
    world = read_only(monkeypatch)

    def refuse(*_, **__):
        raise SmFault("vdi_copy_open", copying.NOT_ACTIVE, "SXM_NOT_ACTIVE")

    monkeypatch.setattr(copying, "ask", refuse)
    with pytest.raises(MirrorBroken):
        sync.synchronise(world)


@pytest.mark.parametrize("sharable, made_anew", [(True, [["k"]]), (False, [])])
def test_what_others_may_have_written_while_the_guest_rebooted_is_copied_anew(
    monkeypatch, sharable, made_anew
):
    world = read_only(monkeypatch, sharable=sharable)
    monkeypatch.setattr(sync, "_END", ())
    monkeypatch.setattr(mirror_health, "is_sound", lambda m, disk: True)
    monkeypatch.setattr(mirror_health, "any_mirrors", lambda m: False)
    monkeypatch.setattr(
        receive, "reopen", lambda m, disks: m.log.append([disk.key for disk in disks])
    )
    world.source = types.SimpleNamespace(
        xenapi=types.SimpleNamespace(
            VM=types.SimpleNamespace(get_power_state=lambda ref: "Running")
        )
    )
    world.vm, world.closes = lambda: "ref", "hard-reboot"
    sync.clear_broken(world)
    assert world.log == made_anew


STEPS = ["mover", "vdi_mirror_start", "database", "vdi_copy_open", "vdi_extents", "copy", "close"]


def test_a_cancel_is_noticed_between_any_two_commands(monkeypatch):
    world = World(monkeypatch)
    sync.synchronise(world)
    assert world.log == STEPS and world.disk("k")["state"] == "in-sync"
    longest = 0
    for look in range(1, world.looks + 1):
        stopped = World(monkeypatch, cancelled_at=look)
        with pytest.raises(Cancelled):
            sync.synchronise(stopped)
        longest = max(longest, len(stopped.log))
        assert stopped.log == STEPS[: len(stopped.log)] and look <= len(stopped.log) + 1
    assert longest == len(STEPS)


def test_what_a_mover_has_verified_counts_only_until_the_next_one_mirrors(monkeypatch):
    """The writes that one gets are not in the file of the mover before."""
    world, noted = World(monkeypatch), []
    world.disk("k")["verified_windows"] = "/run/v0-0.map"

    def begin(m, disk, mover, copied_from, verified):
        noted.append((m.disk("k")["verified_windows"], verified))
        raise CopyFailed("k", "no")

    monkeypatch.setattr(copying, "begin", begin)
    for _ in range(2):
        with pytest.raises(CopyFailed):
            sync.synchronise(world)
        world.disk("k")["state"] = "broken"
    assert noted == [(None, "/run/v0-0.map"), (None, None)]


def stopping(monkeypatch, abort, keys=("k", "l")):
    """The world after the undo, whose part at the destination is `abort(world)`."""
    world = World(monkeypatch, keys)
    monkeypatch.setattr(
        sync,
        "_STOP",
        tuple(
            (name, lambda m, disk, name=name: m.log.append((name, disk.key)))
            for name, _ in sync._STOP
        ),
    )
    monkeypatch.setattr(receive, "abort", abort)
    sync.stop(world)
    return world


def test_the_destination_is_cleared_while_the_source_is_and_after_the_movers(monkeypatch):
    meet = threading.Barrier(2, timeout=60)

    def abort(m):
        assert {step for step in m.log if step[0] == "mover"} == {("mover", "k"), ("mover", "l")}
        meet.wait()
        m.log.append("cleared")

    real = World.tolerated

    @contextlib.contextmanager
    def tolerated(self, what):
        if what == "mirror of k":
            meet.wait()  # both are under way at once, or neither comes past this
        with real(self, what):
            yield

    monkeypatch.setattr(World, "tolerated", tolerated)
    world = stopping(monkeypatch, abort)
    assert "cleared" in world.log and world.entry["left"] == []
    assert [step for step in world.log if step[1] == "k"] == [
        (name, "k") for name in ("mover", "mirror", "copy", "lock", "snapshots")
    ]


@pytest.mark.parametrize(
    "error",
    [MotionError("gone"), SmFault("x", 1, "y"), ConnectionRefusedError("no"), ValueError(json)],
)
def test_what_fails_at_the_destination_is_left_to_its_own_undo(monkeypatch, error):
    def abort(m):
        raise error

    world = stopping(monkeypatch, abort)
    assert len(world.log) == 2 * len(sync._STOP) and world.entry["left"] == []
