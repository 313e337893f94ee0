"""A systemd that is the real one: the contract that the lab's stand-in keeps, and moves of the product under it."""
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
    done = booted.run([sys.executable, "-m", "pytest", "-q", "-s", "--durations=8", "-p", "no:cacheprovider", os.path.join(HERE, name)], BOUND, environment)
    print(done.stdout.decode())
    assert done.returncode == 0


def test_it_is_as_the_labs(booted):
    assert shutil.which("systemd-run")
    passes(booted, "test_contract.py")


def test_moves(booted):
    passes(booted, "moves_under_systemd.py")


ELSEWHERE = ("/usr/lib/python3.6", "/usr/lib/python3.11", "/opt", "/usr/share", "/var")   # what is in there cannot be written to here
PACKAGE = """set -eu
rm -f /run/systemd/system/sxm*      # of the tests before, which would come before the package's
systemctl daemon-reload
rpm() { command rpm --dbpath /tmp/rpm "$@" 2>&1 | grep -v '^rpm: ' || true; }
rpm --install --nodeps %(excluded)s "$0"
echo "enabled: $(systemctl is-enabled sxm-recover.service)"
systemctl show -p LoadState,Restart,RestartUSec,KillMode,Slice sxm-worker@a-b.service
systemctl show -p LoadState,Restart,KillMode,NeedDaemonReload sxm-recover.service
rpm --erase --nodeps storage-xenmotion
echo "afterwards: $(systemctl is-enabled sxm-recover.service 2>/dev/null || echo no)"
systemctl show -p LoadState sxm-worker@a-b.service
find /etc/systemd /etc/xapi.d /etc/logrotate.d/sxm -name '*sxm*' 2>/dev/null || true
"""


def test_the_package(booted):
    """Its units say to a systemd what they are meant to; it is enabled by its preset, and nothing of that is left when it is removed."""
    built = subprocess.run([os.path.join(REPOSITORY, "rpm/build.sh")], stdout=subprocess.PIPE, check=True, timeout=120).stdout.decode().strip()
    excluded = " ".join("--excludepath " + path for path in ELSEWHERE)
    said = booted.run(["sh", "-c", PACKAGE % {"excluded": excluded}, built], 60.0).stdout.decode().splitlines()
    enabled = said.index("enabled: enabled")
    after = said.index("afterwards: no")
    worker = {"LoadState=loaded", "Restart=on-abnormal", "RestartUSec=10s", "KillMode=process", "Slice=sxm.slice"}
    assert worker | {"NeedDaemonReload=no"} <= set(said[enabled:after]), said
    assert said[after + 1:] == ["LoadState=not-found"], said
