# SPDX-License-Identifier: LGPL-2.1-only
"""The parts of the lab's drivers for LVM that need no volume group; the drivers themselves run in
the storage guest."""

import os
import shutil
import subprocess

import pytest

from lab.sm import install
from sm_host import host  # noqa: F401


def in_dom0(host, program):
    """What a program that runs in dom0 prints."""
    return (
        subprocess.check_output([host.root + "/usr/bin/python3", "-c", program], timeout=60)
        .decode()
        .split()
    )


def modules(host):
    package = os.path.isdir(host.root + "/usr/lib/python3/site-packages/sm")
    return (
        "from sm import lvimage, lvutil, refcounter\n"
        if package
        else "import lvimage, lvutil, refcounter\n"
    )


def test_an_image_is_needed_as_long_as_one_holder_needs_it(host):
    assert in_dom0(
        host,
        modules(host)
        + """
print(refcounter.get("sr", "base", "leaf"), refcounter.get("sr", "base", "leaf"), refcounter.get("sr", "base", "snapshot"))
refcounter.get("sr", "leaf", "leaf")
print(",".join(refcounter.held("sr", "leaf")), refcounter.put("sr", "base", "leaf"), refcounter.put("sr", "base", "leaf"))
print(refcounter.put("sr", "base", "snapshot"), refcounter.holders("sr", "base"))
refcounter.reset("sr")
print(refcounter.held_images("sr"))
""",  # noqa: E501
    ) == ["1", "1", "2", "base,leaf", "1", "1", "0", "[]", "[]"]


def test_a_chain_is_found_by_tags_and_a_missing_image_is_an_error(host):
    assert in_dom0(
        host,
        modules(host)
        + """
volumes = {name: lvutil.LogicalVolume(name, "/dev/vg/" + name, 8 << 20, tags, False) for name, tags in (
    ("QCOW2-leaf", {"parent": "base", "virtual-size": "4194304"}), ("LV-base", {"hidden": ""}), ("QCOW2-lost", {"parent": "gone"}))}
lvutil.listLVs = lambda vg: volumes
images = lvimage.getAll("vg")
print(",".join(image.kind for image in lvimage.chain(images, "leaf")), images["leaf"].virtual_size, images["base"].virtual_size)
print(images["base"].hidden, images["leaf"].hidden)
try:
    lvimage.chain(images, "lost")
except Exception as error:
    print(type(error).__name__)
""",  # noqa: E501
    ) == ["qcow2,raw", "4194304", "8388608", "True", "False", "CommandException"]


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_a_thick_volume_holds_a_full_image_and_a_thin_one_an_empty_one(host):
    thick, thin, raw = map(
        int,
        in_dom0(
            host,
            modules(host)
            + """
size = 64 << 20
print(*(lvimage.volume_size(kind, size, thin) for kind, thin in (("qcow2", False), ("qcow2", True), ("raw", True))))""",  # noqa: E501
        ),
    )
    assert (64 << 20) < thick <= (72 << 20)
    assert thin == 4 << 20
    assert raw == 64 << 20


def test_only_drivers_with_their_programs_are_installed(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert install.drivers() == ["FileSR"]
    monkeypatch.setattr(shutil, "which", lambda program: "/sbin/" + program)
    assert install.drivers() == ["EXTSR", "FileSR", "LVMSR", "LVMoHBASR", "LVMoISCSISR", "NFSSR"]
