# SPDX-License-Identifier: LGPL-2.1-only
"""The lab of a module, and the VM that its tests share.

Of a test that fails, what its hosts' processes are doing and the ends of their logs are told, and
all of the logs are kept in build/evidence/<test>; then its scene is put in order for the next
test."""

import os
import subprocess
import traceback

import pytest

from lab.pools import evidence, stacks
from lab.pools.lab import Lab
from tests.e2e import scene as scenes

EVIDENCE = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    "build",
    "evidence",
)
TOLD = 50
"""Lines of a log."""


@pytest.fixture(scope="module")
def lab(request):
    """A lab by the module's PLAN. A module that wants another one has a fixture of its own."""
    with Lab(plan=request.module.PLAN) as lab:
        yield lab


@pytest.fixture(scope="module")
def scene(lab, request):
    """One VM for all tests of the module, with its DISKS if it has some: each leaves it running,
    wherever that is then."""
    return scenes.Scene(lab, getattr(request.module, "DISKS", scenes.DISKS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    lab = item.funcargs.get("lab")
    if report.when == "call" and report.failed and lab:
        evidence.keep(lab, os.path.join(EVIDENCE, item.name))
        report.sections.append(("what goes on in the lab", _stacks(lab)))
        for host in lab.hosts:
            report.sections.append(
                ("sxm.log of %s" % host.name, _end("%s/var/log/sxm.log" % host.root))
            )
            report.sections.append(
                ("xenopsd.log of %s" % host.name, _end("%s/var/log/xenopsd.log" % host.root))
            )
        if item.funcargs.get("scene"):
            report.sections.append(("the scene afterwards", _restore(item.funcargs["scene"])))
    return report


def _stacks(lab):
    try:
        return stacks.told(lab)
    except Exception:
        return traceback.format_exc()


def _restore(scene):
    try:
        scene.restore()
        return "the VM runs on %s" % scene.host.name
    except Exception:  # the failure of the test is what counts
        return traceback.format_exc()


def _end(path):
    return subprocess.run(
        ["tail", "-n", str(TOLD), path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=20,
    ).stdout
