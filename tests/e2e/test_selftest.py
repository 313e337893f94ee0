# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm selftest` over two pools, as an owner of them runs it: out halted, back running, a worker
that is killed and followed, a move that is cancelled; its report; and nothing is left."""

import json
import os
import re
import subprocess
import sys

from lab.dom0 import systemd
from lab.pools import leftovers
from lab.pools.topology import PoolPlan
from tests.e2e.scene import assert_settles
from tests.eventually import eventually

MIB = 1 << 20
PLAN = (PoolPlan("A", ("a1",), False, ("fast", "big")), PoolPlan("B", ("b1",), False, ("fast",)))
BOUND, PATIENCE = 300.0, 30.0
GUEST = {"writes": 20, "fill": 0.4}
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


def selftest(lab, home, *words):
    """Run it on pool A: (exit status, what it said, its report as JSON and as text)."""
    folder = home / "sxm"
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
        + ["--report", str(home / "report"), *words],
        env=dict(os.environ, XDG_CONFIG_HOME=str(home)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BOUND,
    )
    print(ran.stdout)
    report = json.loads((home / "report.json").read_text())
    return ran.returncode, ran.stdout, report, (home / "report.txt").read_text()


def test_over_two_pools(lab, tmp_path):
    words = ["--sr", "a1-fast", "--to-pool", "B", "--to-sr", "b1-fast", "--size", "16"]
    status, said, report, told = selftest(lab, tmp_path, *words)
    assert status == 0, said
    steps = {step["what"]: step for step in report["steps"]}
    assert list(steps) == STEPS and report["held"]
    assert {step["outcome"] for step in steps.values()} == {"ok"}
    assert [what for what in STEPS if steps[what]["disks"] == "equal"] == READ
    assert steps[KILLED]["note"] == "it was taken back"
    start, to = steps["move, halted"]["places"]
    assert start in ("SR 1.1", "SR 1.2") and to == "SR 2.1"
    assert "Every step held." in told and "file" in told
    for secret in [pool.password for pool in lab.pools] + ["a1", "b1", lab.host("a1").address]:
        # as a word: an id of hexadecimal digits may have "a1" in it
        assert not re.search(r"(?<!\w)%s(?!\w)" % re.escape(secret), told + json.dumps(report))
    assert_settles(lambda: leftovers.at_rest(lab))
    for pool in lab.pools:
        names = [vm["name_label"] for vm in pool.xapi.VM.get_all_records().values()]
        assert not any("selftest" in name for name in names), names


def test_of_a_vm_that_is_named(lab, tmp_path):
    """It writes all the while, and is where it was afterwards."""
    pool = lab.pool("A")
    vm = pool.create_vm("web", [(pool.sr("a1", "fast"), 8 * MIB)], GUEST)
    uuid = pool.start_vm(vm, "a1")

    def writes():
        guest = lab.host("a1").guest(uuid)  # of the domain that it has now
        begun = guest.status()["writes_acknowledged"]
        eventually(lambda: guest.status()["writes_acknowledged"] > begun + 20, "writes", PATIENCE)
        assert guest.check()["missing"] == 0

    writes()
    status, said, report, _ = selftest(lab, tmp_path, "--vm", "web", "--sr", "a1-big", "--yes")
    assert status == 0 and report["held"], said
    assert [(step["what"], step["outcome"]) for step in report["steps"]] == [
        ("move, running", "ok"),
        ("move, running", "ok"),
        (KILLED, "ok"),
        ("cancel a move half-way, running", "ok"),
        ("clean up", "ok"),
    ]
    writes()
    (disk,) = [pool.xapi.VBD.get_VDI(vbd) for vbd in pool.xapi.VM.get_VBDs(vm)]
    assert pool.xapi.VDI.get_SR(disk) == pool.sr("a1", "fast")
    assert not [key for key in pool.xapi.VM.get_other_config(vm) if "selftest" in key]
    assert_settles(lambda: leftovers.at_rest(lab))
