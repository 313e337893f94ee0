# SPDX-License-Identifier: LGPL-2.1-only
"""The stock client of XenAPI on npm, from its login to a whole migration that it follows by its
events."""

import json
import os
import shutil
import subprocess

from lab.pools.roots import REPOSITORY
from lab.pools.topology import PoolPlan
from scene import DISKS, MOVE, Scene

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
CLIENT = os.path.join(REPOSITORY, "build/npm/node_modules/xen-api")
FOLLOW = os.path.join(REPOSITORY, "tests/npm/follow_migration.mjs")


def test_it_runs_a_migration_and_follows_it(lab):
    assert shutil.which("node") and os.path.isdir(CLIENT), (
        "`make build/npm/ready` installs what this test needs"
    )
    scene = Scene(lab, DISKS * 2)
    source = scene.pool
    done = subprocess.run(
        ["node", FOLLOW, CLIENT, source.url, scene.uuid, json.dumps(scene.arguments())],
        timeout=MOVE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PASSWORD=source.password),
    )
    assert done.returncode == 0, done.stderr
    said = {
        name: value for line in done.stdout.splitlines() for name, value in json.loads(line).items()
    }
    assert (
        said["seen"]["pool"] == "pool"
        and said["seen"]["host"] == "a1"
        and said["seen"]["types"] > 60
    )
    assert (
        said["task"]["label"].startswith("Storage XenMotion of ")
        and said["task"]["appliesTo"] is True
    )
    assert said["ended"] == "success", said
    assert said["progress"][-1] == 1 and any(0 < share < 1 for share in said["progress"]), (
        "it saw the task go on"
    )
    assert scene.settle().name == "b1"
    scene.assert_runs()
    scene.assert_nothing_left()
