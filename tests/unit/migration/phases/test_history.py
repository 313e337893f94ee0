# SPDX-License-Identifier: LGPL-2.1-only
"""The disks of snapshots are sent one after the other, and each is kept before the next is based
on it; what breaks is made anew, and no other."""

import pytest

from fake_migration import make_plan
from storage_motion.errors import CopyFailed, MoverFailed, NotCleanedUp
from storage_motion.migration.phases import copying, history, receive, table as phases


class World:
    """Two disks of snapshots, `a` and on that `b`; `fails`: {(step, key)}."""

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
        for name in ("await_end", "close", "end_mover"):
            monkeypatch.setattr(
                copying, name, lambda m, disk, *_, name=name: self.step(name, disk.key)
            )
        monkeypatch.setattr(
            copying,
            "begin",
            lambda m, disk, mover, copied_from: self.step("begin of " + copied_from, disk.key),
        )

    def step(self, name, key):
        self.log.append("%s %s" % (name, key))
        if (name, key) in self.fails:
            raise CopyFailed(key, "no")

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


STEPS = "add mover begin await_end close finish end_mover keep".split()


def of(key):
    names = {"begin": "begin of %s" % key}
    return ["%s %s" % (names.get(step, step), key) for step in STEPS]


def test_each_is_kept_before_the_next_begins(monkeypatch):
    world = World(monkeypatch)
    history.send(world)
    assert world.log == of("a") + of("b")
    assert [world.disk(key)["state"] for key in "ab"] == ["kept", "kept"]
    history.send(world)
    assert len(world.log) == 2 * len(STEPS)


@pytest.mark.parametrize("step", ["await_end", "finish", "keep"])
def test_what_breaks_is_made_anew_and_no_other(monkeypatch, step):
    world = World(monkeypatch, [(step, "b")])
    with pytest.raises(CopyFailed):
        history.send(world)
    world.log, world.fails = [], set()
    world.disk("b").setdefault("mover", None)
    history.clear_broken(world)
    assert world.disk("a")["state"] == "kept" and world.disk("b")["state"] == "waiting"
    assert [line for line in world.log if line.endswith(" a")] == []
    history.send(world)
    assert world.log[-len(STEPS) :] == of("b") and world.disk("b")["state"] == "kept"


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
