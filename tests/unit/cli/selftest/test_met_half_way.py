# SPDX-License-Identifier: LGPL-2.1-only
"""A move that a selftest would kill or cancel half-way, and that has gone there before: nothing is
wrong with the hosts then, whoever's VM it is."""

from types import SimpleNamespace

import pytest
import XenAPI

from storage_motion.cli.failures import SelftestFailed, TooQuick
from storage_motion.cli.selftest import subject

ID, MIB = "0123abcd", 1 << 20
GOAL = SimpleNamespace(name="lyon")


class Source:
    """Pool paris, which answers each `status` with the next of `looks`, and any other function
    but `migrate` with the error `code`, if there is one."""

    name = "paris"

    def __init__(self, looks, code=None):
        self.looks, self.code, self.begun = list(looks), code, None

    def plugin(self, function, **given):
        if function == "migrate":
            self.begun = given
            return {"migration": ID}
        if function == "status":
            state, moved = self.looks.pop(0)
            return {
                "migration": ID,
                "state": state,
                "bytes_moved": moved,
                "alive": True,
                "doing": "",
            }
        if self.code:
            raise XenAPI.Failure([self.code, ID, "x"])
        return {}


@pytest.fixture
def vm(monkeypatch):
    """`vm(made, looks, code)`: a VM with a disk of 1 GiB, in pool paris."""
    disk = SimpleNamespace(record={"virtual_size": str(1 << 30)})
    monkeypatch.setattr(subject.Subject, "disks", lambda self: [disk])
    monkeypatch.setattr(subject.Subject, "arguments", lambda self, to, goal: {})
    monkeypatch.setattr(subject, "POLL", 0)
    return lambda made, looks, code=None: subject.Subject(ID, Source(looks, code), "vm", made)


@pytest.mark.parametrize("made, rate", [(True, MIB), (False, 64 * MIB)])
def test_it_is_met_when_it_has_sent_something(vm, made, rate):
    one = vm(made, [("running", 0), ("running", 4096)])
    assert one.half_way(None, GOAL)["bytes_moved"] == 4096
    assert one.pool.begun["bandwidth"] == str(rate), "one that may write is held up less"


@pytest.mark.parametrize("made", [True, False])
def test_it_was_there_before_anybody_looked(vm, made):
    one = vm(made, [("running", 0), ("succeeded", 4096)])
    with pytest.raises(TooQuick):
        one.half_way(None, GOAL)
    assert one.pool is GOAL


def test_it_has_failed_before_anybody_looked(vm):
    one = vm(True, [("failed", 0)])
    with pytest.raises(SelftestFailed):
        one.half_way(None, GOAL)
    assert one.pool is not GOAL


@pytest.mark.parametrize("code", ["SXM_TOO_LATE", "SXM_NOT_RUNNING"])
def test_it_was_there_before_it_was_killed(vm, code):
    one = vm(True, [("running", 4096), ("succeeded", 8192)], code)
    with pytest.raises(TooQuick):
        one.disturb("selftest-kill", ID, GOAL, selftest=ID)
    assert one.pool is GOAL


@pytest.mark.parametrize("code, state", [("SXM_TOO_LATE", "failed"), ("SXM_NOT_OF_SELFTEST", "")])
def test_what_else_is_wrong_is_told(vm, code, state):
    one = vm(True, [(state, 0)], code)
    with pytest.raises(XenAPI.Failure):
        one.disturb("selftest-kill", ID, GOAL, selftest=ID)
    assert one.pool is not GOAL


def test_it_is_killed(vm):
    one = vm(True, [])
    one.disturb("selftest-kill", ID, GOAL, selftest=ID)
    assert one.pool is not GOAL
