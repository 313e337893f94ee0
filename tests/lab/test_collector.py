# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's garbage collector of SM: what it removes and merges, what forbids it, and that no leaf
ever reads anything else for it."""

import contextlib
import fcntl
import glob
import os
import subprocess
import threading

import pytest

import chain_of_images
from blktap_lab import Writer
from sm_collector import BOUND, collect, log_of, run
from sm_host import host, io  # noqa: F401
from tests.eventually import eventually

READS = chain_of_images.reads(3)


@pytest.fixture
def disk(host):
    """A VDI that is not active. The SR is empty, and allows all, before and after."""
    with open(host.root + "/etc/lab-tapdisk-pause-reply", "w") as habit:
        habit.write("prompt")  # nobody pokes a tapdisk here
    yield host.create(host.fast)
    host.xapi.SR.set_other_config(host.fast, {})
    host.destroy_all()
    assert host.images("fast") == [] and host.xapi.VDI.get_all() == []
    os.unlink(host.root + "/etc/lab-tapdisk-pause-reply")


def write(host, vdi, *commands):
    io(host.activate(vdi), *commands)
    host.deactivate(vdi)


def chain(host, disk, writer=None):
    """Put the disk on top of two hidden images, with other data in each; the second covers some of
    the first."""
    socket = None if writer else host.activate(disk)
    for number in (1, 2, 3):
        if writer:
            writer.wait_for_writes()
        else:
            io(socket, *chain_of_images.writes(number))
        if number < 3:
            host.xapi.VDI.destroy(host.xapi.VDI.snapshot(disk, {}))
    if socket:
        host.deactivate(disk)
    assert len(glob.glob(host.root + "/srs/fast/*.qcow2")) == 3


def test_hidden_images_without_children_go(host, disk):
    host.xapi.SR.add_to_other_config(host.fast, "gc", "false")
    write(host, disk, "write 0 64k")
    for vdi in (host.xapi.VDI.snapshot(disk, {}), disk):
        host.xapi.VDI.destroy(vdi)
    (base,) = glob.glob(host.root + "/srs/fast/*.qcow2")
    collect(host)
    assert os.path.exists(base), "the SR forbids it"
    host.xapi.SR.remove_from_other_config(host.fast, "gc")
    collect(host)
    assert host.images("fast") == [] and host.xapi.VDI.get_all() == []


def test_a_chain_becomes_one_image(host, disk):
    chain(host, disk)
    collect(host)
    assert host.images("fast") == [host.xapi.VDI.get_uuid(disk) + ".qcow2"]
    assert host.xapi.VDI.get_all() == [disk] and host.tags(disk) == {}
    assert "vhd-parent" not in host.xapi.VDI.get_sm_config(disk)
    write(host, disk, *READS)


def test_a_chain_in_use_becomes_one_image_and_no_write_is_lost(host, disk):
    writer = Writer(host.activate(disk))
    try:
        chain(host, disk, writer)
        host.xapi.VDI.add_to_other_config(disk, "leaf-coalesce", "false")
        collect(host)
        images = glob.glob(host.root + "/srs/fast/*.qcow2")
        assert len(images) == 2, "its VDI forbids that the leaf is merged"
        # and not by a snapshot, which removes it, too
        host.xapi.VDI.remove_from_other_config(disk, "leaf-coalesce")
        writer.wait_for_writes()
        collect(host)
        writer.wait_for_writes()
    finally:
        writer.stop()
    assert not writer.failures and host.images("fast") == [host.xapi.VDI.get_uuid(disk) + ".qcow2"]
    assert writer.missing(host.socket(disk)) == 0
    assert host.tags(disk) == {"host_" + host.ref: "RW"}
    host.deactivate(disk)
    assert writer.writes and Writer.missing(writer, host.activate(disk)) == 0, "... on disk, too"
    print("%d writes, the longest %.2f s" % (writer.writes, writer.stall))


def test_what_has_two_children_stays(host, disk):
    write(host, disk, "write 0 64k")
    host.xapi.VDI.snapshot(disk, {})
    before = host.images("fast")
    collect(host)
    assert host.images("fast") == before


def test_what_is_forbidden_is_not_done(host, disk):
    api = host.xapi
    chain(host, disk)
    before = host.images("fast")
    for switch in ("gc", "coalesce"):
        api.SR.set_other_config(host.fast, {switch: "false"})
        collect(host)
        assert host.images("fast") == before, switch
    api.SR.set_other_config(host.fast, {"leaf-coalesce": "false"})
    collect(host)
    before = host.images("fast")
    assert len(before) == 3, "a leaf and a base with its mark"
    api.SR.set_other_config(host.fast, {})
    for forbid, allow in (
        (
            lambda: api.VDI.add_to_other_config(disk, "leaf-coalesce", "false"),
            lambda: api.VDI.remove_from_other_config(disk, "leaf-coalesce"),
        ),
        (lambda: api.VDI.set_on_boot(disk, "reset"), lambda: api.VDI.set_on_boot(disk, "persist")),
        # somebody else's reason: it can neither be paused, nor is it unpaused
        (
            lambda: api.VDI.add_to_sm_config(disk, "paused", "sxm"),
            lambda: api.VDI.remove_from_sm_config(disk, "paused"),
        ),
    ):
        forbid()
        config = host.tags(disk)
        collect(host)
        assert host.images("fast") == before and host.tags(disk) == config
        allow()
    write(host, disk, *READS)


def test_it_waits_for_an_activation_and_takes_any_relinking_away(host, disk):
    chain(host, disk)
    host.xapi.SR.add_to_other_config(host.fast, "leaf-coalesce", "false")
    host.xapi.VDI.add_to_sm_config(disk, "relinking", "sxm")
    host.xapi.VDI.add_to_sm_config(disk, "activating", "True")
    api = host.pool.session().xenapi

    def end_it():
        eventually(lambda: "activating, wait to relink" in log_of(host), "it waits", BOUND)
        api.VDI.remove_from_sm_config(disk, "activating")

    ends = threading.Thread(target=end_it)
    ends.start()
    collect(host)
    ends.join()
    assert host.tags(disk) == {}
    assert len(glob.glob(host.root + "/srs/fast/*.qcow2")) == 2
    write(host, disk, *READS)


def test_an_interrupted_relink_is_gone_on_with(host, disk):
    """Killed once the data was merged, and the first (here: only) child was relinked: its tag is
    left."""
    chain(host, disk)
    host.xapi.SR.add_to_other_config(host.fast, "leaf-coalesce", "false")
    leaf, middle, root = above(host, disk)
    subprocess.check_call(["qemu-img", "commit", "-q", "-d", middle])
    subprocess.check_call(
        ["qemu-img", "rebase", "-q", "-u", "-F", "qcow2", "-b", os.path.basename(root), leaf]
    )
    with open(
        "%s/relink_%s" % (os.path.dirname(root), os.path.basename(middle)[: -len(".qcow2")]), "w"
    ) as journal:
        journal.write("1")
    host.xapi.VDI.add_to_sm_config(disk, "relinking", "True")
    collect(host)
    assert host.tags(disk) == {}
    assert host.images("fast") == sorted(map(os.path.basename, (leaf, root, root + ".hidden")))
    write(host, disk, *READS)


def test_an_interrupted_leaf_coalesce_is_undone(host, disk):
    """Killed when the data was merged, or one image was renamed, or both."""
    chain(host, disk)
    host.xapi.SR.add_to_other_config(host.fast, "coalesce", "false")
    leaf, middle, _ = above(host, disk)
    before = host.images("fast")
    uuid = host.xapi.VDI.get_uuid(disk)
    for renamed in (0, 1, 2):
        with open("%s/leaf_%s" % (os.path.dirname(leaf), uuid), "w") as journal:
            journal.write(os.path.basename(middle)[: -len(".qcow2")])
        host.xapi.VDI.add_to_sm_config(disk, "paused", "true")
        os.unlink(middle + ".hidden")
        subprocess.check_call(["qemu-img", "commit", "-q", "-d", leaf])
        for old, new in ((leaf, "%s/OLD_%s.qcow2" % (os.path.dirname(leaf), uuid)), (middle, leaf))[
            :renamed
        ]:
            os.rename(old, new)
        collect(host)
        assert host.images("fast") == before and host.tags(disk) == {}
    write(host, disk, *READS)


def above(host, disk):
    """The paths of the images of a disk, from its own on."""
    found = ["%s/srs/fast/%s.qcow2" % (host.root, host.xapi.VDI.get_uuid(disk))]
    while found[-1]:
        said = subprocess.check_output(["qemu-img", "info", found[-1]]).decode()
        backing = [
            line.split()[2] for line in said.splitlines() if line.startswith("backing file:")
        ]
        found.append(os.path.join(os.path.dirname(found[0]), backing[0]) if backing else None)
    return found[:-1]


def test_what_it_does_not_support_it_says(host):
    for arguments in ((), ("-g",), ("-g", "-a", "-u", "x"), ("-z", "-u", "x")):
        assert run(host, *arguments)[0] == 1
    assert run(host, "-a", "-u", host.xapi.SR.get_uuid(host.fast)) == (0, "")


@contextlib.contextmanager
def held(host, name):
    """A lock of the SR `fast`, as another process of sm's holds it."""
    path = "%s/var/lock/sm/%s/%s" % (host.root, host.xapi.SR.get_uuid(host.fast), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def test_whether_the_collector_has_left_its_mark_on_a_disk(host):
    """While it is at work, or anybody is at the SR, it may yet take it away."""
    disk = host.create(host.fast)
    assert host.call(disk, "vdi_relinking") == "none"
    host.xapi.VDI.add_to_sm_config(disk, "relinking", "True")
    assert host.call(disk, "vdi_relinking") == "left"
    for lock in ("gc_active", "sr"):
        with held(host, lock):
            assert host.call(disk, "vdi_relinking") == "unknown"
    assert host.call(disk, "vdi_relinking") == "left", "and no lock is kept"
    host.xapi.VDI.remove_from_sm_config(disk, "relinking")
    host.xapi.VDI.add_to_sm_config(disk, "relinking", "sxm 1")
    assert host.call(disk, "vdi_relinking") == "none"
    host.xapi.VDI.destroy(disk)
