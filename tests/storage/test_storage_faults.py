# SPDX-License-Identifier: LGPL-2.1-only
"""Storage that fails in mid-copy: a path of a LUN with two, an NFS server that stops for a while, a
destination that fills up."""

import os
import subprocess

import pytest

from five import MIB, POLL, ended, journal, logs, migrate, until, wait_for_writes
from lab.storage_guest import services
from storage_motion.errors import MotionError
from storage_motion.wire import control_socket
from tests.eventually import never

pytestmark = pytest.mark.timeout(2400)

ANSWER = 60.0
STOPPED = 20.0
"""Seconds that the NFS server stops for."""
SIZE = 32 * MIB
GUEST = {"fill": 0.5}
ACROSS = MIB
"""Bytes that have been copied before something fails."""


def begin(five, vm, target, **more):
    """Begin the move of a VM of one disk to that SR (a uuid) of pool B, and wait until some of the
    disk is across. Its id."""
    source = five.host("a")
    status, answer, said = migrate(source, dict(five.arguments(vm, [target]), wait="false", **more))
    assert status == 0, said
    migration = answer["migration"]
    until(
        source,
        migration,
        lambda entry: entry["state"] != "running" or copied(source, migration) >= ACROSS,
    )
    assert_copying(source, migration)
    return migration


def copied(host, migration):
    """The bytes of the only disk that are at the destination and verified."""
    try:
        return control_socket.request(
            "%s/run/sxm/%s/m0.ctl" % (host.root, migration), {"cmd": "status"}, ANSWER
        )["copy"]["verified"]
    except MotionError:
        return 0  # the mover is not there yet


def assert_copying(host, migration):
    """The migration is in the middle of its copy."""
    entry = journal(host, migration)
    (disk,) = entry["disks"].values()
    assert (entry["state"], disk["state"]) == ("running", "copying"), (
        entry["phase"],
        entry["error"],
        disk,
    )


def has_moved(five, vm, migration):
    """Wait for the end of the move, which must be a good one, and look at the guest over there."""
    entry = ended(five.host("a"), migration)
    assert entry["state"] == "succeeded", (
        entry["error"],
        logs(five.host("a")),
        logs(five.host("b")),
    )
    guest = five.host("b").guest(vm)
    wait_for_writes(guest, 5)
    assert guest.check()["missing"] == 0 and guest.status()["errors"] == 0, guest.status()
    assert five.left() == []
    return entry


@pytest.mark.parametrize("source, target", [("lvm", "nfs"), ("nfs", "lvm")])
def test_an_nfs_server_may_stop_for_a_while(five, link, source, target):
    with five.vm([five.sr(source, "a")], size=SIZE, guest=GUEST) as vm:
        five.sr(target, "b")
        migration = begin(five, vm, five.uuid(target, "b"))
        try:
            services.stop_nfs()
            assert_copying(five.host("a"), migration)
            link.heal()
            never(
                lambda: journal(five.host("a"), migration)["state"] != "running",
                "it has ended without the server",
                STOPPED,
                poll=POLL,
            )
            assert_copying(five.host("a"), migration)  # now it is the server that it waits for
        finally:
            services.start_nfs_threads()
        print(has_moved(five, vm, migration)["disks"])


def test_a_path_of_a_lun_may_fail(five, link):
    """It is failed for dm-multipath, and stays so as the kernel takes it offline."""
    scsi_id = services.start_multipath()
    failing, other = services.paths(scsi_id)
    made = five.create_sr("lvm", "b", {"device": "/dev/mapper/" + scsi_id})
    with five.disposable_sr("b", made) as sr, five.vm(
        [five.sr("nfs", "a")], size=SIZE, guest=GUEST
    ) as vm:
        migration = begin(five, vm, five.pool("b").xapi.SR.get_uuid(sr))
        try:
            services.run("multipathd", "fail", "path", failing)
            services.set_path(failing, "offline")
            before = sectors_written(failing), sectors_written(other)
            assert_copying(five.host("a"), migration)
            link.heal()
            # what is written is only sure to have left the kernel's memory by then
            has_moved(five, vm, migration)
            after = sectors_written(failing), sectors_written(other)
            assert services.path_states(scsi_id)[failing] != "active"
        finally:
            services.set_path(failing, "running")
        assert after[0] == before[0] and after[1] - before[1] > MIB // 512, (before, after)


def sectors_written(device):
    """Of a disk of the kernel's ("sda")."""
    with open("/sys/block/%s/stat" % device) as stat:
        return int(stat.read().split()[6])


def test_a_destination_that_fills_up_is_told_and_all_is_undone(five, link):
    source, destination = five.host("a"), five.host("b")
    five.sr("ext", "b")
    filler = "%s/run/sr-mount/%s/.filler" % (destination.root, five.uuid("ext", "b"))
    with five.vm([five.sr("lvm", "a")], size=SIZE, guest=GUEST) as vm:
        try:
            migration = begin(five, vm, five.uuid("ext", "b"), **{"retry-limit": "0"})
            fill(filler)
            link.heal()
            entry = ended(source, migration)
        finally:
            if os.path.exists(filler):
                os.unlink(filler)
        assert entry["state"] == "failed" and entry["error"][0] == "SXM_DESTINATION_FULL", entry[
            "error"
        ]
        xapi = five.pool("a").xapi
        assert xapi.VM.get_power_state(xapi.VM.get_by_uuid(vm)) == "Running"
        guest = source.guest(vm)
        wait_for_writes(guest, 5)
        assert guest.check()["missing"] == 0 and guest.status()["errors"] == 0, guest.status()
        assert five.left() == []
        assert five.pool("b").xapi.VM.get_all_records_where('field "uuid" = "%s"' % vm) == {}


def fill(path):
    """Take all the room that is left of the file system that `path` is to lie on."""
    with open(path, "wb") as filler:
        free = os.statvfs(os.path.dirname(path))
        os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_frsize - MIB)
    subprocess.run(
        ["dd", "if=/dev/zero", "of=" + path, "bs=64k", "oflag=append", "conv=notrunc"],
        stderr=subprocess.DEVNULL,
        timeout=600,
    )
