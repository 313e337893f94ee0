# SPDX-License-Identifier: LGPL-2.1-only
"""The other pool burns down in mid-move and never comes back: nothing is decided without the
administrator's word, and all of it with."""

import threading

import pytest
import XenAPI

from lab.guest.control import GuestError
from lab.pools import leftovers, power
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from tests.e2e.moments import MOMENTS
from tests.e2e.scene import MIB, Scene, assert_nothing_older, assert_settles

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = (4 * MIB, 8 * MIB)


@pytest.fixture
def lab():
    with Lab(plan=PLAN) as lab:  # one for each test: a pool of it is lost
        yield lab


class Memory(threading.Thread):
    """What the guest was told is safe, as long as it is at the source: `latest`, its records just
    before it was suspended."""

    def __init__(self, scene):
        super().__init__(daemon=True)
        self.latest = scene.guest.records()
        self._host, self._uuid, self._end = scene.host, scene.uuid, threading.Event()

    def run(self):
        while not self._end.wait(0.05):
            try:
                if self._host.domain(self._uuid) is None:
                    return  # it has gone
                self.latest = self._host.guest(self._uuid).records()
            except (GuestError, OSError, TypeError):
                return  # it is suspended, or on its way: the domain may go between the two looks

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self.join(60)


def recover(scene, migration, **given):
    (answer,) = scene.call("recover", host=scene.host, migration=migration, **given)["migrations"]
    print("%(outcome)s: %(why)s" % answer)
    return answer


def of_the_source(lab):
    """What is left there, but for xenopsd's memory of a halted VM."""
    return [text for text in leftovers.of_pools([lab.pool("A")]) if "knows VM" not in text]


@pytest.mark.parametrize("moment", ["detached", "opening", "complete"])
def test_lost_for_good(lab, moment):
    scene = Scene(lab, DISKS)
    arguments = scene.arguments()
    with Memory(scene) as memory:
        migration = scene.begin_and_kill(MOMENTS[moment])
    power.fail(lab, lab.host("b1"))
    waits = recover(scene, migration)
    assert waits["outcome"] in ("waiting", "undecided"), waits
    credentials = {name: arguments[name] for name in ("remote-username", "remote-password")}
    done = recover(scene, migration, lost="destination", **credentials)
    assert (
        done["outcome"] == "taken back"
        and done["left"] == []
        and done["error"] == ["SXM_DESTINATION_LOST", scene.uuid]
    ), done
    vm = scene.pool.xapi.VM.get_by_uuid(scene.uuid)
    record = scene.pool.xapi.VM.get_record(vm)
    assert (
        record["power_state"] == "Halted"
        and record["blocked_operations"] == {}
        and "sxm_migration" not in record["other_config"]
    )
    assert_settles(lambda: of_the_source(lab))
    scene.pool.start_vm(vm, scene.host.name)
    scene.wait_for_writes(20)
    assert_nothing_older(scene.guest.records(), memory.latest)
    assert scene.guest.check()["missing"] == 0
    with pytest.raises(XenAPI.Failure) as again:
        scene.call("recover", host=scene.host, migration=migration, lost="source")
    assert again.value.details[0] == "SXM_BAD_ARGUMENTS"
