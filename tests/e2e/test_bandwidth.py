# SPDX-License-Identifier: LGPL-2.1-only
"""A migration keeps to the bandwidth that it was given, and to another one that it is given while
it runs."""

import time

import pytest
import XenAPI

from lab.pools.topology import PoolPlan
from tests.eventually import eventually

MIB = 1 << 20
DISKS = (64 * MIB,)
PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
# What may go before the mover has been told, a window that was begun, and what may be made up for.
AT_ONCE = 8 * MIB
PATIENCE = 120.0


def test_it_is_kept_to_and_changed_while_it_runs(scene):
    began = time.monotonic()
    migration = scene.begin(**dict(scene.arguments(), bandwidth="2MiB"))
    source = scene.host

    def status():
        return scene.call("status", source, migration=migration)

    def sent():
        found = status()
        return sum(disk["copied"] + disk["mirrored_bytes"] for disk in found["disks"])

    eventually(lambda: status()["disks"][0]["copied"], "it copies", PATIENCE)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert sent() <= AT_ONCE + 2 * MIB * (time.monotonic() - began)
    assert status()["bandwidth"] == 2 * MIB and status()["state"] == "running"
    with pytest.raises(XenAPI.Failure) as raised:
        scene.call("limit", source, migration=migration, bandwidth="quick")
    assert raised.value.details[0] == "SXM_BAD_ARGUMENTS"
    assert scene.call("limit", source, migration=migration, bandwidth="0")["bandwidth"] == 0
    entry = scene.ended(migration, source)
    assert entry["state"] == "succeeded", entry["error"]
    assert status()["bandwidth"] == 0 and sent() > 10 * MIB
    scene.settle()
    scene.assert_runs()
    scene.assert_nothing_left()
    with pytest.raises(XenAPI.Failure) as raised:
        scene.call("limit", source, migration=migration, bandwidth="1MiB")
    assert raised.value.details[0] == "SXM_NOT_RUNNING"
