# SPDX-License-Identifier: LGPL-2.1-only
"""A host's root as the harness builds it: dom0's programs run in it, those of each release."""

import os
import subprocess
import sys
import tempfile
import xmlrpc.client

import pytest

from lab.pools import daemons, roots, topology
from lab.pools.releases import RELEASES
from lab.sm import install
from storage_motion.dom0 import blktap
from tests.eventually import eventually

CONFIG = {"host": {"uuid": "u", "control_domain": "c"}}


@pytest.fixture(params=sorted(RELEASES))
def root(request, monkeypatch):
    monkeypatch.setattr(install, "NEEDS", {})  # the drivers on LVM, too: they are only loaded here
    with tempfile.TemporaryDirectory(prefix="sxm-") as directory:
        roots.build(directory + "/h", CONFIG, sys.executable, RELEASES[request.param])
        yield directory + "/h"


def run(root, *arguments):
    return subprocess.run(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=daemons.environment(root),
        timeout=60,
    )


def test_dom0s_programs_run_in_it(root):
    assert run(root, root + "/usr/sbin/tap-ctl", "list").returncode == 0
    call = xmlrpc.client.dumps(
        ({"command": "sr_get_driver_info", "args": [], "device_config": {}},), "sr_get_driver_info"
    )
    for driver in ("FileSR", "MirrorSR"):
        done = run(root, root + "/opt/xensource/sm/" + driver, call)
        (answer,), _ = xmlrpc.client.loads(done.stdout)
        assert "VDI_SNAPSHOT" in answer["capabilities"], done
    done = run(
        root,
        root + "/etc/xapi.d/plugins/sxm.py",
        xmlrpc.client.dumps(("OpaqueRef:x", {}), "nothing"),
    )
    assert b"UNKNOWN_XENAPI_PLUGIN_FUNCTION" in done.stdout, done
    for hook in (
        "vm-pre-start",
        "vm-pre-resume",
        "vm-pre-shutdown",
        "vm-pre-reboot",
        "vm-post-migrate",
    ):
        done = subprocess.run(
            ["%s/etc/xapi.d/%s/10-sxm" % (root, hook), "-vmuuid", "v", "-reason", "none"],
            env={},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), done
    with open(root + "/etc/xensource-inventory") as stream:
        assert stream.read() == "INSTALLATION_UUID='u'\nCONTROL_DOMAIN_UUID='c'\n"
    assert os.stat(root + "/run/sxm").st_mode & 0o777 == 0o700


def test_mirrorsr_finds_each_stock_driver(root):
    code = (
        "import sys; sys.path.append(%r); import MirrorSR\n"
        "for base in sorted(MirrorSR.sr_types.DRIVERS_OF_TYPES): print(base, "
        "MirrorSR.base_class(MirrorSR.base_module(base)).handles(base))"
    )
    done = run(root, root + "/usr/bin/python3", "-c", code % (root + "/opt/xensource/sm"))
    assert done.stdout.decode().splitlines() == [
        base + " True"
        for base in ("ext", "file", "lvm", "lvmohba", "lvmoiscsi", "nfs", "smb", "xfs", "zfs")
    ], done


def test_sms_lock_is_a_record_lock(root):
    """As the real one is, which a process loses when it closes any descriptor of the file."""
    code = (
        "import sys; sys.path.append(%r)\n"
        "from storage_motion.sm import stock_sm\n"
        "lock = stock_sm.module('core.lock').Lock('vdi', 'v')\n"
    ) % (root + "/opt/xensource/sm")
    take = code + "print(lock.acquireNoblock())"
    holder = code + (
        "import subprocess\n"
        "def another():\n"
        "    return subprocess.check_output([sys.executable, '-c', %r]).decode().strip()\n"
        "print(lock.acquireNoblock(), lock.acquireNoblock(), another())\n"
        "lock.release(); print(another()); lock.release(); print(another())\n"
        "lock.acquire(); print(another()); open(lock.lockpath).close(); print(another())\n"
    ) % (take,)
    done = run(root, root + "/usr/bin/python3", "-c", holder)
    assert done.stdout.decode().splitlines() == [
        "True True False",
        "False",
        "True",
        "False",
        "True",
    ], done


def test_the_package_of_its_blktap(root, monkeypatch):
    """Only where the lab's images stand for VHDs the product may take their tapdisk for a safe
    one."""
    monkeypatch.setenv("SXM_ROOT", root)
    (release,) = [release for release in RELEASES.values() if release.version == blktap.version()]
    assert blktap.is_safe_for_qcow2() is (release.qcow2 is None)
    assert (release.qcow2 is None) is not os.path.exists(root + "/opt/xensource/sm/cowutil.py")


def test_endpoints_are_distinct():
    names = ["a1", "a2", "b1"]
    found = topology.endpoints(names)
    assert len({endpoint.address for endpoint in found.values()}) == 3
    assert all(endpoint.http_port != endpoint.https_port for endpoint in found.values())


def test_processes_of_a_root_are_found_and_ended(tmp_path):
    root = str(tmp_path)
    process = subprocess.Popen(["sleep", "60"], env=daemons.environment(root))
    # The kernel shows what a process has inherited a moment after its program has begun.
    eventually(lambda: daemons.of_root(root), "the process, by its environment")
    assert daemons.of_root(root) == {process.pid: "sleep 60"}
    assert daemons.end_all_of(root) == {process.pid: "sleep 60"}
    assert daemons.of_root(root) == {}
    process.wait()


def test_a_daemon_that_does_not_come_up_says_why(tmp_path):
    (tmp_path / "var/log").mkdir(parents=True)
    known = daemons.Daemons(str(tmp_path / "processes.json"))
    with pytest.raises(daemons.StartFailed, match="No module named lab.nothing"):
        known.start("h/nothing", "lab.nothing", str(tmp_path), str(tmp_path / "ready"))
