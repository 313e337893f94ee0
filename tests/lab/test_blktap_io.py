# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's tapdisk under a guest that writes: pause, snapshot, and a mirror that is told apart
from one that fails silently."""

import os
import signal
import subprocess
import threading
import time

import pytest

import blktap_lab as lab
from blktap_lab import root  # noqa: F401
from lab.guest import nbd as guest_nbd
from storage_motion.dom0 import tapctl
from storage_motion.errors import ConnectionLost, RequestFailed
from storage_motion.wire import nbd_client
from tests.eventually import eventually, never


@pytest.fixture
def source(root):
    return tapctl.create(lab.image(root + "/source.qcow2"))


@pytest.fixture
def target(root):
    return tapctl.create(lab.image(root + "/target.qcow2"))


@pytest.fixture
def writer(source):
    started = lab.Writer(tapctl.nbd_socket(source))
    yield started
    started.stop()


def cycle(vbd, args=None, secondary=None):
    """Pause and unpause."""
    with tapctl.poked(vbd.pid):
        tapctl.pause(vbd)
    tapctl.unpause(vbd, args, secondary)


def start_pause(root, vbd):
    """A `tap-ctl pause` that runs beside the test."""
    return subprocess.Popen(
        [root + "/usr/sbin/tap-ctl", "pause", "-p", str(vbd.pid), "-m", str(vbd.minor)]
    )


def nbd(socket):
    return "nbd:" + socket


def failed_flag(vbd):
    return tapctl.stats(vbd)["nbd_mirror_failed"]


def test_a_pause_holds_every_write_and_loses_none(root, source, writer):
    for _ in range(5):
        writer.wait_for_writes(30)
        with tapctl.poked(source.pid):
            tapctl.pause(source)
        assert lab.state(source) == 0x2A
        held = writer.writes
        never(
            lambda held=held: writer.writes - held > 3,
            "more than the replies that were on their way",
            0.1,
        )
        tapctl.unpause(source)
    writer.wait_for_writes()
    writer.finish()
    assert writer.missing(tapctl.nbd_socket(source)) == 0
    tapctl.destroy(source)
    reopened = tapctl.create("qcow2:%s/source.qcow2" % root)
    assert writer.missing(tapctl.nbd_socket(reopened)) == 0


def test_a_read_only_disk_can_be_paused_and_not_written(root):
    vbd = tapctl.create(lab.image(root + "/a.qcow2"), readonly=True)
    client = nbd_client.connect(tapctl.nbd_socket(vbd))
    cycle(vbd)
    assert bytes(client.read(0, 512)) == bytes(512)
    with pytest.raises(RequestFailed):
        client.write(0, bytes(512))
    client.disconnect()


def test_snapshot_mirror_and_copy_give_the_same_disk(root, source, target, writer):
    """A snapshot while paused, its leaf mirrored; the snapshot, open read-only beside, has what was
    written before."""
    writer.wait_for_writes(200)
    with tapctl.poked(source.pid):
        tapctl.pause(source)
    before = dict(writer.acknowledged)
    snapshot, leaf = root + "/source.qcow2", root + "/leaf.qcow2"
    tapctl.unpause(source, lab.image(leaf, parent=snapshot), nbd(tapctl.nbd_socket(target)))
    assert lab.mirror_of(source) == tapctl.nbd_socket(target)
    assert [shown["name"] for shown in tapctl.stats(source)["images"]] == [
        leaf,
        tapctl.nbd_socket(target),
        snapshot,
    ]
    writer.wait_for_writes(200)
    frozen = tapctl.create("qcow2:" + snapshot, readonly=True)
    reader = nbd_client.connect(tapctl.nbd_socket(frozen))
    for sector, number in list(before.items())[::97]:
        found = bytes(reader.read(sector * 512, 512))
        # a write that was not yet acknowledged at the pause may be in the snapshot already
        assert (
            found == writer.pattern(sector, number)
            or int.from_bytes(found[8:16], "little") > number
        )
    reader.disconnect()
    tapctl.destroy(frozen)
    writer.wait_for_writes(100)
    writer.finish()
    cycle(source, secondary="null")
    tapctl.destroy(source)
    # every write since the snapshot reached the target: put over the snapshot, it is the source
    wrong = [
        sector
        for sector in range(writer.size // 512)
        if writer.acknowledged.get(sector) != before.get(sector)
    ]
    client = nbd_client.connect(tapctl.nbd_socket(target))
    assert wrong and all(
        bytes(client.read(sector * 512, 512)) == writer.pattern(sector, writer.acknowledged[sector])
        for sector in wrong
    )
    client.disconnect()
    assert writer.stall < 30


def test_a_mirror_from_the_beginning_makes_an_equal_image(root, source, target):
    cycle(source, secondary=nbd(tapctl.nbd_socket(target)))
    writer = lab.Writer(tapctl.nbd_socket(source))
    writer.wait_for_writes(300)
    cycle(source)
    assert lab.mirror_of(source), "an unpause without -2 attaches the old target again"
    writer.wait_for_writes(100)
    writer.finish()
    assert writer.missing(tapctl.nbd_socket(target)) == 0
    tapctl.destroy(source)
    tapctl.destroy(target)
    assert lab.same(root + "/source.qcow2", root + "/target.qcow2")


def test_create_with_a_secondary(root, target):
    args = lab.image(root + "/source.qcow2")
    assert lab.tap_ctl(root, "create", "-a", args, "-2", nbd(tapctl.nbd_socket(target)))[0] == 0
    (source,) = tapctl.find(root + "/source.qcow2")
    assert lab.mirror_of(source) == tapctl.nbd_socket(target)
    tapctl.destroy(source)
    assert lab.tap_ctl(root, "create", "-a", args, "-2", "vhd:/x")[0] == 95


def test_the_mirror_ends_when_the_source_closes(root, source, target):
    relay = lab.Relay(root + "/relay", tapctl.nbd_socket(target))
    try:
        cycle(source, secondary=nbd(relay.path))
        client = nbd_client.connect(tapctl.nbd_socket(source))
        client.write(0, b"x" * 512)
        client.disconnect()
        tapctl.destroy(source)
        assert relay.connections == 1
        destination = nbd_client.connect(tapctl.nbd_socket(target))
        assert bytes(destination.read(0, 512)) == b"x" * 512
        destination.disconnect()
    finally:
        relay.cut()


def test_a_mirror_by_tcp(root, source):
    other = root + "/other.qcow2"
    lab.image(other)
    listening = lab.free_port()
    server = subprocess.Popen(
        [
            "qemu-nbd",
            "-t",
            "-e",
            "8",
            "-f",
            "qcow2",
            "-x",
            "tapdisk_client",
            "-b",
            "127.0.0.1",
            "-p",
            str(listening),
            other,
        ]
    )
    try:
        eventually(lambda: lab.listens(listening), "qemu-nbd listens")
        cycle(source, secondary="nbd:127.0.0.1:%d" % listening)
        assert lab.mirror_of(source) == "127.0.0.1:%d" % listening
        cycle(source, secondary="null")
    finally:
        server.terminate()
        server.wait(60)


def test_a_target_that_dies_is_not_felt(source, target, writer):
    cycle(source, secondary=nbd(tapctl.nbd_socket(target)))
    writer.wait_for_writes()
    os.kill(target.pid, signal.SIGKILL)
    eventually(lambda: lab.mirror_of(source) is None, "the mirror is given up")
    assert failed_flag(source) == 1
    writer.wait_for_writes(100)
    cycle(source, secondary="null")
    assert failed_flag(source) == 0
    writer.finish()
    assert writer.missing(tapctl.nbd_socket(source)) == 0
    assert writer.stall < 30


def test_the_failure_stays_until_null(root, source, target, writer):
    relay = lab.Relay(root + "/relay", tapctl.nbd_socket(target))
    cycle(source, secondary=nbd(relay.path))
    relay.cut()
    eventually(lambda: failed_flag(source), "the failure is told")
    relay = lab.Relay(root + "/relay", tapctl.nbd_socket(target))
    try:
        cycle(source)
        assert lab.mirror_of(source) == relay.path and failed_flag(source) == 1
        cycle(source, secondary="null")
        assert lab.mirror_of(source) is None and failed_flag(source) == 0
    finally:
        relay.cut()
    writer.finish()


def test_a_target_that_hangs_stalls_the_guest_until_its_endpoint_closes(
    root, source, target, writer
):
    relay = lab.Relay(root + "/relay", tapctl.nbd_socket(target))
    cycle(source, secondary=nbd(relay.path))
    writer.wait_for_writes()
    relay.hang()
    writer.wait_for_stillness()
    assert tapctl.stats(source)["reqs_outstanding"] >= 1 and failed_flag(source) == 0
    asking = start_pause(root, source)
    eventually(lambda: lab.state(source) == 0x14, "the pause is asked for")
    never(lambda: lab.state(source) != 0x14, "the pause does not wait", 0.2)
    assert tapctl.stats(source)["reqs_outstanding"] >= 1, "stats answer while a pause waits"
    asking.kill()
    asking.wait(60)
    relay.cut()
    # also without whoever asked for it
    eventually(lambda: lab.state(source) == 0x2A, "the disk is paused")
    tapctl.unpause(source, secondary="null")
    writer.wait_for_writes()
    writer.finish()
    assert writer.missing(tapctl.nbd_socket(source)) == 0


def test_a_stopped_target_stalls_until_it_goes_on(source, target, writer):
    cycle(source, secondary=nbd(tapctl.nbd_socket(target)))
    writer.wait_for_writes()
    os.kill(target.pid, signal.SIGSTOP)
    try:
        writer.wait_for_stillness()
    finally:
        os.kill(target.pid, signal.SIGCONT)
    writer.wait_for_writes()
    assert lab.mirror_of(source)
    writer.finish()


def test_a_pause_waits_for_a_hung_target_and_is_then_done(root, source, target, writer):
    relay = lab.Relay(root + "/relay", tapctl.nbd_socket(target))
    cycle(source, secondary=nbd(relay.path))
    writer.wait_for_writes()
    relay.hang()
    release = threading.Timer(1.0, relay.cut)
    release.start()
    started = time.monotonic()
    with tapctl.poked(source.pid):
        tapctl.pause(source)
    assert time.monotonic() - started > 0.5
    release.join()
    tapctl.unpause(source, secondary="null")
    writer.wait_for_writes()
    writer.finish()


def test_a_target_of_another_size_fails_silently(root, source):
    small = tapctl.create(lab.image(root + "/small.qcow2", size=8 * lab.MIB))
    with tapctl.poked(source.pid):
        tapctl.pause(source)
    started = time.monotonic()
    tapctl.unpause(source, secondary=nbd(tapctl.nbd_socket(small)))
    assert 1 <= time.monotonic() - started < 30
    assert lab.mirror_of(source) is None and failed_flag(source) == 0
    cycle(source)
    assert lab.mirror_of(source) is None


def test_a_target_that_refuses_the_handshake_fails_silently(root, source):
    lab.image(root + "/other.qcow2")
    server = subprocess.Popen(
        [
            "qemu-nbd",
            "-t",
            "-f",
            "qcow2",
            "-x",
            "another",
            "-k",
            root + "/refuses",
            root + "/other.qcow2",
        ]
    )
    try:
        eventually(lambda: os.path.exists(root + "/refuses"), "qemu-nbd listens")
        cycle(source, secondary=nbd(root + "/refuses"))
        assert lab.mirror_of(source) is None and failed_flag(source) == 0
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.parametrize(
    "secondary", ["nbd:%s/nobody", "nbd:127.0.0.1:1", "nbd:name-of-a-passed-fd"]
)
def test_a_target_where_nobody_listens_fails_with_the_flag_only(root, source, writer, secondary):
    cycle(source, secondary=secondary.replace("%s", root))
    assert lab.mirror_of(source) is None and failed_flag(source) == 1
    writer.wait_for_writes()
    writer.finish()


def test_a_withheld_reply_needs_a_poke(root, source, writer, monkeypatch):
    writer.wait_for_writes()
    monkeypatch.setenv("LAB_TAPDISK_PAUSE_REPLY", "withheld")
    asking = start_pause(root, source)
    eventually(lambda: lab.record(root, source).state == 0x2A, "the disk is paused")
    never(lambda: asking.poll() is not None, "the reply has come", 0.3)
    tapctl.unpause(source)
    asking.wait(60)
    writer.wait_for_writes()
    with tapctl.poked(source.pid):
        tapctl.pause(source, timeout=20)
    tapctl.unpause(source)
    writer.finish()
    assert writer.missing(tapctl.nbd_socket(source)) == 0


def test_the_habit_can_be_chosen_in_the_root(root, source):
    with open(root + "/etc/lab-tapdisk-pause-reply", "w") as switch:
        switch.write("withheld\n")
    asking = start_pause(root, source)
    eventually(lambda: os.path.exists(lab.reply_fifo(root, source)), "the reply stays out")
    tapctl.unpause(source)
    assert asking.wait(60) == 0
    with open(root + "/etc/lab-tapdisk-pause-reply", "w") as switch:
        switch.write("prompt\n")
    cycle(source)


def test_by_itself_the_reply_stays_out_sometimes_under_io_and_never_without(root, source):
    def stays_out():
        asking = start_pause(root, source)
        eventually(lambda: asking.poll() is not None or os.path.exists(fifo), "one or the other")
        out = asking.poll() is None
        tapctl.unpause(source)
        asking.wait(60)  # the unpause has woken it
        return out

    fifo = lab.reply_fifo(root, source)
    assert not any(stays_out() for _ in range(5))
    writer = lab.Writer(tapctl.nbd_socket(source))
    answers = []
    while len(answers) < 60 and len(set(answers)) < 2:
        writer.wait_for_writes(20)
        answers.append(stays_out())
    writer.finish()
    assert set(answers) == {True, False}


def test_a_tap_ctl_that_is_killed_still_pauses(root, source, writer):
    writer.wait_for_writes()
    asking = start_pause(root, source)
    eventually(lambda: lab.record(root, source).state != 0, "the pause is asked for")
    asking.kill()
    asking.wait(60)
    eventually(lambda: lab.state(source) == 0x2A, "the disk is paused")
    tapctl.unpause(source)
    writer.wait_for_writes()
    writer.finish()
    assert writer.missing(tapctl.nbd_socket(source)) == 0


def test_destroying_a_paused_disk_answers_nothing_falsely(root, source, writer):
    writer.wait_for_writes()
    with tapctl.poked(source.pid):
        tapctl.pause(source)
    tapctl.destroy(source)
    writer.stop()
    again = tapctl.create("qcow2:%s/source.qcow2" % root)
    assert writer.missing(tapctl.nbd_socket(again)) == 0


def test_clients_that_come_and_go_during_a_pause(source, writer):
    client = nbd_client.connect(tapctl.nbd_socket(source))
    with tapctl.poked(source.pid):
        tapctl.pause(source)
    with pytest.raises(ConnectionLost):
        nbd_client.connect(tapctl.nbd_socket(source))
    client.close()
    tapctl.unpause(source)
    writer.wait_for_writes()
    writer.finish()


def test_a_guest_that_opens_its_disk_during_a_pause_waits(source, target):
    """Seen in CI: a rebooting guest's first connections came while SM paused its disk."""
    disk = {"socket": tapctl.nbd_socket(source)}
    with tapctl.poked(source.pid):
        tapctl.pause(source)
    opened = []
    opening = threading.Thread(target=lambda: opened.append(guest_nbd.connect(disk)))
    opening.start()
    never(lambda: opened or not opening.is_alive(), "it opens", 0.3)
    tapctl.unpause(source)
    opening.join(10)
    opened[0].write(0, b"s" * 512)
    assert opened[0].read(0, 512) == b"s" * 512
    opened[0].close()
    tapctl.destroy(source)
    with pytest.raises(ConnectionLost):  # closed, it is no pause
        guest_nbd.connect(disk)
