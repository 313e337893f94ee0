# SPDX-License-Identifier: LGPL-2.1-only
"""The disks of snapshots are sent one after the other, and each is kept before the next is based
on it; what breaks is made anew, and no other."""

import collections
import threading

import pytest

from fake_migration import make_plan
from storage_motion.errors import Cancelled, CopyFailed, MoverFailed, NotCleanedUp
from storage_motion.migration.phases import copying, history, receive, table as phases

BOUND = 20.0  # seconds for one thread to wait for the other


class World:
    """Two disks of snapshots, `a` and on that `b`; `fails`: {(step, key)}; `await_steps`: {one:
    another, for which it waits}."""

    id, lost = "m", False

    def __init__(self, monkeypatch, fails=()):
        one = make_plan().disks[0]
        self.plan = make_plan(
            history=[
                one._replace(key="a", snapshot="s"),
                one._replace(key="b", base="a", snapshot="t"),
            ]
        )
        self.entry = {"disks": {key: {"state": "waiting"} for key in ("a", "b", "k")}, "left": []}
        self.log, self.fails = [], set(fails)
        monkeypatch.setattr(receive, "add", lambda m, disks: self.step("add", disks[0].key))
        monkeypatch.setattr(receive, "keep", lambda m, disks: self.step("keep", disks[0].key))
        monkeypatch.setattr(receive, "abort", lambda m: self.log.append("abort"))
        for name in ("await_end", "end_mover"):
            monkeypatch.setattr(
                copying, name, lambda m, disk, *_, name=name: self.step(name, disk.key)
            )
        monkeypatch.setattr(copying, "open_source", self.open_source)
        monkeypatch.setattr(copying, "close", self.close)
        monkeypatch.setattr(copying, "begin", self.begin)
        self.await_steps, self.done = {}, collections.defaultdict(threading.Event)
        self.cancelled = False

    def open_source(self, m, disk, copied_from, look):
        self.note(disk.key, copy_open=copied_from)
        self.step("open", copied_from)
        look(self)
        return copying.Source({"of": copied_from}, {}, False)

    def begin(self, m, disk, mover, copied_from, source):
        assert source.opened == {"of": copied_from}
        self.note(disk.key, state="copying")
        self.step("begin", copied_from)

    def close(self, m, disk):
        self.step("close", disk.key)
        self.note(disk.key, copy_open=None)

    def step(self, name, key):
        self.log.append("%s %s" % (name, key))
        self.done[name, key].set()
        if (name, key) in self.await_steps:
            assert self.done[self.await_steps[name, key]].wait(BOUND)
        if (name, key) in self.fails:
            raise CopyFailed(key, "no")

    def cancel_asked(self):
        return self.cancelled

    def disk(self, key):
        return self.entry["disks"][key]

    def note(self, key=None, **fields):
        (self.entry if key is None else self.disk(key)).update(fields)

    def pulse(self):
        pass

    def mover(self, key):
        world = self

        class Mover:
            def start(self, size):
                world.step("mover", key)
                return type("Process", (), {"to_json": lambda self: {"pid": 1, "started": 1}})()

            def finish(self, mirrored):
                assert mirrored is False
                world.step("finish", key)

        return Mover()

    def tolerated(self, what):
        import contextlib

        return contextlib.suppress(CopyFailed)


SOURCE = "open mover begin await_end close".split()
DESTINATION = "add mover begin await_end finish end_mover keep".split()
"""The steps of one disk, in this order at either end."""


def of(log, steps, keys):
    """Those of a log that are these steps of these disks, in its order."""
    return [line for line in log if line.split()[0] in steps and line.split()[1] in keys]


def all_of(steps, keys):
    return ["%s %s" % (step, key) for key in keys for step in steps]


def assert_sent(log, keys):
    """Each is kept before the next is based on it, and closed before the next is opened."""
    assert of(log, SOURCE, keys) == all_of(SOURCE, keys)
    assert of(log, DESTINATION, keys) == all_of(DESTINATION, keys)


def test_each_is_kept_before_the_next_begins(monkeypatch):
    world = World(monkeypatch)
    history.send(world)
    assert_sent(world.log, "ab")
    assert [world.disk(key)["state"] for key in "ab"] == ["kept", "kept"]
    sent = list(world.log)
    history.send(world)
    assert world.log == sent


def test_both_ends_turn_to_the_next_one_at_once(monkeypatch):
    """The destination waits here for the source, and the source for the destination."""
    world = World(monkeypatch)
    world.await_steps = {
        ("keep", "a"): ("open", "b"),
        ("open", "b"): ("finish", "a"),
        ("add", "a"): ("open", "a"),
    }
    history.send(world)
    assert_sent(world.log, "ab")


@pytest.mark.parametrize(
    "step, kept",
    [
        ("await_end b", "a"),
        ("finish b", "a"),
        ("keep b", "a"),
        ("add b", "a"),
        ("open b", "a"),
        ("close a", "a"),
        ("keep a", ""),
        ("finish a", ""),
        ("open a", ""),
        ("add a", ""),
        ("close b", "ab"),
    ],
)
def test_what_breaks_is_made_anew_and_no_other(monkeypatch, step, kept):
    """And nothing stays open at the source."""
    world = World(monkeypatch, [tuple(step.split())])
    with pytest.raises(CopyFailed):
        history.send(world)
    world.log, world.fails = [], set()
    history.clear_broken(world)
    assert {key for key in "ab" if world.disk(key)["state"] == "kept"} == set(kept)
    assert all(world.disk(key)["state"] in ("kept", "waiting") for key in "ab")
    assert not any(copying.is_open(world, disk) for disk in world.plan.history)
    assert not of(world.log, ["end_mover"], kept), "of what is kept none is there"
    world.log = []
    history.send(world)
    assert_sent(world.log, [key for key in "ab" if key not in kept])
    assert [world.disk(key)["state"] for key in "ab"] == ["kept", "kept"]


def test_a_cancel_is_heeded_between_two_commands_at_the_source(monkeypatch):
    world = World(monkeypatch)
    world.cancelled = True
    with pytest.raises(Cancelled):
        history.send(world)
    assert sorted(world.log) == ["add a", "open a"]


def test_the_undo_ends_all_and_clears_the_destination_last(monkeypatch):
    world = World(monkeypatch, [("close", "a")])
    history.stop(world)
    assert world.log == ["end_mover a", "close a", "end_mover b", "close b", "abort"]


def test_what_was_not_kept_is_never_destroyed(monkeypatch):
    world = World(monkeypatch)
    for state in ("waiting", "copying", "broken"):
        world.disk("a")["state"] = state
        with pytest.raises(NotCleanedUp):
            history.require_kept(world, world.plan.history[0])
    world.disk("a")["state"] = "kept"
    history.require_kept(world, world.plan.history[0])


def test_only_a_vm_with_snapshots_has_the_phase():
    names = lambda plan: [phase.name for phase in phases.of(plan)]  # noqa: E731
    assert "history" not in names(make_plan())
    with_one = names(make_plan(history=make_plan().disks))
    assert with_one.index("claim") < with_one.index("history") < with_one.index("receive")


def test_a_broken_one_is_taken_up_in_this_phase():
    from storage_motion.migration import resume

    plan = make_plan(history=make_plan().disks)
    m = type("M", (), {"plan": plan, "entry": {}})
    (phase,) = [phase for phase in phases.PHASES if phase.name == "history"]
    assert resume.begins(m, phase, MoverFailed("a", "died")).name == "history"
