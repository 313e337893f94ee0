# SPDX-License-Identifier: LGPL-2.1-only
"""`tap-ctl commit`: images below one that is in use become one, as XCP-ng's SM has it done."""

import os
import re

import pytest

import blktap_lab as lab
import chain_of_images
from blktap_lab import xcpng_root as root  # noqa: F401
from lab.blktap import commit, nbd_server, records
from storage_motion.dom0 import tapctl
from tests.eventually import eventually

NAMES = ("root", "low", "middle", "leaf")  # each on the one before it
READS = chain_of_images.reads(len(NAMES))


@pytest.fixture
def vbd(root):
    """A tapdisk on a chain of four images, with data of its own in each, some over that below."""
    below = None
    for number, name in enumerate(NAMES, 1):
        args = lab.image("%s/%s" % (root, name), parent=below)
        below = "%s/%s" % (root, name)
        lab.qemu_io(below, *chain_of_images.writes(number))
    return tapctl.create(args)


def tap_ctl(root, vbd, command, *more):
    return lab.tap_ctl(root, command, "-p", vbd.pid, "-m", vbd.minor, *more)


def begin(root, vbd, name):
    return tap_ctl(root, vbd, "commit", "-a", "%s/%s" % (root, name))


def query(root, vbd):
    code, said, _ = tap_ctl(root, vbd, "query")
    assert code == 0
    return re.match(r"Commit status '(.+)' \(\d+/\d+\)\n$", said).group(1)


def parent(root, name):
    said = re.search(r"backing file: (\S+)", lab.qemu_img("info", "-U", "%s/%s" % (root, name)))
    return said and os.path.basename(said.group(1))


def test_what_is_below_becomes_one_while_it_is_written_to(root, vbd):
    writer = lab.Writer(tapctl.nbd_socket(vbd))
    commit.choose(root, commit.HELD)
    assert begin(root, vbd, "middle")[0] == 0 and query(root, vbd) == "running"
    writer.wait_for_writes()
    commit.choose(root, None)
    eventually(lambda: query(root, vbd) == "concluded", "the job's end")
    assert query(root, vbd) == "undefined", "who has seen the end has taken it away"
    writer.wait_for_writes()
    writer.finish()
    assert parent(root, "leaf") == "root", "down to the lowest, whatever was between"
    assert writer.missing(tapctl.nbd_socket(vbd)) == 0
    with tapctl.poked(vbd.pid):
        tapctl.pause(vbd)
    for name in NAMES[1:3]:
        os.unlink("%s/%s" % (root, name))
    tapctl.unpause(vbd)
    assert writer.missing(tapctl.nbd_socket(vbd)) == 0


def test_only_an_image_between_the_two_ends_is_merged_and_one_at_a_time(root, vbd):
    EINVAL = 22
    for name in ("root", "other"):
        assert begin(root, vbd, name)[0] == EINVAL
    commit.choose(root, commit.HELD)
    assert begin(root, vbd, "low")[0] == 0
    assert begin(root, vbd, "low")[0] == EINVAL
    commit.choose(root, None)
    eventually(lambda: parent(root, "middle") == "root", "the image has its new parent")
    assert begin(root, vbd, "middle")[0] == EINVAL, "nobody has asked for its end yet"
    eventually(lambda: query(root, vbd) == "concluded", "the job's end")
    assert begin(root, vbd, "middle")[0] == 0
    eventually(lambda: query(root, vbd) == "concluded", "the job's end")
    lab.nbd_io(tapctl.nbd_socket(vbd), *READS)
    tapctl.destroy(vbd)
    again = tapctl.create("qcow2:%s/leaf" % root)
    lab.nbd_io(tapctl.nbd_socket(again), *READS)


@pytest.mark.parametrize("ending", ("pause", "cancel"))
def test_a_pause_ends_it_and_leaves_nothing_to_ask_for(root, vbd, ending):
    commit.choose(root, commit.HELD)
    assert begin(root, vbd, "middle")[0] == 0
    if ending == "pause":
        with tapctl.poked(vbd.pid):
            tapctl.pause(vbd)
        assert tap_ctl(root, vbd, "query")[0] == begin(root, vbd, "middle")[0] == 19  # ENODEV
        tapctl.unpause(vbd)
    else:
        assert tap_ctl(root, vbd, "cancel", "-w")[0] == 0
    assert query(root, vbd) == ("undefined" if ending == "pause" else "concluded")
    assert parent(root, "leaf") == "middle" and parent(root, "middle") == "low"
    lab.nbd_io(tapctl.nbd_socket(vbd), *READS)


def test_a_mirror_goes_on_through_it(root, vbd):
    """... and the mirrored writes are at the target, too."""
    target = tapctl.create(lab.image(root + "/target"))
    with tapctl.poked(vbd.pid):
        tapctl.pause(vbd)
    tapctl.unpause(vbd, secondary="nbd:" + lab.records.Layout(root).ring(target.pid))
    assert lab.mirror_of(vbd)
    writer = lab.Writer(tapctl.nbd_socket(vbd))
    assert begin(root, vbd, "middle")[0] == 0
    eventually(lambda: query(root, vbd) == "concluded", "the job's end")
    writer.wait_for_writes()
    writer.finish()
    assert lab.mirror_of(vbd) and not tapctl.stats(vbd)["nbd_mirror_failed"]
    assert writer.missing(tapctl.nbd_socket(vbd)) == 0
    assert writer.missing(tapctl.nbd_socket(target)) == 0


def test_qemus_locks(root, vbd):
    """What is written to nobody else opens, and what somebody else has open is not merged into."""
    lab.qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", root + "/low", root + "/side")
    assert lab.tap_ctl(root, "create", "-a", "qcow2:%s/leaf" % root)[0] == 22
    assert lab.tap_ctl(root, "create", "-R", "-a", "qcow2:%s/leaf" % root)[0] == 22
    commit.choose(root, commit.HELD)
    assert begin(root, vbd, "middle")[0] == 0
    assert lab.tap_ctl(root, "create", "-R", "-a", "qcow2:%s/side" % root)[0] == 22
    assert tap_ctl(root, vbd, "cancel")[0] == 0 and query(root, vbd) == "concluded"
    beside = tapctl.create("qcow2:%s/side" % root)
    assert begin(root, vbd, "middle")[0] == 22
    tapctl.destroy(beside)


def test_a_tapdisk_that_is_killed_takes_it_along(root, vbd):
    commit.choose(root, commit.HELD)
    assert begin(root, vbd, "middle")[0] == 0
    (job,) = [int(open(root + "/run/blktap-control/lab/%d.commit" % vbd.pid).read().split()[3])]
    os.kill(vbd.pid, 9)
    eventually(
        lambda: (
            not os.path.exists("/proc/%d" % job)
            or "Z" in open("/proc/%d/stat" % job).read().rpartition(")")[2].split()[0]
        ),
        "the job is gone",
    )
    assert parent(root, "leaf") == "middle"


def test_before_qcow2_there_was_no_such_command(root):
    nbd_server.choose(root, None)
    assert "commit" not in lab.tap_ctl(root, "commit", "-p", 1, "-m", 1, "-a", "x")[1]


@pytest.mark.parametrize("command", ["query", "pause"])
def test_asking_a_tapdisk_that_has_ended_leaves_nothing(root, vbd, command):
    tapctl.destroy(vbd)
    code, _, error = tap_ctl(root, vbd, command)
    assert code == 2 and "No such file" in error  # ENOENT: connecting to its control socket
    assert os.listdir(records.Layout(root).lab) == []
