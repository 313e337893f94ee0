# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm selftest` over two pools, as an owner of them runs it: out halted, back running, a worker
that is killed and followed, a move that is cancelled; its report; and nothing is left."""

import json
import os
import re
import subprocess
import sys

import pytest

from lab.dom0 import systemd
from lab.pools import leftovers
from lab.pools.topology import PoolPlan
from tests.e2e.scene import assert_settles

PLAN = (PoolPlan("A", ("a1",), False, ("fast",)), PoolPlan("B", ("b1",), False, ("fast",)))
BOUND = 1200.0  # seconds for all steps: a minute, where nobody else is at work
SIZE = "64"  # MiB, of which one a second is moved where it is to be met half-way
KILLED = "kill the worker half-way, running"
STEPS = [
    "make a VM, fill its disk, read it",
    "move, halted",
    "start the VM",
    "move, running",
    KILLED,
    "shut the VM down",
    "cancel a move half-way, halted",
    "clean up",
]
READ = [STEPS[0], STEPS[1], STEPS[3], KILLED, STEPS[6]]
"""Behind these the disk is read anew."""


@pytest.mark.timeout(1500)
def test_over_two_pools(lab, tmp_path):
    folder = tmp_path / "sxm"
    folder.mkdir()
    tables = []
    for pool in lab.pools:
        systemd.release(pool.master.root, after=1)
        password = folder / pool.name
        password.write_text(pool.password)
        password.chmod(0o600)
        address = "%s:%d" % (pool.master.address, pool.master.https_port)
        tables.append(
            "[pools.%s]\naddress = %s\npassword_file = %s\n"
            % (pool.name, json.dumps(address), json.dumps(str(password)))
        )
    (folder / "pools.toml").write_text("".join(tables))
    ran = subprocess.run(
        [sys.executable, "-m", "storage_motion.cli.main", "-s", "A", "selftest", "--short"]
        + ["--sr", "a1-fast", "--to-pool", "B", "--to-sr", "b1-fast", "--size", SIZE]
        + ["--report", str(tmp_path / "report")],
        env=dict(os.environ, XDG_CONFIG_HOME=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BOUND,
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    steps = {step["what"]: step for step in report["steps"]}
    assert list(steps) == STEPS and report["held"]
    assert {step["outcome"] for step in steps.values()} == {"ok"}
    assert [what for what in STEPS if steps[what]["disks"] == "equal"] == READ
    assert steps[KILLED]["note"] == "it was taken back"
    assert steps["move, halted"]["places"] == ["SR 1.1", "SR 2.1"]
    told = (tmp_path / "report.txt").read_text()
    assert "Every step held." in told and "file" in told
    both = told + json.dumps(report)
    for secret in [pool.password for pool in lab.pools] + [lab.host("a1").address]:
        assert secret not in both
    assert not {"a1", "b1"} & set(re.findall(r"\w+", both)), "as words: they may be in a UUID's"
    assert_settles(lambda: leftovers.at_rest(lab))
    for pool in lab.pools:
        names = [vm["name_label"] for vm in pool.xapi.VM.get_all_records().values()]
        assert not any("selftest" in name for name in names), names
