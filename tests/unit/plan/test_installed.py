# SPDX-License-Identifier: LGPL-2.1-only
"""Storage XenMotion itself on the hosts that a migration needs."""

import json
import os
import shutil

import pytest
import XenAPI

import storage_motion
from fake_migration import make_plan
from fake_pool import by_name, make_pool, uuid_of
from storage_motion.api import functions
from storage_motion.api.arguments import Problems
from storage_motion.errors import Refused
from storage_motion.plan import installed
from storage_motion.xapi.records import Records

VERSION = storage_motion.__version__
WHOLE = {"driver": True, "driver_version": VERSION, "version": VERSION}
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))


class World:
    """Two pools; the migration goes from a2, a member, to b2, a member. `answers`: host's name ->
    its plugin's answer, or what it raises."""

    def __init__(self):
        self.pools = [make_pool("A", ["a1", "a2"]), make_pool("B", ["b1", "b2"])]
        self.answers, self.asked = {}, []
        for pool in self.pools:
            pool.handlers["host.call_plugin"] = self._plugin_of(pool)
        self.source, self.destination = [Records(pool) for pool in self.pools]
        self.plan = make_plan(
            source_host=uuid_of(self.pools[0], "host", by_name(self.pools[0], "host", "a2")),
            destination_host=uuid_of(self.pools[1], "host", by_name(self.pools[1], "host", "b2")),
        )

    def _plugin_of(self, pool):
        def call(ref, plugin, function, given):
            assert (plugin, function, given) == ("sxm.py", "installed", {})
            host = pool.tables["host"][ref]["name_label"]
            self.asked.append(host)
            answer = self.answers.get(host, WHOLE)
            if isinstance(answer, Exception):
                raise answer
            return json.dumps(answer)

        return call

    def problems(self):
        problems = Problems()
        installed.require(self.source, self.destination, self.plan, problems)
        return problems.details


@pytest.fixture
def world():
    return World()


def test_each_host_is_asked_once(world):
    assert world.problems() == [] and sorted(world.asked) == ["a1", "a2", "b1", "b2"]
    world.asked, world.plan = (
        [],
        world.plan._replace(
            source_host=uuid_of(world.pools[0], "host", by_name(world.pools[0], "host", "a1")),
            destination_host=uuid_of(world.pools[0], "host", by_name(world.pools[0], "host", "a1")),
        ),
    )
    world.destination = world.source
    assert world.problems() == [] and world.asked == ["a1"]


@pytest.mark.parametrize(
    "host, argument", [("a1", "vm"), ("a2", "vm"), ("b1", "remote-master"), ("b2", "host")]
)
@pytest.mark.parametrize(
    "answer, why",
    [
        (XenAPI.Failure(["XENAPI_MISSING_PLUGIN", "sxm.py"]), "has no Storage XenMotion"),
        (XenAPI.Failure(["UNKNOWN_XENAPI_PLUGIN_FUNCTION", "installed"]), "has an older version"),
        (
            XenAPI.Failure(["HOST_OFFLINE", "ref"]),
            "does not say which Storage XenMotion it has: HOST_OFFLINE ref",
        ),
        (
            {"driver": True, "version": "0.0.9"},
            "has version 0.0.9 of Storage XenMotion, and this one is",
        ),
        ({"driver": False, "version": VERSION}, "has no driver MirrorSR in /opt/xensource/sm"),
        (
            dict(WHOLE, driver_version="0.0.9"),
            "has a driver MirrorSR of version 0.0.9, and this one is",
        ),
        (
            dict(WHOLE, driver_version=None),
            "has a driver MirrorSR of version None, and this one is",
        ),
    ],
)
def test_what_is_not_there_is_named_with_its_host(world, host, argument, answer, why):
    world.answers[host] = answer
    assert len(world.problems()) == 1
    (said,) = world.problems()
    assert said.startswith("%s: host %s %s" % (argument, host, why)) and said.endswith(
        "on every host of both pools"
    )


class M:
    """A migration, half way."""

    def __init__(self, world):
        self.plan, self.destination = world.plan, world.pools[1]
        self.host = lambda: by_name(world.pools[1], "host", "b2")
        self.id, self.pulse = "m", lambda cancellable: None


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The driver of this host, the source."""
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    driver = tmp_path / "opt/xensource/sm/MirrorSR"
    driver.parent.mkdir(parents=True)
    shutil.copy(os.path.join(ROOT, "drivers/MirrorSR.py"), str(driver))
    driver.chmod(0o755)
    return driver


def test_the_source_looks_at_its_own_driver_once_more(world, mine):
    """It is run from disk, other than the worker, which began before."""
    installed.require_again(M(world))
    mine.write_text(mine.read_text().replace('VERSION = "', 'VERSION = "9.'))
    with pytest.raises(Refused) as raised:
        installed.require_again(M(world))
    assert "it has a driver MirrorSR of version 9." in raised.value.details[1]
    mine.unlink()
    with pytest.raises(Refused) as raised:
        installed.require_again(M(world))
    assert "it has no driver MirrorSR" in raised.value.details[1]


def test_the_destination_is_asked_once_more(world, mine):
    installed.require_again(M(world))
    assert world.asked == ["b2"]
    world.answers["b2"] = {"driver": True, "version": "9"}
    with pytest.raises(Refused) as raised:
        installed.require_again(M(world))
    assert "it has version 9 of Storage XenMotion" in raised.value.details[1]


def test_a_member_whose_xapi_is_just_restarted_is_waited_for(world, monkeypatch, mine):
    slept = []
    monkeypatch.setattr(
        installed.repeated.time, "sleep", lambda seconds: slept.append(world.answers.clear())
    )
    world.answers["b2"] = XenAPI.Failure(["HOST_OFFLINE", "ref"])
    installed.require_again(M(world))
    assert world.asked == ["b2", "b2"] and len(slept) == 1


def test_what_this_host_says_of_itself(mine):
    said = {"version": VERSION, "blktap": None, "qcow2_safe": False}
    assert functions.call("installed", None, {}) == dict(said, driver=True, driver_version=VERSION)
    mine.write_text("")
    assert functions.call("installed", None, {}) == dict(said, driver=True, driver_version=None)
    mine.unlink()
    assert functions.call("installed", None, {}) == dict(said, driver=False, driver_version=None)
