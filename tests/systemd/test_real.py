"""A systemd that is the real one: the contract that the lab's stand-in keeps, and moves of the product under it."""
import os
import shutil
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
