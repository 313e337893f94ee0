# SPDX-License-Identifier: LGPL-2.1-only
"""XCP-ng's collector merges below a QCOW2 leaf in use, by its tapdisk: what that meets of ours, and
what of it ours meets. No data ever reads otherwise for it."""

import contextlib
import json
import os
import subprocess

import pytest

import chain_of_images
from blktap_lab import Writer, mirror_of
from lab.blktap import commit
from lab.pools import topology
from lab.pools.lab import Lab
from sm_collector import BOUND, collect, ended, log_of, start_collecting
from sm_host import SIZE, SmHost, io
from storage_motion.dom0 import tapctl
from tests.eventually import eventually

PLAN = (topology.PoolPlan("A", ("a1",), False),)
READS = chain_of_images.reads(4)
EXTENTS = [[0, 65536], [1 << 20, 4 << 20]]


@pytest.fixture(scope="module")
def host():
    with Lab(PLAN, release="xcp-ng-8.3") as lab, pytest.MonkeyPatch.context() as patch:
        made = SmHost(lab)
        patch.setenv("SXM_ROOT", made.root)
        patch.setenv("PATH", os.pathsep.join([made.root + "/usr/sbin", os.environ["PATH"]]))
        with open(made.root + "/etc/lab-tapdisk-pause-reply", "w") as habit:
            habit.write("prompt")  # nobody pokes a tapdisk here
        yield made


@pytest.fixture
def disk(host):
    """A VDI on top of three hidden images, with data of its own in each."""
    made = host.create(host.fast)
    socket = host.activate(made)
    for number in (1, 2, 3, 4):
        io(socket, *chain_of_images.writes(number))
        if number < 4:
            host.xapi.VDI.destroy(host.xapi.VDI.snapshot(made, {}))
    yield made
    commit.choose(host.root, None)
    for ref in host.xapi.VDI.get_all_records_where('field "managed" = "true"'):
        host.call(ref, "vdi_copy_close")
    host.destroy_all()
    collect(host)  # who was given up has left an entry in its journal
    assert host.images("fast") == []
    os.truncate(host.root + "/var/log/SMlog", 0)


@contextlib.contextmanager
def collecting(host, word=commit.HELD):
    """A collector that is in the middle of a merge by a tapdisk; it goes on afterwards."""
    commit.choose(host.root, word)
    running = start_collecting(host)
    eventually(lambda: merges(host), "it merges", BOUND)
    if word == commit.UNFLUSHED:
        eventually(lambda: depth_of_all(host) < 4, "the images are one", BOUND)
    try:
        yield running
    finally:
        commit.choose(host.root, None)
        ended(running)


def merges(host):
    lab = host.root + "/run/blktap-control/lab"
    return [name for name in os.listdir(lab) if name.endswith(".commit")]


def depth_of_all(host):
    """The number of images in the longest chain."""

    def depth(name):
        path = "%s/srs/fast/%s" % (host.root, name)
        said = subprocess.check_output(["qemu-img", "info", "-U", "--backing-chain", path])
        return said.count(b"virtual size")

    return max(depth(name) for name in images(host))


def images(host):
    return [name for name in host.images("fast") if name.endswith(".qcow2")]


def forbid_leaf_coalesce(host, disk):
    host.xapi.VDI.remove_from_other_config(disk, "leaf-coalesce")
    host.xapi.VDI.add_to_other_config(disk, "leaf-coalesce", "false")


def test_two_images_below_a_leaf_in_use_go_and_its_mark_stays(host, disk):
    """No write waits for it; and the leaf, which the tapdisk has relinked to the lowest, keeps a
    mark that nobody takes away any more: SM activates it no more. We do, at the SR's master."""
    forbid_leaf_coalesce(host, disk)
    writer = Writer(host.socket(disk), threads=1)
    collect(host)
    writer.wait_for_writes()
    writer.finish()
    assert len(images(host)) == 2 and writer.missing(host.socket(disk)) == 0
    assert host.tags(disk) == {"host_" + host.ref: "RW", "relinking": "True"}
    assert host.call(disk, "vdi_relinking") == "left"
    assert host.call(disk, "vdi_end_relinking") == "left"
    assert host.tags(disk) == {"host_" + host.ref: "RW"}
    host.deactivate(disk)
    assert writer.missing(host.activate(disk)) == 0


def test_of_one_image_below_a_leaf_in_use_nothing_is_left(host, disk):
    """It is relinked where the collector looks for it; and refreshed for nothing, as the real one
    does, which takes a mirror off."""
    forbid_leaf_coalesce(host, disk)
    collect(host)
    host.call(disk, "vdi_end_relinking")
    host.xapi.VDI.destroy(host.xapi.VDI.snapshot(disk, {}))
    forbid_leaf_coalesce(host, disk)
    collect(host)
    assert len(images(host)) == 2 and host.tags(disk) == {"host_" + host.ref: "RW"}
    assert "Not adding relinking tag to VDI" in log_of(host)
    io(host.socket(disk), *READS)


def test_a_snapshot_that_is_opened_to_be_copied_has_a_merge_given_up(host, disk):
    """... and while it is open the collector finds more than one who has the images open."""
    host.xapi.SR.add_to_other_config(host.fast, "leaf-coalesce", "false")
    snapshot = host.xapi.VDI.snapshot(disk, {})
    with collecting(host) as collector:
        opened = json.loads(host.call(snapshot, "vdi_copy_open"))
        status, said = ended(collector)
    assert status == 1 and said.startswith("AbortException")
    before = images(host)
    collect(host)
    assert "Multiple openers" in log_of(host) and images(host) == before
    io(opened["socket"], *READS, readonly=True)
    assert json.loads(host.call(snapshot, "vdi_extents"))["extents"] == EXTENTS
    host.xapi.SR.remove_from_other_config(host.fast, "leaf-coalesce")


def test_a_child_that_is_deleted_in_mid_merge_ends_the_collector_and_the_next_goes_on(host, disk):
    """A child's image is looked for without the SR's lock, with which it was deleted; the real one
    ends likewise, and leaves its journal's entry (cleanup.py, _coalesce)."""
    snapshot = host.xapi.VDI.snapshot(disk, {})
    forbid_leaf_coalesce(host, disk)  # which a snapshot allows
    with collecting(host) as collector:
        host.xapi.VDI.destroy(snapshot)
        commit.choose(host.root, None)
        status, said = ended(collector)
    assert status == 1 and said.startswith("FileNotFoundError"), said
    assert "EXCEPTION while coalescing" in log_of(host)
    assert any(name.startswith("coalesce_") for name in host.images("fast"))
    io(host.socket(disk), *READS)
    collect(host)
    assert len(images(host)) == 2 and host.tags(disk) == {"host_" + host.ref: "RW"}
    host.deactivate(disk)
    io(host.activate(disk), *READS)


def test_beside_a_collector_nobody_else_removes_what_is_unneeded(host, disk):
    """Of one SR one runs at a time; it removes it itself when it has merged."""
    forbid_leaf_coalesce(host, disk)
    other = host.create(host.fast)
    io(host.activate(other), "write 0 64k")
    host.deactivate(other)
    known = set(images(host))
    snapshot = host.xapi.VDI.snapshot(other, {})
    (base,) = set(images(host)) - known - {host.xapi.VDI.get_uuid(snapshot) + ".qcow2"}
    with collecting(host):
        for vdi in (other, snapshot):
            host.xapi.VDI.destroy(vdi)
        assert base in images(host)
    assert base not in images(host)


def test_a_mirror_that_begins_in_the_middle_of_a_merge(host, disk):
    """Its snapshot's pause ends the merge in the tapdisk. The collector tries the next one, if it
    asks just then; else it waits for ever, as the real one does: until the copy is opened."""
    with open(host.root + "/target", "wb") as made:
        made.truncate(SIZE)
    mirrored = tapctl.create("aio:%s/target" % host.root)
    target = tapctl.nbd_socket(mirrored)
    with collecting(host) as collector:
        vbd = next(vbd for vbd in tapctl.list() if host.socket(disk).endswith("%d.%d" % vbd[:2]))
        snapshot = host.xapi.VDI.get_by_uuid(host.call(disk, "vdi_mirror_start", target))
        assert mirror_of(vbd) == target
        opened = json.loads(host.call(snapshot, "vdi_copy_open"))
        assert ended(collector)[0] in (0, 1)
    io(opened["socket"], *READS, readonly=True)
    assert json.loads(host.call(disk, "vdi_mirror_stat"))["state"] == "mirroring"
    host.call(disk, "vdi_mirror_stop")
    tapctl.destroy(mirrored)


def test_a_frozen_disk_is_looked_at_while_it_is_merged_below(host, disk):
    """Of a VM that does not run: our own tapdisk is the one that is asked to merge. In the moment
    in which what it has merged is not on the disk yet, all data is found all the same. Our pause
    ends the merge; a collector that does not ask just then waits until our tapdisk has gone."""
    host.deactivate(disk)
    host.call(disk, "vdi_copy_open")
    with collecting(host, commit.UNFLUSHED):
        found = json.loads(host.call(disk, "vdi_extents"))
        io(host.socket(disk), *READS, readonly=True)
        host.call(disk, "vdi_copy_close")
    assert found["extents"] == EXTENTS


def test_a_leaf_that_is_too_large_is_made_small_by_a_snapshot_of_the_collectors_own(host, disk):
    """... and merged then, while it is written to."""
    os.makedirs(host.root + "/var/run", exist_ok=True)
    place = "%s/var/run/%s.speed_log" % (host.root, host.xapi.SR.get_uuid(host.fast))
    with open(place, "w") as log:
        log.write("%f\n" % (1 << 18))  # bytes a second: 1.25 MiB can be merged in time
    writer = Writer(host.socket(disk), threads=1)
    writer.wait_for_writes()
    writer.finish()
    collect(host)
    assert "Single-snapshotting" in log_of(host) and "could not be coalesced" not in log_of(host)
    assert len(images(host)) == 1
    assert writer.missing(host.socket(disk)) == 0
