# SPDX-License-Identifier: LGPL-2.1-only
"""Extents of real images, made by qemu-img and written by qemu-io."""

import os
import subprocess

import pytest

from storage_motion.dom0 import images
from storage_motion.errors import ImagesUnrelated, ImageToolFailed, UnknownImageType

MIB = 1 << 20
CLUSTER = 64 << 10


def qemu(*line):
    subprocess.check_call(line, stdout=subprocess.DEVNULL)


class Tree(object):
    """Images of 16 MiB in one directory."""

    def __init__(self, directory):
        self.directory = str(directory)

    def path(self, name):
        return os.path.join(self.directory, name + ".qcow2")

    def image(self, name, parent=None, *commands):
        """Make an image on `parent`, and run qemu-io commands on it."""
        backing = ["-u", "-F", "qcow2", "-b", parent + ".qcow2"] if parent else []
        qemu(
            "qemu-img", "create", "-q", "-f", "qcow2", *(backing + [self.path(name), str(16 * MIB)])
        )
        for command in commands:
            qemu("qemu-io", "-f", "qcow2", "-c", command, self.path(name))
        return self.path(name)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_a_new_image_is_blank(tree):
    path = tree.image("new")
    assert images.extents("qcow2", path) == (16 * MIB, [])
    assert images.is_blank("qcow2", path)


def test_the_whole_chain_is_one_disk(tree):
    tree.image("base", None, "write 0 64k", "write 4M 64k")
    path = tree.image("leaf", "base", "write 64k 64k", "write 15M 1M")
    assert images.extents("qcow2", path) == (
        16 * MIB,
        [(0, 2 * CLUSTER), (4 * MIB, CLUSTER), (15 * MIB, MIB)],
    )
    assert not images.is_blank("qcow2", path)


def test_zeros_count_only_where_they_cover_something(tree):
    tree.image("base", None, "write 0 1M")
    path = tree.image("leaf", "base", "write -z 0 64k")
    assert images.extents("qcow2", path) == (16 * MIB, [(CLUSTER, MIB - CLUSTER)])
    assert images.extents("qcow2", path, tree.path("base")) == (16 * MIB, [(0, CLUSTER)])


def test_relative_to_a_sibling_both_sides_count(tree):
    """The base of a snapshot is shared; a clone that was written to differs where either of them
    was."""
    tree.image("base", None, "write 0 1M")
    tree.image("snapshot1", "base")
    tree.image("base2", "base", "write 2M 64k")
    tree.image("snapshot2", "base2")
    tree.image("clone", "base", "write 8M 64k")
    assert images.extents("qcow2", tree.path("snapshot2"), tree.path("snapshot1")) == (
        16 * MIB,
        [(2 * MIB, CLUSTER)],
    )
    assert images.extents("qcow2", tree.path("snapshot2"), tree.path("clone")) == (
        16 * MIB,
        [(2 * MIB, CLUSTER), (8 * MIB, CLUSTER)],
    )
    assert images.extents("qcow2", tree.path("snapshot1"), tree.path("snapshot1")) == (16 * MIB, [])


def test_a_base_may_be_smaller(tree):
    """What lies beyond the end of the smaller one reads as zeros, and is told: zeros may have to be
    written."""
    tree.image("base", None, "write 0 64k")
    path = tree.image("leaf", "base")
    qemu("qemu-img", "resize", "-q", "-f", "qcow2", path, str(18 * MIB))
    size, found = images.extents("qcow2", path, tree.path("base"))
    assert size == 18 * MIB
    assert all(offset >= 16 * MIB for offset, _ in found)


def test_images_of_different_trees_have_no_difference_to_tell(tree):
    with pytest.raises(ImagesUnrelated):
        images.extents("qcow2", tree.image("one"), tree.image("other"))


def test_the_lock_of_a_writer_is_no_obstacle(tree):
    path = tree.image("busy", None, "write 0 64k")
    writer = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        writer.stdin.write(b"read 0 512\n")
        writer.stdin.flush()
        writer.stdout.readline()  # it has the image open
        assert images.extents("qcow2", path) == (16 * MIB, [(0, CLUSTER)])
    finally:
        writer.communicate(b"quit\n", timeout=30)


def test_a_raw_disk(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 4096)
    with open(str(path), "r+b") as disk:
        disk.truncate(MIB)
    size, found = images.extents("aio", str(path))
    assert size == MIB
    assert found[0][0] == 0 and sum(length for _, length in found) < MIB
    with pytest.raises(ImagesUnrelated):
        images.extents("aio", str(path), str(path))


def test_an_unknown_type_is_told_and_never_blank(tree):
    path = tree.image("new")
    with pytest.raises(UnknownImageType) as raised:
        images.extents("vdi", path)
    assert raised.value.details == ["vdi", "known: aio, qcow2, vhd"]
    assert not images.is_blank("vdi", path)


def test_what_qemu_img_says_is_told(tmp_path):
    with pytest.raises(ImageToolFailed) as raised:
        images.extents("qcow2", str(tmp_path / "missing"))
    assert "missing" in raised.value.details[-1]
