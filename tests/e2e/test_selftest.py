# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm selftest` over two pools, as an owner of them runs it: out halted, back running, a worker
that is killed and followed, a move that is cancelled; its report; and nothing is left, also of a
digest that is killed."""

import json
import os
import re
import subprocess
import sys

import pytest
import XenAPI

from lab.dom0 import dying_digest, systemd
from lab.pools import leftovers
from lab.pools.topology import PoolPlan
from storage_motion.api.selftest_marks import TESTED
from tests.e2e.scene import assert_settles
from tests.eventually import eventually

MIB = 1 << 20
PLAN = (PoolPlan("A", ("a1",), False, ("fast", "big")), PoolPlan("B", ("b1",), False, ("fast",)))
BOUND = 1200.0  # seconds for all steps: a minute, where nobody else is at work
SIZE = "64"  # MiB, of which one a second is moved where it is to be met half-way
PATIENCE = 30.0
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


class Sxm:
    """The command, with both pools of the lab known to it."""

    def __init__(self, lab, folder):
        (folder / "sxm").mkdir()
        tables = []
        for pool in lab.pools:
            systemd.release(pool.master.root, after=1)
            password = folder / "sxm" / pool.name
            password.write_text(pool.password)
            password.chmod(0o600)
            address = "%s:%d" % (pool.master.address, pool.master.https_port)
            tables.append(
                "[pools.%s]\naddress = %s\npassword_file = %s\n"
                % (pool.name, json.dumps(address), json.dumps(str(password)))
            )
        (folder / "sxm" / "pools.toml").write_text("".join(tables))
        self._environment = dict(os.environ, XDG_CONFIG_HOME=str(folder))

    def __call__(self, *words):
        """A command at pool A, as it ended."""
        ran = subprocess.run(
            [sys.executable, "-m", "storage_motion.cli.main", "-s", "A"] + list(words),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BOUND,
        )
        print(ran.stdout)
        return ran


@pytest.fixture
def sxm(lab, tmp_path):
    return Sxm(lab, tmp_path)


def test_a_digest_that_is_killed_keeps_no_vm_from_starting(lab, sxm):
    """Of a VM that was named: what it has left open is told by the doctor, and closed by --clean,
    and the VM starts."""
    pool, host = lab.pool("A"), lab.host("a1")
    ref = pool.create_vm("mine", [(pool.sr("a1", "fast"), 16 << 20)])
    pool.xapi.VM.add_to_other_config(ref, TESTED, "0123abcd")
    vdi = pool.xapi.VBD.get_VDI(pool.xapi.VM.get_VBDs(ref)[0])
    uuid = pool.xapi.VDI.get_uuid(vdi)
    dying_digest.arm(host.root)
    try:
        with pytest.raises(XenAPI.Failure):
            pool.xapi.host.call_plugin(
                pool.host_ref("a1"),
                "sxm.py",
                "selftest-digest",
                {"selftest": "0123abcd", "vdi": uuid},
            )
    finally:
        assert dying_digest.disarm(host.root)
    with pytest.raises(XenAPI.Failure):
        pool.start_vm(ref, "a1")
    assert pool.xapi.VM.get_power_state(ref) == "Halted"
    assert "is open on it to be read, and no migration reads it" in flat(sxm("doctor").stdout)
    cleaned = sxm("selftest", "--clean", "--yes")
    assert cleaned.returncode == 0 and "nothing is left" in cleaned.stdout
    assert "is open on it to be read" not in flat(sxm("doctor").stdout)
    assert TESTED not in pool.xapi.VM.get_other_config(ref)
    pool.start_vm(ref, "a1")
    pool.xapi.VM.hard_shutdown(ref)
    pool.xapi.VM.destroy(ref)
    pool.xapi.VDI.destroy(vdi)
    assert_settles(lambda: leftovers.at_rest(lab))


def flat(text):
    """Without the breaks of lines."""
    return " ".join(text.split())


def selftest(sxm, home, *words):
    """Run it: (exit status, what it said, its report as JSON and as text)."""
    ran = sxm("selftest", "--short", "--report", str(home / "report"), *words)
    report = json.loads((home / "report.json").read_text())
    return ran.returncode, ran.stdout, report, (home / "report.txt").read_text()


@pytest.mark.timeout(1500)
def test_over_two_pools(lab, sxm, tmp_path):
    words = ["--sr", "a1-fast", "--to-pool", "B", "--to-sr", "b1-fast", "--size", SIZE]
    status, said, report, told = selftest(sxm, tmp_path, *words)
    assert status == 0, said
    steps = {step["what"]: step for step in report["steps"]}
    assert list(steps) == STEPS and report["held"]
    assert {step["outcome"] for step in steps.values()} == {"ok"}
    assert [what for what in STEPS if steps[what]["disks"] == "equal"] == READ
    assert steps[KILLED]["note"] == "it was taken back"
    start, to = steps["move, halted"]["places"]
    assert start in ("SR 1.1", "SR 1.2") and to == "SR 2.1"
    assert "Every step held." in told and "file" in told
    both = told + json.dumps(report)
    for secret in [pool.password for pool in lab.pools] + [lab.host("a1").address]:
        assert secret not in both
    assert not {"a1", "b1"} & set(re.findall(r"\w+", both)), "as words: they may be in a UUID's"
    assert_settles(lambda: leftovers.at_rest(lab))
    for pool in lab.pools:
        names = [vm["name_label"] for vm in pool.xapi.VM.get_all_records().values()]
        assert not any("selftest" in name for name in names), names


@pytest.mark.timeout(1500)
def test_of_a_vm_that_is_named(lab, sxm, tmp_path):
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
    status, said, report, _ = selftest(sxm, tmp_path, "--vm", "web", "--sr", "a1-big", "--yes")
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
