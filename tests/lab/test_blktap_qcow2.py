"""What XCP-ng's tapdisk does to the clients of a QCOW2 disk, and that ours bear it
(facts/xcp-ng-8.3.md, 3 and 4)."""
import os
import socket
import subprocess
import threading

import blktap_lab as lab
import pytest

from lab.blktap import nbd_server
from storage_motion.data import nbd, nbd_client
from storage_motion.dom0 import blktap, tapctl
from storage_motion.errors import ConnectionLost

PATIENCE = 3.0      # seconds after which what should stall is taken for stalled


@pytest.fixture
def root(monkeypatch):
    with lab.root_with_tap_ctl() as path:
        monkeypatch.setenv("SXM_ROOT", path)
        nbd_server.choose(path, nbd_server.STALLS)
        yield path


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
    client = connect(vbd, blktap.MOST)
    write(client, 500)
    for number in range(0, 500, 7):
        assert bytes(client.read(number * 512, 512)) == b"%512d" % number
    client.close()


def test_eight_in_flight_stall_for_good_until_it_is_poked(vbd):
    client = connect(vbd, 8)
    done = threading.Event()

    def all_of_them():
        write(client, 200)
        done.set()
    thread = threading.Thread(target=all_of_them)
    thread.start()
    assert not done.wait(PATIENCE)
    other = connect(vbd, 1)
    write(other, 20)
    other.close()
    assert not done.is_set(), "another connection is served, and does not wake it"
    with tapctl.poked(vbd.pid):
        assert done.wait(60)
    thread.join()
    client.close()


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
    lab.wait_until(lambda: not os.path.exists("/proc/%d" % server) or zombie(server))
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
    lab.wait_until(lambda: not tapctl.list(pid=vbd.pid))


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
