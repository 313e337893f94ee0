# SPDX-License-Identifier: LGPL-2.1-only
"""The layer of the lab's tapdisk that tracks changed blocks: when there is one, and what is
refused, as blktap's source has it (tapdisk-control.c, tapdisk-vbd.c, block-log.c)."""

import errno
import os
import subprocess

import pytest

import blktap_lab as lab
from blktap_lab import root  # noqa: F401
from lab.blktap import dirty_log
from storage_motion.dom0 import tapctl
from storage_motion.errors import TapCtlError
from tests.eventually import eventually

SIZE = 16 * lab.MIB
LENGTH = dirty_log.HEADER + SIZE // dirty_log.BLOCK // 8


@pytest.fixture
def log(root):
    path = root + "/disk.cbtlog"
    with open(path, "wb") as made:
        made.truncate(LENGTH)
    return path


@pytest.fixture
def disk(root):
    return tapctl.create(lab.image(root + "/disk.qcow2", size=SIZE))


def cycle(vbd, **options):
    with tapctl.poked(vbd.pid):
        tapctl.pause(vbd)
    tapctl.unpause(vbd, **options)


def layers(vbd):
    return [image["driver"]["name"] for image in tapctl.stats(vbd)["images"]]


def test_it_is_above_the_leaf_from_one_unpause_to_the_next(disk, log):
    assert layers(disk) == ["qcow2"]
    cycle(disk, log=log)
    assert layers(disk) == ["log", "qcow2"]
    top = tapctl.stats(disk)["images"][0]
    assert top["name"] == log and top["driver"]["type"] == 9
    lab.nbd_io(tapctl.nbd_socket(disk), "write -P 7 0 64k", "read -P 7 0 64k")
    cycle(disk, log=log)
    assert layers(disk) == ["log", "qcow2"]
    cycle(disk)
    assert layers(disk) == ["qcow2"], "an unpause that does not name it forgets it"


def test_it_is_there_from_the_opening(root, log):
    code, _, said = lab.tap_ctl(
        root, "create", "-a", lab.image(root + "/disk.qcow2", size=SIZE), "-C", log
    )
    assert code == 0, said
    (vbd,) = tapctl.list()
    assert layers(vbd) == ["log", "qcow2"]


def test_a_log_that_is_not_there_keeps_the_disk_from_being_opened(root):
    args = lab.image(root + "/disk.qcow2", size=SIZE)
    code, _, _ = lab.tap_ctl(root, "create", "-a", args, "-C", root + "/none")
    assert code == errno.EPERM and tapctl.list() == []


def test_at_the_second_try_of_an_unpause_it_is_forgotten(disk, root):
    """The disk goes on, and nothing is tracked: so does the real one, as its flags are gone."""
    cycle(disk, log=root + "/none")
    assert layers(disk) == ["qcow2"]


def test_one_that_is_too_short_is_refused_loudly(disk, log):
    os.truncate(log, LENGTH - 1)
    with pytest.raises(TapCtlError) as refused:
        cycle(disk, log=log)
    assert refused.value.errno == errno.ENOTSUP
    cycle_back(disk)


def cycle_back(vbd):
    tapctl.unpause(vbd, secondary="null")
    assert layers(vbd) == ["qcow2"]


def test_so_is_a_mirror_beside_it(root, disk, log):
    """The real one would write to the mirror alone, and read from it."""
    target = tapctl.create(lab.image(root + "/target.qcow2", size=SIZE))
    cycle(disk, secondary="nbd:" + tapctl.nbd_socket(target))
    assert layers(disk) == ["qcow2", "nbd"]
    with pytest.raises(TapCtlError) as refused:
        cycle(disk, log=log)
    assert refused.value.errno == errno.ENOTSUP
    cycle_back(disk)
    code, _, said = lab.tap_ctl(
        root,
        *("create", "-a", lab.image(root + "/other.qcow2", size=SIZE), "-C", log),
        *("-2", "nbd:" + tapctl.nbd_socket(target)),
    )
    assert code == errno.ENOTSUP and "not imitated" in said


def test_a_mirror_that_refuses_to_be_attached_again_takes_the_log_with_it(root, disk, log):
    lab.image(root + "/other.qcow2", size=SIZE)
    server = subprocess.Popen(
        ["qemu-nbd", "-t", "-f", "qcow2", "-x", "another", "-k", root + "/refuses"]
        + [root + "/other.qcow2"]
    )
    try:
        eventually(lambda: os.path.exists(root + "/refuses"), "qemu-nbd listens")
        cycle(disk, secondary="nbd:" + root + "/refuses", log=log)
    finally:
        server.terminate()
        server.wait()
    assert layers(disk) == ["qcow2"]
