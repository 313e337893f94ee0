# SPDX-License-Identifier: LGPL-2.1-only
"""How a VDI is active, by SM's links and its tapdisk's descriptors."""

import os
import subprocess
import sys

import pytest

from storage_motion.sm import active

SR, VDI = "sr", "vdi"
HOLD = "import os, sys; os.open(sys.argv[1], int(sys.argv[2])); print(flush=True); sys.stdin.read()"


@pytest.fixture
def activate(tmp_path, monkeypatch):
    """`activate(flags)`: a process has the image open like that, as the VDI's tapdisk."""
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    (tmp_path / "image").write_bytes(b"")
    begun = []

    def link(name, target):
        path = tmp_path / (name % (SR, VDI))[1:]
        path.parent.mkdir(parents=True)
        path.symlink_to(str(target))

    def one(flags, image="image"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / image), str(flags)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        begun.append(process)
        process.stdout.readline()
        link(active.IMAGE, tmp_path / "image")
        link(active.SOCKET, tmp_path / ("nbd%d.0" % process.pid))
        (tmp_path / ("nbd%d.0" % process.pid)).touch()
        return process

    yield one
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "flags, read_only",
    [
        (os.O_RDONLY, True),
        (os.O_RDONLY | os.O_CLOEXEC, True),
        (os.O_RDWR, False),
        (os.O_WRONLY, False),
    ],
)
def test_read_only_is_how_its_tapdisk_has_the_image(activate, flags, read_only):
    activate(flags)
    assert active.is_served(SR, VDI) and active.is_read_only(SR, VDI) is read_only


def test_one_that_is_not_active_is_not_read_only(activate):
    assert not active.is_served(SR, VDI) and not active.is_read_only(SR, VDI)
    assert active.tapdisk_of(SR, VDI) is None
    process = activate(os.O_RDONLY)
    assert active.tapdisk_of(SR, VDI) == process.pid
    process.kill()
    process.wait()
    assert not active.is_read_only(SR, VDI)


def test_a_tapdisk_that_has_not_opened_it_yet_is_not(activate, tmp_path):
    (tmp_path / "other").write_bytes(b"")
    activate(os.O_RDONLY, "other")
    assert not active.is_read_only(SR, VDI)
