# SPDX-License-Identifier: LGPL-2.1-only
"""One disk from end to end: the real mover and receiver over TLS, while the guest goes on
writing."""

import glob
import random
import shutil
import socket
import threading
import time

import pytest

from data_harness import (
    MIB,
    Monitor,
    Mover,
    Receiver,
    Site,
    Tapdisk,
    connectable,
    pattern,
    random_batch,
    same_bytes,
)
from storage_motion.source import fair_share
from storage_motion.wire import nbd, nbd_client
from tests.eventually import eventually

SIZE = 48 * MIB


@pytest.fixture
def site():
    with Site() as site:
        yield site


def source_of(site):
    """A snapshot with data, zeros written as data, and holes: (leaf image, snapshot image,
    extents)."""
    content = (
        pattern(1, 20 * MIB)
        + bytes(4 * MIB)
        + pattern(2, 5 * MIB + 512)
        + bytes(SIZE - 29 * MIB - 512)
    )
    leaf = site.image("leaf", content)
    shutil.copy(leaf, site.path("snapshot"))
    return leaf, site.path("snapshot"), [[0, 24 * MIB], [24 * MIB, 5 * MIB + 512]]


class Overheard(threading.Thread):
    """Passes on what one after the other of its clients says to the NBD server at a socket. `said`:
    what they said."""

    def __init__(self, path, server):
        super().__init__(daemon=True)
        self.said = []
        self._server, self._listening = server, socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen(4)
        self.start()

    def run(self):
        while True:
            client = self._listening.accept()[0]
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self.said.append(b"")
            for ends in ((client, server, len(self.said) - 1), (server, client, None)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, one, other, heard):
        while True:
            try:
                data = one.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                break
            if heard is not None:
                self.said[heard] += data
            other.sendall(data)
        other.close()


def test_a_tapdisk_is_never_told_goodbye(site):
    """The real one may be lost for good by it (nbd_client.Client.disconnect)."""
    leaf, snapshot, extents = source_of(site)
    sockets, overheard = {}, {}
    for name, image in (
        ("leaf", leaf),
        ("snapshot", snapshot),
        ("destination", site.image("destination", bytes(SIZE))),
    ):
        sockets[name] = site.path(name + ".overheard")
        overheard[name] = Overheard(sockets[name], site.serve(image)[1])
    receiver = Receiver(site, {"d": (sockets["destination"], SIZE)})
    mover = Mover(site, "d", SIZE, receiver.address())
    guest = Tapdisk(sockets["leaf"], mover.secondary, SIZE)
    mover.copy(sockets["snapshot"], extents, SIZE, True)
    assert mover.await_copy()["state"] == "done"
    guest.mirror.disconnect()
    eventually(lambda: mover.ask("status")["state"] == "ended", "the mirror ends")
    assert mover.ask("finish") == {"ok": True}
    goodbye = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_DISC, 0, 0, 0)
    for name in ("snapshot", "destination"):
        assert any(len(words) > 200 for words in overheard[name].said), "nobody was overheard"
        assert not any(goodbye in words for words in overheard[name].said), name
    guest.leaf.close()


def test_copies_side_by_side_tell_each_other_and_one_that_cannot_goes_on_all_the_same(site):
    _, snapshot, extents = source_of(site)
    socket_of = {
        key: site.serve(site.image(key, bytes(SIZE)))[1] for key in ("one", "other", "silent")
    }
    _, snapshot_socket = site.serve(snapshot)
    receiver = Receiver(site, {key: (path, SIZE) for key, path in socket_of.items()})
    nowhere = {"share": {"file": site.path("gone/silent.sent"), "others": site.path("*.sent")}}
    movers = [
        Mover(site, key, SIZE, receiver.address(), **(nowhere if key == "silent" else {}))
        for key in socket_of
    ]
    # as if it were killed far behind, with its last word a moment ago
    killed = fair_share.RECORD.pack(-100 * MIB, time.monotonic() + 60, True) + b"127.0.0.1"
    site.image("killed.sent", killed)
    for mover in movers:
        mover.copy(snapshot_socket, extents, SIZE, True)
    for mover in movers:
        assert mover.await_copy()["state"] == "done"
    for key in socket_of:
        assert same_bytes(snapshot, site.path(key)), key
    assert "the others will not know" in site.log("silent")
    assert "the others will not know" not in site.log("one")
    assert glob.glob(site.path("*.sent*")) == [site.path("killed.sent")]


@pytest.mark.parametrize("blank", [True, False])
def test_a_guest_that_writes_all_the_time_loses_nothing(site, blank):
    leaf, snapshot, extents = source_of(site)
    destination = site.image("destination", bytes(SIZE) if blank else pattern(3, SIZE))
    _, leaf_socket = site.serve(leaf)
    _, snapshot_socket = site.serve(snapshot)
    _, destination_socket = site.serve(destination)
    receiver = Receiver(site, {"d": (destination_socket, SIZE)})
    mover = Mover(site, "d", SIZE, receiver.address())
    guest = Tapdisk(leaf_socket, mover.secondary, SIZE)
    generator = random.Random(4)
    guest.write(random_batch(generator, SIZE, 32))
    mover.copy(snapshot_socket, extents, SIZE, blank)
    while mover.ask("status")["copy"]["state"] == "running":
        for _ in range(10):
            guest.write(random_batch(generator, SIZE, 16))
    status = mover.ask("status")
    assert status["copy"]["state"] == "done", status
    guest.write(random_batch(generator, SIZE, 32))
    assert guest.mirror is not None
    refused = mover.ask("finish")
    assert refused["ok"] is False and "mirroring" in refused["error"]
    assert not receiver.gate_opened("d")
    assert mover.ask("stand-by") == {"ok": True}
    assert receiver.stood_by() == ["stand by sr vdi-d"]
    guest.detach()
    assert mover.ask("await-end") == {"ok": True, "over": True}
    status = mover.ask("status")
    assert status["state"] == "ended"
    # told before the mover was: no `finish` can come before it
    assert receiver.stood_by() == ["stand by sr vdi-d", "close vdi-d"]
    assert status["clean"] and status["attachments"] == 1 and status["mirrored_writes"] > 60
    copy = status["copy"]
    assert (
        copy["verified"] + copy["skipped"] == copy["to_copy"] == (29 * MIB + 512 if blank else SIZE)
    )
    assert copy["skipped"] > 0
    assert mover.ask("finish") == {"ok": True}
    assert mover.ask("finish") == {"ok": True}  # once more is no harm
    assert receiver.gate_opened("d")
    assert same_bytes(leaf, destination)
    assert not same_bytes(snapshot, destination)
    assert mover.ask("exit") == {"ok": True}
    assert mover.process.wait(60) == 0
    assert receiver.ask("status")["disks"]["d"]["gate"] == "open"
    assert receiver.ask("exit") == {"ok": True}
    assert receiver.process.wait(60) == 0
    assert receiver.token not in site.log("receiver") + site.log("d")


@pytest.mark.parametrize("blank", [True, False])
@pytest.mark.parametrize(
    "size, larger", [(3 * MIB + 512, 2 * MIB - 512), (MIB + 65536, MIB - 65536)]
)
def test_a_destination_that_sm_has_rounded_up(site, blank, size, larger):
    """What is beyond the disk that is copied is zeros; sizes are multiples of nothing but 512."""
    source = site.image("source", pattern(1, size))
    before = bytes(size + larger) if blank else pattern(3, size + larger)
    destination = site.image("destination", before)
    _, source_socket = site.serve(source)
    _, destination_socket = site.serve(destination)
    receiver = Receiver(site, {"d": (destination_socket, size)}, blank=blank)
    mover = Mover(site, "d", size, receiver.address())
    guest = Tapdisk(source_socket, mover.secondary, size)
    mover.copy(source_socket, [[0, size]], size, blank)
    assert mover.await_copy()["state"] == "done"
    guest.write([(size - 512, b"end." * 128)])
    guest.detach()
    eventually(lambda: mover.ask("status")["state"] == "ended", "the mirror ends")
    assert mover.ask("finish") == {"ok": True}
    with open(source, "rb") as one, open(destination, "rb") as other:
        assert one.read() == other.read(size) and other.read() == bytes(larger)


def test_four_tebibytes_with_little_data(site):
    size, end = 4 << 40, (4 << 40) - 512
    places = [0, 1 << 31, (2 << 40) - 512, (3 << 40) + 4096, end - 512]
    paths = [site.path("source"), site.path("destination")]
    for path in paths:
        with open(path, "wb") as image:
            image.truncate(size)
    with open(paths[0], "r+b") as image:
        for place in places:
            image.seek(place)
            image.write(pattern(place, 512))
    sockets = [site.serve(path)[1] for path in paths]
    receiver = Receiver(site, {"d": (sockets[1], size)}, blank=True)
    mover = Mover(site, "d", size, receiver.address())
    guest = Tapdisk(sockets[0], mover.secondary, size)
    guest.write([(end, b"before" * 85 + b"..")])
    mover.copy(sockets[0], [[place, 512] for place in places], size, True)
    copy = mover.await_copy()
    assert (copy["state"], copy["verified"] + copy["skipped"]) == ("done", 512 * len(places))
    guest.write([((1 << 40) + 512, b"after." * 85 + b"..")])
    guest.detach()
    eventually(lambda: mover.ask("status")["state"] == "ended", "the mirror ends")
    assert mover.ask("finish") == {"ok": True}
    found = [[], []]
    for path, data in zip(paths, found):
        with open(path, "rb") as image:
            for place in places + [end, (1 << 40) + 512, 1 << 40, (4 << 40) - (1 << 32)]:
                image.seek(place)
                data.append(image.read(512))
    assert found[0] == found[1] and [bytes(512)] * 2 == found[1][-2:]


def test_of_what_was_written_here_and_there_no_more_is_sent(site):
    """4 KiB in each of many windows, as the file systems of guests write: no byte beside them."""
    content = bytearray(pattern(1, SIZE // 2) + bytes(SIZE // 2))
    destination = site.image("destination", bytes(content))
    changed = [number * MIB + 4096 * (7 * number % 256) for number in range(48)]
    changed += [30 * MIB + 65536 + 4096, 30 * MIB + 2 * 65536]
    for number, offset in enumerate(changed):
        content[offset : offset + 4096] = pattern(100 + number, 4096)
    source = site.image("source", bytes(content))
    receiver = Receiver(site, {"d": (site.serve(destination)[1], SIZE)})
    mover = Mover(site, "d", SIZE, receiver.address())
    mover.copy(site.serve(source)[1], [[0, SIZE]], SIZE, False, compare=True)
    copy = mover.await_copy()
    assert copy["state"] == "done", copy
    assert copy["copied"] == copy["verified"] == 4096 * len(changed)
    assert copy["same"] == SIZE - copy["copied"]
    assert same_bytes(source, destination)


@pytest.mark.parametrize("blank", [True, False])
def test_what_is_there_already_is_compared_and_not_sent_again(site, blank):
    """The destination has the first 12 MiB of it, and 2 MiB of something else: stale writes, and,
    unless it was blank, in a hole."""
    leaf, snapshot, extents = source_of(site)
    with open(leaf, "rb") as source:
        there = bytearray(source.read(12 * MIB) + bytes(SIZE - 12 * MIB))
    there[4 * MIB : 5 * MIB] = pattern(8, MIB)
    if not blank:
        there[40 * MIB + 512 : 41 * MIB + 512] = pattern(9, MIB)
    destination = site.image("destination", bytes(there))
    receiver = Receiver(site, {"d": (site.serve(destination)[1], SIZE)})
    mover = Mover(site, "d", SIZE, receiver.address())
    guest = Tapdisk(site.serve(leaf)[1], mover.secondary, SIZE)
    mover.copy(site.serve(snapshot)[1], extents, SIZE, blank, compare=True)
    generator = random.Random(10)
    while mover.ask("status")["copy"]["state"] == "running":
        guest.write(random_batch(generator, SIZE, 8))
    copy = mover.await_copy()
    assert copy["state"] == "done", copy
    assert (
        copy["verified"] == copy["copied"]
        and copy["verified"] + copy["skipped"] + copy["same"] == copy["to_copy"]
    )
    # 11 MiB of data were right, and the 4 MiB of zeros that are data; less what the guest wrote
    # before the copy came there.
    assert 5 * MIB < copy["saved"] <= 15 * MIB and copy["same"] >= copy["saved"]
    # 14 MiB differ (15 with the hole), and a little where the guest writes while it is compared.
    assert copy["copied"] <= 18 * MIB
    guest.detach()
    eventually(lambda: mover.ask("status")["state"] == "ended", "the mirror ends")
    assert mover.ask("finish") == {"ok": True}
    assert same_bytes(leaf, destination)
    assert guest.longest < 30


def test_a_slow_destination_that_answers_in_any_order(site):
    """Every write to it takes 5 ms, beside others; the guest writes where the copy is, over and
    over, so that writes are held."""
    size = 12 * MIB
    leaf = site.image("leaf", pattern(5, size))
    shutil.copy(leaf, site.path("snapshot"))
    destination = site.image("destination", bytes(size))
    slow = site.path("slow.nbd")
    site.start(
        ["nbdkit", "-f", "-t", "8", "-U", slow, "--filter=delay", "file", destination, "wdelay=5ms"]
    )
    eventually(lambda: connectable(slow), "nbdkit listens")
    receiver = Receiver(site, {"d": (slow, size)})
    mover = Mover(site, "d", size, receiver.address())
    guest = Tapdisk(site.serve(leaf)[1], mover.secondary, size)
    mover.copy(site.serve(site.path("snapshot"))[1], [[0, size]], size)
    generator = random.Random(6)
    while mover.ask("status")["copy"]["state"] == "running":
        near = min(mover.ask("status")["copy"]["copied"], size - MIB)
        guest.write([(near + offset, data) for offset, data in random_batch(generator, MIB, 12)])
    assert mover.await_copy()["state"] == "done"
    guest.detach()
    eventually(lambda: mover.ask("status")["state"] == "ended", "the mirror ends")
    assert mover.ask("finish") == {"ok": True}
    assert same_bytes(leaf, destination)
    assert guest.longest < 30


def test_qemu_storage_daemon_as_the_tapdisk(site):
    """The lab's tapdisk: its mirror attaches, its guest's writes arrive, and its end is a clean
    one."""
    leaf, snapshot, extents = source_of(site)
    destination = site.image("destination", bytes(SIZE))
    receiver = Receiver(site, {"d": (site.serve(destination)[1], SIZE)})
    mover = Mover(site, "d", SIZE, receiver.address())
    front, monitor = site.path("front.nbd"), site.path("monitor")
    site.start(
        [
            "qemu-storage-daemon",
            "--chardev",
            "socket,id=m,path=%s,server=on,wait=off" % monitor,
            "--monitor",
            "chardev=m",
            "--nbd-server",
            "addr.type=unix,addr.path=" + front,
            "--blockdev",
            "driver=raw,node-name=leaf,file.driver=file,file.filename=" + leaf,
            "--export",
            "type=nbd,id=e,node-name=leaf,name=%s,writable=on" % nbd_client.EXPORT_NAME,
        ]
    )
    eventually(lambda: connectable(front), "qemu-storage-daemon listens")
    qmp = Monitor(monitor)
    qmp.execute(
        "blockdev-add",
        driver="nbd",
        **{
            "node-name": "target",
            "export": nbd_client.EXPORT_NAME,
            "server": {"type": "unix", "path": mover.secondary},
        },
    )
    qmp.execute(
        "blockdev-mirror",
        device="leaf",
        target="target",
        sync="none",
        **{
            "job-id": "m",
            "copy-mode": "write-blocking",
            "on-target-error": "report",
            "auto-dismiss": False,
        },
    )
    eventually(lambda: mover.ask("status")["state"] == "mirroring", "the mirror is attached")
    eventually(lambda: qmp.execute("query-jobs")[0]["status"] == "ready", "the mirror is ready")
    guest = nbd_client.connect(front)
    mover.copy(site.serve(snapshot)[1], extents, SIZE)
    generator = random.Random(7)
    while mover.ask("status")["copy"]["state"] == "running":
        for offset, data in random_batch(generator, SIZE, 20):
            guest.write(offset, data)
    guest.disconnect()
    qmp.execute("block-job-cancel", device="m")
    eventually(
        lambda: qmp.execute("query-jobs")[0]["status"] == "concluded", "the mirror has ended"
    )
    assert "error" not in qmp.execute("query-jobs")[0]
    qmp.execute("job-dismiss", id="m")
    qmp.execute("blockdev-del", **{"node-name": "target"})
    eventually(lambda: mover.ask("status")["state"] == "ended", "the mirror ends")
    assert mover.ask("finish") == {"ok": True}
    assert same_bytes(leaf, destination)


def test_a_bandwidth_is_kept_to_and_lifted_while_the_copy_goes(site):
    size = 16 * MIB
    source = site.image("source", pattern(21, size))
    destination = site.image("destination", bytes(size))
    receiver = Receiver(site, {"d": (site.serve(destination)[1], size)})
    mover = Mover(site, "d", size, receiver.address(), bandwidth=4 * MIB)
    began = time.monotonic()
    mover.copy(site.serve(source)[1], [[0, size]], size)
    copied = eventually(lambda: mover.ask("status")["copy"]["copied"] // MIB, "a window")
    while copied < 6:
        # what goes at once is four windows and a tenth of a second's worth, and each is asked late
        assert copied <= 5 + 4 * (time.monotonic() - began)
        copied = mover.ask("status")["copy"]["copied"] // MIB
    assert time.monotonic() - began >= 0.25
    assert mover.ask("limit", bandwidth=1)["ok"]
    at = mover.ask("status")["copy"]["copied"]
    assert at < size
    assert mover.ask("limit", bandwidth=0)["ok"]
    assert mover.await_copy()["state"] == "done"
    assert not mover.ask("limit", bandwidth=-1)["ok"]
    assert same_bytes(source, destination)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_disk_that_is_based_on_another_is_sent_as_far_as_it_differs(site, mirrored):
    """The destination has all of the base; where this disk has zeros in its place they are written,
    and what neither differs in is not touched."""
    base = pattern(1, 8 * MIB) + bytes(SIZE - 8 * MIB)
    content = bytearray(base)
    content[MIB : 2 * MIB] = bytes(MIB)
    content[20 * MIB : 20 * MIB + 512] = pattern(3, 512)
    leaf = site.image("leaf", bytes(content))
    shutil.copy(leaf, site.path("snapshot"))
    destination = site.image("destination", base)
    differing = [[MIB, MIB], [20 * MIB, 512]]
    receiver = Receiver(site, {"d": (site.serve(destination)[1], SIZE)})
    mover = Mover(site, "d", SIZE, receiver.address())
    guest = Tapdisk(site.serve(leaf)[1], mover.secondary, SIZE) if mirrored else None
    if guest:
        guest.write([(30 * MIB, pattern(4, 4096)), (MIB, pattern(5, 512))])
    mover.copy(site.serve(site.path("snapshot"))[1], differing, SIZE, False, based=True)
    status = mover.await_copy()
    assert (status["state"], status["to_copy"]) == ("done", MIB + 512)
    assert status["verified"] + status["skipped"] == MIB + 512
    if guest:
        guest.mirror.disconnect()
        eventually(lambda: mover.ask("status")["state"] == "ended", "the mirror ends")
        guest.leaf.close()
    assert mover.ask("finish", unmirrored=not mirrored) == {"ok": True}
    assert same_bytes(leaf, destination)
