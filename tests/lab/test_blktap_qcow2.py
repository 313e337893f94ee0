# SPDX-License-Identifier: LGPL-2.1-only
"""What XCP-ng's tapdisk does to the clients of a QCOW2 disk, and that ours bear it
(docs/facts/xcp-ng-8.3.md, 3 and 4)."""

import os
import socket
import subprocess
import threading
import time

import pytest

import blktap_lab as lab
from blktap_lab import xcpng_root as root  # noqa: F401
from lab.blktap import nbd_server
from storage_motion.dom0 import blktap, tapctl
from storage_motion.errors import ConnectionLost
from storage_motion.wire import nbd, nbd_client
from tests.eventually import eventually

PATIENCE = 3.0  # seconds after which what should stall is taken for stalled


@pytest.fixture
def vbd(root):
    return tapctl.create(lab.image(root + "/a.qcow2"))


def write(client, count):
    """Keep the client full of writes of one sector until `count` are answered. Raises
    ConnectionLost."""
    started = answered = 0
    while answered < count:
        while started < count and not client.full:
            client.start_write(started * 512, b"%512d" % started)
            started += 1
        client.reap()
        answered += 1


def connect(vbd, depth, timeout=60.0):
    return nbd_client.connect(tapctl.nbd_socket(vbd), depth=depth, timeout=timeout)


def test_six_in_flight_are_served_and_read_back(vbd):
    client = connect(vbd, blktap.MOST_QCOW2)
    write(client, 500)
    for number in range(0, 500, 7):
        assert bytes(client.read(number * 512, 512)) == b"%512d" % number
    client.close()


def test_eight_in_flight_stall_for_good_until_it_is_poked(vbd):
    client = connect(vbd, 8)
    answered, enough = [], threading.Event()

    def keep_it_full():
        """On a busy machine it takes a while until all eight are there at a time."""
        while not enough.is_set():
            while not client.full:
                client.start_write(len(answered) % 1000 * 512, b"%512d" % len(answered))
            client.reap()
            answered.append(None)
        while client.in_flight:
            client.reap()

    thread = threading.Thread(target=keep_it_full)
    thread.start()
    eventually(standing_still(answered), "it stalls")
    stalled = len(answered)
    other = connect(vbd, 1)
    write(other, 20)
    other.close()
    assert len(answered) == stalled, "another connection is served, and does not wake it"
    enough.set()
    with tapctl.poked(vbd.pid):
        eventually(lambda: not thread.is_alive(), "it goes on")
    assert len(answered) > stalled
    client.close()


def standing_still(answered):
    """A condition: there have been no more of `answered` for PATIENCE seconds."""
    seen = [len(answered), time.monotonic()]

    def condition():
        if len(answered) != seen[0]:
            seen[:] = len(answered), time.monotonic()
        return time.monotonic() - seen[1] > PATIENCE

    return condition


def test_a_pause_and_a_close_in_mid_traffic(root, vbd):
    """The sockets go and come back, and all that was acknowledged is there."""
    writer = lab.Writer(tapctl.nbd_socket(vbd))
    writer.wait_for_writes(50)
    with tapctl.poked(vbd.pid):
        tapctl.pause(vbd)
    with pytest.raises(ConnectionLost):
        connect(vbd, 1)
    tapctl.unpause(vbd)
    writer.wait_for_writes(50)
    writer.finish()
    assert writer.missing(tapctl.nbd_socket(vbd)) == 0
    tapctl.destroy(vbd)
    assert nbd_server.all_of(root) == [] and os.listdir(root + "/run/blktap-control/lab") == []
    again = tapctl.create("qcow2:%s/a.qcow2" % root)
    assert writer.missing(tapctl.nbd_socket(again)) == 0


def test_one_that_is_killed_takes_its_server_along(root, vbd):
    client = connect(vbd, 1)
    os.kill(vbd.pid, 9)
    with pytest.raises(ConnectionLost):
        write(client, 1)
    (server,) = nbd_server.all_of(root)
    eventually(
        lambda: not os.path.exists("/proc/%d" % server) or zombie(server), "its server is gone"
    )
    with pytest.raises(ConnectionLost):
        connect(vbd, 1)


def zombie(pid):
    with open("/proc/%d/stat" % pid) as stat:
        return stat.read().rpartition(")")[2].split()[0] == "Z"


def test_of_the_older_build_two_in_flight_kill_it_and_one_does_not(root):
    nbd_server.choose(root, nbd_server.CRASHES)
    vbd = tapctl.create(lab.image(root + "/a.qcow2"))
    clients = [connect(vbd, blktap.ALONE) for _ in range(3)]
    for client in clients:
        write(client, 100)
        client.close()
    client = connect(vbd, 2)
    with pytest.raises(ConnectionLost):
        write(client, 100)
    eventually(lambda: not tapctl.list(pid=vbd.pid), "it is dead")


def test_block_status_is_never_answered_and_the_disk_cannot_be_paused_any_more(root, vbd):
    client = connect(vbd, 1)
    client.sock.sendall(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, 7, 1, 0, 65536))
    client.sock.settimeout(PATIENCE)
    with pytest.raises(socket.timeout):
        client.sock.recv(1)
    words = ["pause", "-p", str(vbd.pid), "-m", str(vbd.minor)]
    asking = subprocess.Popen([root + "/usr/sbin/tap-ctl"] + words)
    with tapctl.poked(vbd.pid), pytest.raises(subprocess.TimeoutExpired):
        asking.wait(PATIENCE)
    asking.kill()
    asking.wait(60)


def test_a_raw_disk_is_served_as_ever(root):
    with open(root + "/raw", "wb") as image:
        image.truncate(lab.MIB)
    vbd = tapctl.create("aio:%s/raw" % root)
    client = connect(vbd, 16)
    write(client, 200)
    client.close()
    assert nbd_server.all_of(root) == []
