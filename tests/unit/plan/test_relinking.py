# SPDX-License-Identifier: LGPL-2.1-only
"""SM's `relinking` on a disk of the VM: refused where it was left, not where a collector is at
work."""

import pytest

from fake_pool import uuid_of
from plan_world import World
from storage_motion.api.arguments import Problems
from storage_motion.plan import relinking
from storage_motion.xapi.records import Records


class Clock:
    """Time passes with each sleep only."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(relinking.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(relinking.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds


def problems(world, monkeypatch, answers):
    """`answers`: of the SR's master, one after the other, the last one again and again."""
    asked = []

    def master(session, sr, vdi):
        asked.append((sr, vdi))
        return answers[min(len(asked), len(answers)) - 1]

    monkeypatch.setattr(relinking.sr_master, "relinking", master)
    Clock(monkeypatch)
    plan, wrong = world.cross()
    assert wrong == []
    found = Problems()
    relinking.require(world.a, Records(world.a), plan, found)
    return found.details, asked


def test_without_the_mark_nobody_is_asked(monkeypatch):
    assert problems(World(), monkeypatch, ["left"]) == ([], [])


def test_a_mark_of_ours_is_none_of_sms(monkeypatch):
    world = World()
    world.disk["sm_config"] = {"relinking": "storage-motion"}
    assert problems(world, monkeypatch, ["left"]) == ([], [])


@pytest.mark.parametrize(
    "answers, refused",
    [
        (["left"], True),
        (["unknown", "unknown", "left"], True),
        (["none"], False),
        (["unknown", "none"], False),
        (["unknown"], False),
    ],
)
def test_it_is_refused_exactly_where_it_was_left(monkeypatch, answers, refused):
    world = World()
    world.disk["sm_config"] = {"relinking": "True"}
    found, asked = problems(world, monkeypatch, answers)
    assert asked[0] == (uuid_of(world.a, "SR", world.sr), world.vdi(0))
    assert len(asked) == (len(answers) if answers[-1] != "unknown" else 12)
    assert len(found) == refused
    if refused:
        assert found[0].startswith("vdi:%s: SM has left relinking=True in its" % world.vdi(0))
        assert found[0].endswith("docs/operations.md, `relinking`")
