# SPDX-License-Identifier: LGPL-2.1-only
"""A systemd that is the real one: the contract that the lab's stand-in keeps, and moves of the
product under it."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.systemd.booted import Booted

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))
BOUND = 400.0


@pytest.fixture(scope="module")
def booted(tmp_path_factory):
    log = str(tmp_path_factory.mktemp("systemd") / "log")
    with Booted(log) as booted:
        yield booted


def passes(booted, name):
    """The tests of a file, run in there."""
    environment = {"SYSTEMD": "real", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/root"}
    python36 = os.path.join(REPOSITORY, ".venv36/bin/python")
    if os.path.exists(python36):
        environment.update(SXM_LAB_PYTHON=python36, SXM_LAB_RELEASE="xcp-ng-8.3")
    done = booted.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-s",
            "--durations=8",
            "-p",
            "no:cacheprovider",
            os.path.join(HERE, name),
        ],
        BOUND,
        environment,
    )
    print(done.stdout.decode())
    assert done.returncode == 0


def test_it_is_as_the_labs(booted):
    assert shutil.which("systemd-run")
    passes(booted, "test_systemd_contract.py")


def test_moves(booted):
    passes(booted, "moves_under_systemd.py")


# what is in there cannot be written to here
ELSEWHERE = ("/usr/lib/python3.6", "/usr/lib/python3.11", "/opt", "/usr/share", "/var")
PACKAGE = """set -eu
rm -f /run/systemd/system/sxm*      # of the tests before, which would come before the package's
systemctl daemon-reload
rpm() { command rpm --dbpath /tmp/rpm "$@" 2>&1 | grep -v '^rpm: ' || true; }
rpm --install --nodeps %(excluded)s "$0"
echo "enabled: $(systemctl is-enabled sxm-recover.service)"
systemctl show -p LoadState,Restart,RestartUSec,KillMode,Slice sxm-worker@a-b.service
systemctl show -p LoadState,Restart,KillMode,NeedDaemonReload sxm-recover.service
migration=%(migration)s
mount -t tmpfs none /var/lib    # of this script alone
mkdir /var/lib/sxm
printf '{\\n "state": "running"\\n}\\n' >/var/lib/sxm/$migration.json
instead=/run/systemd/system/sxm-worker@.service.d
mkdir $instead
printf '[Service]\\nExecStart=\\nExecStart=/bin/sleep 600\\n' >$instead/sleep.conf
systemctl daemon-reload
systemctl start sxm-worker@$migration
echo "upgrade: $(rpm --upgrade --replacepkgs --nodeps %(excluded)s "$0")"
echo "removal: $(rpm --erase --nodeps storage-xenmotion)"
echo "the worker: $(systemctl is-active sxm-worker@$migration)"
systemctl show -p LoadState sxm-recover.service | sed 's/^/still there: /'
systemctl stop sxm-worker@$migration
rm -r /var/lib/sxm $instead
rpm --erase --nodeps storage-xenmotion
echo "afterwards: $(systemctl is-enabled sxm-recover.service 2>/dev/null || echo no)"
systemctl show -p LoadState sxm-worker@a-b.service
find /etc/systemd /etc/xapi.d /etc/logrotate.d/sxm -name '*sxm*' 2>/dev/null || true
"""


MIGRATION = "11111111-2222-3333-4444-555555555555"


def test_the_package(booted):
    """Its units say to a systemd what they are meant to; it is enabled by its preset; while a
    migration runs it is neither upgraded nor removed, and says which; and nothing of it is left
    when it is removed."""
    built = (
        subprocess.run(
            [os.path.join(REPOSITORY, "rpm/build.sh")],
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
        .stdout.decode()
        .strip()
    )
    excluded = " ".join("--excludepath " + path for path in ELSEWHERE)
    script = PACKAGE % {"excluded": excluded, "migration": MIGRATION}
    done = booted.run(["unshare", "--mount", "sh", "-c", script, built], 120.0)
    said = done.stdout.decode().splitlines()
    enabled = said.index("enabled: enabled")
    after = said.index("afterwards: no")
    worker = {
        "LoadState=loaded",
        "Restart=on-abnormal",
        "RestartUSec=10s",
        "KillMode=process",
        "Slice=sxm.slice",
    }
    assert worker | {"NeedDaemonReload=no"} <= set(said[enabled:after]), said
    for what, done in (("upgrade", "installed or upgraded"), ("removal", "removed")):
        assert any(
            line.startswith(what + ": ")
            and "is not %s while a migration runs" % done in line
            and MIGRATION in line
            for line in said
        ), said
    assert {"the worker: active", "still there: LoadState=loaded"} <= set(said), said
    assert said[after + 1 :] == ["LoadState=not-found"], said
