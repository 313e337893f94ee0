# SPDX-License-Identifier: LGPL-2.1-only
"""A suspended VM moves to another pool with the image of its memory, and goes on there; within its
pool it goes on from the one that it has. With a worker that is killed, and a cancel. It begins on a
member, whose master writes for it what no message of xapi's does."""

import pytest
import XenAPI

from lab.pools.lab import Lab
from tests.e2e.moments import MOMENTS
from tests.e2e.records import BETWEEN, WITHIN, Watched
from tests.e2e.suspended import Sleeper


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def scene(lab):
    return Sleeper(lab, home="a2")


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


def test_to_another_pool_and_back(scene, watched):
    for _ in range(2):
        written = scene.suspend()
        watched.begin()
        entry = scene.ended(scene.begin())
        assert entry["state"] == "succeeded", entry["error"]
        scene.host = scene.there
        watched.assert_alike(BETWEEN, lost=("VM.suspend_SR",))
        scene.assert_nothing_left()
        scene.resume(written)


def test_within_its_pool(scene, watched):
    """Its VBDs stay, and so does its image."""
    x, written = scene.pool.xapi, scene.suspend()
    watched.begin()
    before, image = x.VM.get_VBDs(scene.vm), scene.record["suspend_VDI"]
    entry = scene.ended(scene.begin(**scene.within("big")))
    assert entry["state"] == "succeeded", entry["error"]
    assert entry["plan"]["staying"] == [x.VDI.get_uuid(image)]
    watched.assert_alike(WITHIN)
    assert x.VM.get_VBDs(scene.vm) == before and scene.record["suspend_VDI"] == image
    (disk,) = [x.VBD.get_VDI(vbd) for vbd in before]
    assert x.VDI.get_SR(disk) == scene.pool.sr(scene.host.name, "big")
    scene.assert_nothing_left()
    scene.resume(written)


def test_within_its_pool_with_its_image(scene, watched):
    """Which `vdi:` gives an SR: it goes on from the new one."""
    x, written = scene.pool.xapi, scene.suspend()
    image = x.VDI.get_uuid(scene.record["suspend_VDI"])
    before, arguments = x.VM.get_VBDs(scene.vm), scene.within("fast")
    big = x.SR.get_uuid(scene.pool.sr(scene.host.name, "big"))
    watched.begin()
    entry = scene.ended(scene.begin(**dict(arguments, **{"vdi:" + image: big})))
    assert entry["state"] == "succeeded", entry["error"]
    watched.assert_alike(WITHIN)
    moved = scene.record["suspend_VDI"]
    assert x.VM.get_VBDs(scene.vm) == before and x.VDI.get_uuid(moved) != image
    assert x.VDI.get_SR(moved) == scene.pool.sr(scene.host.name, "big")
    scene.assert_nothing_left()
    scene.resume(written)


def test_a_cancel_in_mid_copy(scene):
    written = scene.suspend()
    migration = scene.begin(**dict(scene.arguments(), bandwidth="1MiB"))
    scene.until(migration, lambda entry: "copying" in str(entry["disks"]))
    with pytest.raises(XenAPI.Failure) as refused:
        scene.pool.xapi.VM.resume(scene.vm, False, False)
    assert refused.value.details[0] == "OPERATION_BLOCKED"
    scene.call("cancel", migration=migration)
    assert scene.ended(migration)["state"] == "cancelled"
    scene.resume(written)


@pytest.mark.parametrize(
    "moment, outcome",
    [
        ("copying", "taken back"),
        (("migration", "imported", [True], True), "taken back"),
        ("clean-up", "moved"),
    ],
    ids=["copying", "imported", "clean-up"],
)
def test_a_worker_that_is_killed(scene, moment, outcome):
    written, there = scene.suspend(), scene.there
    migration = scene.begin_and_kill(MOMENTS[moment] if isinstance(moment, str) else moment)
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == outcome, answer
    scene.host = there if outcome == "moved" else scene.host
    scene.resume(written)
