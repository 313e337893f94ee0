# SPDX-License-Identifier: LGPL-2.1-only
"""The stock client of XenAPI on npm, from its login to a whole migration that it follows by its
events, and to one that it cancels."""

import json
import os
import shutil
import subprocess

from lab.pools.roots import REPOSITORY
from lab.pools.topology import PoolPlan
from scene import DISKS as ONE, MOVE

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = ONE * 2
CLIENT = os.path.join(REPOSITORY, "build/npm/node_modules/xen-api")
FOLLOW = os.path.join(REPOSITORY, "tests/npm/follow_migration.mjs")
SLOW = "1MiB"  # a second: its copy takes longer than a cancel


def follow(scene, *words, **arguments):
    """What the client says, by name, of a migration to the other pool that it begins."""
    assert shutil.which("node") and os.path.isdir(CLIENT), (
        "`make build/npm/ready` installs what this test needs"
    )
    given = json.dumps(dict(scene.arguments(), **arguments))
    source = scene.pool
    done = subprocess.run(
        ["node", FOLLOW, CLIENT, source.url, scene.uuid, given] + list(words),
        timeout=MOVE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PASSWORD=source.password),
    )
    assert done.returncode == 0, done.stderr
    return {
        name: value for line in done.stdout.splitlines() for name, value in json.loads(line).items()
    }


def test_it_runs_a_migration_and_follows_it(scene):
    here, there = scene.host.name, scene.there.name
    said = follow(scene)
    assert said["seen"]["pool"] == "pool" and said["seen"]["types"] > 60
    name = said["seen"]["vm"]
    assert said["seen"]["host"] == here
    assert said["task"] == {
        "label": "VM.migrate_send",
        "description": "Storage XenMotion of %s to %s" % (name, there),
        "appliesTo": True,
        "allowed": [],  # so the buttons of XenCenter and Xen Orchestra that cancel are off
    }
    assert said["ended"] == "success", said
    assert said["progress"][-1] == 1 and any(0 < share < 1 for share in said["progress"]), (
        "it saw the task go on"
    )
    assert scene.settle().name == there
    scene.assert_runs()
    scene.assert_nothing_left()


def test_it_cancels_one_in_mid_copy(scene):
    source = scene.host
    said = follow(scene, "cancel", bandwidth=SLOW)
    assert said["ended"] == "Cancel: task canceled", said
    assert 0 < said["progress"][-1] < 0.9, "it was cancelled while it copied"
    entry = scene.ended(said["started"]["migration"], source)
    assert (entry["state"], entry["error"][0]) == ("cancelled", "SXM_CANCELLED")
    assert scene.settle() is source
    scene.assert_runs()
    scene.assert_nothing_left()
