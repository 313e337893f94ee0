# SPDX-License-Identifier: LGPL-2.1-only
"""What can go wrong with one disk, with the real processes. The guest comes first: it never waits
longer than the bound, and never fails. And a gate is only opened for a disk that is whole."""

import errno
import os
import shutil
import signal
import socket
import ssl
import sys
import time

import pytest

from data_harness import (
    MIB,
    PATIENT,
    Mover,
    Receiver,
    Site,
    Tapdisk,
    attach,
    connectable,
    pattern,
    same_bytes,
)
from storage_motion.errors import CertificateMismatch, ConnectionLost, DataPathError, PeerRefused
from storage_motion.source import windows
from storage_motion.wire import channel, nbd, nbd_client
from storage_motion.wire.tls import unverified_context
from tests.eventually import eventually, never

SIZE = 8 * MIB
BOUND = 2.0  # seconds; shorter than the default, where a test waits for it


class Move(object):
    """A disk with a guest on it, half way: mirrored, not copied."""

    def __init__(self, site, destination=None, destination_socket=None, bound=PATIENT):
        self.site = site
        self.leaf = site.image("leaf", pattern(1, SIZE))
        shutil.copy(self.leaf, site.path("snapshot"))
        self.destination = site.image("destination", destination or bytes(SIZE))
        if destination_socket is None:
            self.destination_server, destination_socket = site.serve(self.destination)
        _, self.leaf_socket = site.serve(self.leaf)
        _, self.snapshot_socket = site.serve(site.path("snapshot"))
        self.receiver = Receiver(site, {"d": (destination_socket, SIZE)})
        self.mover = Mover(site, "d", SIZE, self.receiver.address(), stall_bound=bound)

    def guest(self):
        return Tapdisk(self.leaf_socket, self.mover.secondary, SIZE)

    def copy(self, extents=((0, SIZE),)):
        self.mover.copy(self.snapshot_socket, list(extents), SIZE)
        return self.mover.await_copy()

    def status(self):
        return self.mover.ask("status")

    def await_state(self, state):
        return eventually(
            lambda: [s for s in [self.status()] if s["state"] == state], "the mirror is " + state
        )[0]

    def assert_never_handed_over(self, because):
        refused = self.mover.ask("finish")
        assert refused["ok"] is False and because in refused["error"], refused
        assert not self.receiver.gate_opened("d")


@pytest.fixture
def site():
    with Site() as site:
        yield site


def test_a_destination_that_hangs_holds_the_guest_for_the_bound_only(site):
    move = Move(site, bound=BOUND)
    assert move.copy()["state"] == "done"
    guest = move.guest()
    guest.write([(0, b"a" * 4096)])
    assert move.status()["oldest_wait"] == 0.0
    move.destination_server.send_signal(signal.SIGSTOP)
    guest.write([(4096, b"b" * 4096), (8192, b"c" * 512)])
    assert BOUND * 0.9 <= guest.longest <= BOUND + 20
    assert guest.mirror is None
    guest.write([(4096, b"d" * 4096)])  # alone, and at once
    status = move.await_state("broken")
    assert "not answered" in status["error"] and not status["clean"]
    assert status["longest_stall"] >= BOUND * 0.9 and status["oldest_wait"] >= BOUND * 0.9
    move.assert_never_handed_over("broken")
    # it is told to be broken first
    eventually(lambda: not os.path.exists(move.mover.secondary), "its socket is gone")


@pytest.mark.parametrize("victim", ["receiver", "mover"])
def test_a_process_that_is_killed_costs_the_mirror_only(site, victim):
    move = Move(site)
    guest = move.guest()
    guest.write([(0, b"a" * 4096)])
    getattr(move, victim).process.kill()
    guest.write([(0, b"b" * 4096)])
    guest.write([(0, b"c" * 4096)])
    assert guest.longest < PATIENT / 2 and guest.mirror is None
    if victim == "receiver":
        move.await_state("broken")
    else:
        eventually(
            lambda: move.receiver.ask("status")["disks"]["d"]["roles"]["mirror"] == "broken",
            "the receiver knows",
        )
    assert not move.receiver.gate_opened("d")


def test_a_destination_that_fails_a_write_breaks_the_mirror_without_an_error_for_the_guest(site):
    path = site.path("failing.nbd")
    site.start(
        [
            "nbdkit",
            "-f",
            "-U",
            path,
            "--filter=error",
            "memory",
            str(SIZE),
            "error-pwrite-rate=100%",
        ]
    )
    eventually(lambda: connectable(path), "nbdkit listens")
    move = Move(site, destination_socket=path)
    guest = move.guest()
    guest.write([(0, b"a" * 4096)])
    assert guest.mirror is None
    assert "failed a write" in move.await_state("broken")["error"]


def full(site):
    """A move whose destination has no space left for anything."""
    path = site.path("full.nbd")
    site.start(
        [
            "nbdkit",
            "-f",
            "-U",
            path,
            "--filter=error",
            "memory",
            str(SIZE),
            "error=ENOSPC",
            "error-pwrite-rate=100%",
        ]
    )
    eventually(lambda: connectable(path), "nbdkit listens")
    return Move(site, destination_socket=path)


def test_a_full_destination_is_told_by_its_number(site):
    move = full(site)
    guest = move.guest()
    guest.write([(0, b"a" * 4096)])
    assert guest.mirror is None and move.await_state("broken")["errno"] == errno.ENOSPC


def test_a_destination_that_fills_up_under_the_copy_is_told_by_its_number(site):
    copy = full(site).copy()
    assert (copy["state"], copy["errno"]) == ("failed", errno.ENOSPC) and "No space left" in copy[
        "error"
    ]


def test_more_writes_than_tapdisk_survives_break_the_mirror_at_once(site):
    move = Move(site)
    mirror = attach(move.mover.secondary, SIZE)
    move.destination_server.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    for index in range(301):
        mirror.start_write(index * 4096, b"x" * 4096)
    with pytest.raises(ConnectionLost):
        mirror.reap()
    assert time.monotonic() - began < PATIENT / 2
    assert "301 writes" in move.await_state("broken")["error"]


def request(command, offset, length, handle=7, flags=0):
    return nbd.REQUEST.pack(nbd.REQUEST_MAGIC, flags, command, handle, offset, length)


@pytest.mark.parametrize(
    "said, why",
    [
        (request(nbd.CMD_WRITE, 0, 4096) + b"half", "half a request"),
        (request(nbd.CMD_WRITE, 0, 4096)[:9], "half a request"),
        (b"\0" * 28, "a request that is none"),
        (request(nbd.CMD_WRITE, 0, 100) + b"x" * 100, "a write of 100 bytes"),
        (request(nbd.CMD_WRITE, SIZE, 512) + b"x" * 512, "a write of 512 bytes"),
        (request(nbd.CMD_WRITE, 0, 0), "a write of 0 bytes"),
        (request(nbd.CMD_WRITE, 0, 65 << 20), "a write of 68157440 bytes"),
        (request(nbd.CMD_WRITE, 0, 512, flags=1) + b"x" * 512, "never sends flags"),
        (request(9, 0, 0), "unknown command"),
        (request(nbd.CMD_WRITE, 0, 512) + b"x" * 512 + request(nbd.CMD_DISC, 0, 0), "outstanding"),
        (None, "closed the connection"),
    ],
    ids=[
        "half a payload",
        "half a header",
        "no request",
        "unaligned",
        "past the end",
        "empty",
        "huge",
        "flags",
        "unknown command",
        "disconnect with a write outstanding",
        "no goodbye",
    ],
)
def test_what_tapdisk_may_not_say_ends_the_mirror(shared, said, why):
    mover, destination = shared
    mirror = attach(mover.secondary, SIZE)
    if said is None:
        mirror.close()
    else:
        mirror.sock.sendall(said)
        mirror.sock.settimeout(BOUND + 20)
        closed_by = mirror.sock.recv(1024)
        assert closed_by in (b"", nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, 7))
    status = eventually(
        lambda: [s for s in [mover.ask("status")] if s["state"] == "broken"], "the mirror is broken"
    )[0]
    assert why in status["error"]
    mover.process.send_signal(signal.SIGTERM)
    assert mover.process.wait(60) == 0


@pytest.fixture(scope="module")
def crowded():
    """One receiver with a disk for each of many movers."""
    with Site() as site:
        image = site.image("destination", bytes(SIZE))
        server, path = site.serve(image, clients=64)
        yield (
            site,
            server,
            Receiver(site, {"disk-%d" % number: (path, SIZE) for number in range(16)}),
            iter(range(16)),
        )


@pytest.fixture
def shared(crowded, request):
    """A mover of its own for each test, at the crowded receiver. With DISC behind a write the
    destination has to be slow."""
    site, server, receiver, numbers = crowded
    slow = "outstanding" in str(request.node.callspec.params.get("why"))
    mover = Mover(site, "disk-%d" % next(numbers), SIZE, receiver.address(), stall_bound=BOUND)
    if slow:
        server.send_signal(signal.SIGSTOP)
    yield mover, None
    if slow:
        server.send_signal(signal.SIGCONT)


def test_reading_from_the_mirror_is_an_error_and_no_more(site):
    move = Move(site)
    mirror = attach(move.mover.secondary, SIZE)
    mirror.sock.sendall(request(nbd.CMD_READ, 0, 4096))
    assert mirror.sock.recv(16) == nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 22, 7)
    mirror.write(0, b"a" * 512)
    assert move.status()["state"] == "mirroring"
    mirror.disconnect()
    move.await_state("ended")


def test_half_a_request_never_reaches_the_destination(site):
    move = Move(site, bound=BOUND)
    mirror = attach(move.mover.secondary, SIZE)
    mirror.sock.sendall(request(nbd.CMD_WRITE, 0, MIB) + b"z" * (MIB - 1))
    move.await_state("broken")
    assert same_bytes(move.destination, site.image("zeros", bytes(SIZE)))
    probe = nbd_client.connect(move.destination + ".nbd")  # and it is not frozen
    probe.write(0, b"x" * 512)
    probe.disconnect()


def test_a_second_attachment_makes_a_clean_end_unclean(site):
    move = Move(site)
    assert move.copy()["state"] == "done"
    guest = move.guest()
    guest.detach()
    assert move.await_state("ended")["clean"]
    again = socket.socket(socket.AF_UNIX)
    again.connect(move.mover.secondary)
    assert again.recv(1) == b""
    again.close()
    status = move.await_state("broken")
    assert status["attachments"] == 2 and not status["clean"]
    move.assert_never_handed_over("broken")


def test_a_handshake_that_comes_to_nothing_is_no_attachment(site):
    move = Move(site)
    for said in (b"", b"GET / HTTP/1.0\r\n\r\n" * 4):
        visitor = socket.socket(socket.AF_UNIX)
        visitor.connect(move.mover.secondary)
        visitor.sendall(said)
        visitor.close()
    guest = move.guest()
    guest.write([(0, b"a" * 512)])
    assert (move.status()["state"], move.status()["attachments"]) == ("mirroring", 1)


def test_finish_waits_for_the_copy(site):
    move = Move(site)
    guest = move.guest()
    guest.detach()
    move.await_state("ended")
    move.assert_never_handed_over("the copy is idle")


def test_a_copy_that_reads_back_differently_is_not_handed_over(site):
    # Zeros are not written onto a blank destination; this one only claims to be blank.
    move = Move(site, destination=b"\1" * SIZE)
    snapshot = site.image("snapshot", bytes(SIZE))
    assert os.path.getsize(snapshot) == SIZE
    copy = move.copy()
    assert copy["state"] == "failed" and "SXM_COPY_DIFFERS" in copy["error"]
    guest = move.guest()
    guest.write([(0, b"a" * 512)])
    assert guest.mirror is not None  # the guest goes on undisturbed
    guest.detach()
    move.await_state("ended")
    move.assert_never_handed_over("the copy is failed")


def test_a_halted_disk_is_finished_without_a_mirror(site):
    move = Move(site)
    assert move.copy()["state"] == "done"
    refused = move.mover.ask("finish")
    assert refused["ok"] is False and "ready" in refused["error"]
    site.image("gate-is-stuck", b"")
    refused = move.mover.ask("finish", unmirrored=True)
    assert refused["ok"] is False and "the gate is stuck" in refused["error"]
    os.unlink(site.path("gate-is-stuck"))
    assert move.mover.ask("finish", unmirrored=True) == {"ok": True}
    assert move.receiver.gate_opened("d")
    assert same_bytes(move.leaf, move.destination)
    assert move.status()["attachments"] == 0


def test_a_gate_that_comes_back_shut_is_opened_again_while_the_receiver_lives(site):
    move = Move(site)
    again = site.path("opened-again")
    assert move.copy()["state"] == "done"
    eventually(
        lambda: move.receiver.ask("status")["disks"]["d"]["gate"] == "shut", "the gate is shut"
    )
    assert not os.path.exists(site.path("kept-writable")), "a gate that is shut keeps readers out"
    assert move.mover.ask("finish", unmirrored=True) == {"ok": True} and not os.path.exists(again)
    eventually(
        lambda: os.path.exists(site.path("kept-writable")),
        "those who would only read are looked for",
    )
    site.image("gate-is-stuck", b"")
    os.unlink(site.path("gate-vdi-d"))
    eventually(
        lambda: "whether its gate is still open" in site.log("receiver"), "the failing look is told"
    )
    os.unlink(site.path("gate-is-stuck"))
    eventually(lambda: move.receiver.gate_opened("d"), "the gate is open again")
    eventually(lambda: os.path.exists(again), "that is told")
    assert site.log("receiver").count("whether its gate is still open") == 1
    move.receiver.ask("exit")
    assert move.receiver.process.wait(10) == 0
    os.unlink(site.path("gate-vdi-d"))
    never(lambda: move.receiver.gate_opened("d"), "it is opened", 0.2)  # ten looks


def test_a_gate_that_was_not_opened_is_left_shut(site):
    move = Move(site)
    assert move.copy()["state"] == "done"
    never(
        lambda: move.receiver.gate_opened("d") or os.path.exists(site.path("opened-again")),
        "it is opened",
        0.2,  # ten looks
    )


def test_a_disk_that_was_mirrored_is_not_finished_as_unmirrored(site):
    move = Move(site)
    assert move.copy()["state"] == "done"
    guest = move.guest()
    guest.write([(0, b"a" * 512)])
    refused = move.mover.ask("finish", unmirrored=True)
    assert refused["ok"] is False and "mirroring" in refused["error"]
    guest.detach()
    move.await_state("ended")
    refused = move.mover.ask("finish", unmirrored=True)
    assert refused["ok"] is False and "attached 1 times" in refused["error"]


def test_one_request_of_40_mib_arrives_in_pieces(site):
    size = 48 * MIB
    image = site.image("destination", bytes(size))
    receiver = Receiver(site, {"d": (site.serve(image)[1], size)})
    mover = Mover(site, "d", size, receiver.address())
    mirror = attach(mover.secondary, size)
    data = pattern(9, 40 * MIB)
    mirror.write(512, data)
    mirror.disconnect()
    with open(image, "rb") as written:
        assert written.read() == bytes(512) + data + bytes(8 * MIB - 512)


def test_a_wrong_size_is_found_before_anything_else(site):
    path = site.serve(site.image("destination", bytes(SIZE)))[1]
    receiver = Receiver(site, {"d": (path, SIZE), "e": (path, SIZE + MIB)})
    assert (
        "8388608 bytes, not 4194304"
        in Mover(site, "d", 4 * MIB, receiver.address()).ask("status")["error"]
    )
    assert (
        "the destination's tapdisk has 8388608 bytes"
        in Mover(site, "e", SIZE + MIB, receiver.address()).ask("status")["error"]
    )


@pytest.mark.filterwarnings("ignore:ssl.OP_NO")
def test_the_front_door(site):
    path = site.serve(site.image("destination", bytes(SIZE)))[1]
    receiver = Receiver(site, {"d": (path, SIZE)})
    known = receiver.address()
    address = (known["address"], known["port"])

    def connect(role="control", **changes):
        values = dict(known, role=role, disk="d")
        values.update(changes)
        return channel.connect(timeout=60, **values)

    with pytest.raises(CertificateMismatch):
        connect(fingerprint="00" * 32)
    assert "wrong token" not in site.log("receiver")  # it was told nothing
    for changes, why in (
        ({"token": "guess"}, "wrong token"),
        ({"token": ""}, "wrong token"),
        ({"token": None}, "wrong token"),
        ({"role": "root"}, "unknown role"),
        ({"disk": "e"}, "unknown disk"),
        ({"disk": 5}, "unknown role"),
    ):
        with pytest.raises(PeerRefused) as refused:
            connect(**changes)
        assert why in str(refused.value)
    # Garbage instead of TLS, and garbage inside it.
    for garbage in (b"\0" * 5000, b"GET / HTTP/1.1\r\n\r\n", b"{" * 5000):
        with socket.create_connection(address, 5) as plain:
            plain.sendall(garbage)
            assert_closed(plain)
    for garbage in (
        b"[" * 4000 + b"\n",
        b"{" * 5000,
        b"\xff\xfe\n",
        b'{"token": [[[]]]}\n',
        b'{"version": 1}\n' * 2,
        b"7\n",
    ):
        with unverified_context().wrap_socket(socket.create_connection(address, 5)) as inside:
            inside.sendall(garbage)
            assert_closed(inside)
    # Nothing older than TLS 1.2.
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.options |= ssl.OP_NO_TLSv1_2 | getattr(ssl, "OP_NO_TLSv1_3", 0)
    with socket.create_connection(address, 5) as plain:
        with pytest.raises(OSError):
            old.wrap_socket(plain)
    tls, size = connect()
    assert size == SIZE
    # The token is good once per role and disk, also after the role has ended.
    with pytest.raises(PeerRefused) as refused:
        connect()
    assert "has been taken" in str(refused.value)
    tls.close()
    with pytest.raises(PeerRefused):
        connect()
    assert connect("mirror")[1] == SIZE
    assert receiver.token not in site.log("receiver")


def assert_closed(sock):
    sock.settimeout(60)
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except ssl.SSLError as error:
        assert "timed out" not in str(error)


def test_a_mover_with_the_wrong_secret_says_so(site):
    path = site.serve(site.image("destination", bytes(SIZE)))[1]
    receiver = Receiver(site, {"d": (path, SIZE)})
    for changes, why in (
        ({"token": "no"}, "SXM_PEER_REFUSED: wrong token"),
        ({"fingerprint": "11" * 32}, "SXM_CERTIFICATE_MISMATCH"),
        ({"port": 1}, "SXM_CONNECTION_LOST"),
    ):
        mover = Mover(site, "d", SIZE, dict(receiver.address(), **changes))
        status = mover.ask("status")
        assert status["state"] == "broken" and why in status["error"]
        eventually(lambda: not os.path.exists(mover.secondary), "its socket is gone")
        assert mover.ask("abort") == {"ok": True}
        assert mover.process.wait(60) == 0


def test_who_only_sits_at_the_door_keeps_no_mover_out(site):
    receiver = Receiver(site, {"d": (site.serve(site.image("destination", bytes(SIZE)))[1], SIZE)})
    address = (receiver.address()["address"], receiver.address()["port"])
    sitting = [socket.create_connection(address, 60) for _ in range(12)]
    mover = Mover(site, "d", SIZE, receiver.address())
    assert mover.ask("status")["state"] == "ready"
    for oldest in sitting[:4]:
        assert oldest.recv(1) == b"", "it was not sent away"
    for sock in sitting:
        sock.close()


def test_orphans_give_up_and_leave_the_gate_shut(site):
    path = site.serve(site.image("destination", bytes(SIZE)))[1]
    receiver = Receiver(site, {"d": (path, SIZE)}, orphan_bound=4.0)
    mover = Mover(site, "d", SIZE, receiver.address(), orphan_bound=3.0)
    mirror = attach(mover.secondary, SIZE)
    mirror.write(0, b"a" * 512)
    assert mover.process.wait(60) == 3
    with pytest.raises(ConnectionLost):  # tapdisk is told, and carries on alone
        mirror.write(0, b"b" * 512)
    assert receiver.process.wait(60) == 3
    assert not receiver.gate_opened("d") and not os.path.exists(site.path("receiver.ready"))


def test_abort_frees_the_guest(site):
    move = Move(site)
    guest = move.guest()
    move.mover.copy(move.snapshot_socket, [[0, SIZE]], SIZE)
    assert move.mover.ask("abort") == {"ok": True}
    guest.write([(0, b"a" * 512)])
    assert guest.longest < PATIENT / 2
    assert move.mover.process.wait(60) == 0
    assert move.receiver.ask("abort") == {"ok": True}
    assert move.receiver.process.wait(60) == 0
    assert not move.receiver.gate_opened("d")


def test_who_is_given_up_is_told_why_and_tells_of_no_lost_connection(site):
    """What an administrator reads of a cancel in the destination's log."""
    move = Move(site)
    guest = move.guest()
    move.mover.ask("limit", bandwidth=1024)
    move.mover.copy(move.snapshot_socket, [[0, SIZE]], SIZE)
    guest.write([(0, b"a" * 512)])
    assert move.mover.ask("abort", why="the migration is\ncancelled") == {"ok": True}
    assert move.mover.process.wait(60) == 0

    def over():
        roles = move.receiver.ask("status")["disks"]["d"]["roles"]
        return set(roles.values()) == {"broken"}

    eventually(over, "all roles are over")
    with open(site.path("receiver.log")) as log:
        told = log.read()
    assert "disk d: the source gives it up: the migration is cancelled\n" in told
    for role in ("mirror", "copy", "control"):
        assert "disk d: %s has been given up\n" % role in told
    assert "SXM_" not in told and "broken" not in told and "WARNING" not in told
    with open(site.path("d.log")) as log:
        told = log.read()
    assert "the copy is stopped: the migration is" in told and "WARNING" not in told
    assert not move.receiver.gate_opened("d")


def test_a_spec_that_others_can_read_is_refused(site):
    path = site.write_spec("open.json", {})
    os.chmod(path, 0o644)
    process = site.start([sys.executable, "-m", "storage_motion.source.mover", path])
    assert process.wait(60) == 1
    with open(site.path("stderr")) as errors:
        assert "is open to others" in errors.read()


def test_a_source_that_dies_ends_the_copy_and_not_the_guest(site):
    slow = site.path("slow.nbd")
    site.start(["nbdkit", "-f", "-U", slow, "--filter=delay", "memory", str(SIZE), "wdelay=300ms"])
    eventually(lambda: connectable(slow), "nbdkit listens")
    move = Move(site, destination_socket=slow)
    guest = move.guest()
    snapshot = site.image("short-lived", pattern(2, SIZE))
    server, path = site.serve(snapshot)
    move.mover.copy(path, [[0, SIZE]], SIZE)
    server.kill()
    copy = move.mover.await_copy()
    assert (
        copy["state"] == "failed"
        and "SXM_CONNECTION_LOST" in copy["error"]
        and copy["verified"] < SIZE
    )
    guest.write([(0, b"a" * 4096)])
    assert guest.mirror is not None
    guest.detach()
    move.await_state("ended")
    move.assert_never_handed_over("the copy is failed")


def test_a_snapshot_without_data_is_copied_at_once(site):
    move = Move(site)
    copy = move.copy(extents=())
    assert (copy["state"], copy["to_copy"]) == ("done", 0)
    assert move.mover.ask("finish", unmirrored=True) == {"ok": True}


@pytest.mark.parametrize(
    "size, extents",
    [
        (SIZE + 512, []),
        (SIZE, [[0, 100]]),
        (SIZE, [[512, SIZE]]),
        (SIZE, [[0, -512]]),
        (SIZE, [[0, 512], [0]]),
        (SIZE, [[0, 512], 7]),
        (SIZE, [["0", 512]]),
    ],
)
def test_extents_of_another_disk_are_refused(site, size, extents):
    path = site.image("extents", windows.listed({"size": size, "extents": extents}).encode())
    with pytest.raises(DataPathError):
        windows.read_extents(path, SIZE)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}\n", b'{"size": 8388608}\n[0', b"\xff"])
def test_what_lists_no_extents_is_refused(site, text):
    with pytest.raises(DataPathError):
        windows.read_extents(site.image("extents", text), SIZE)


def test_extents_are_read_as_they_were_listed(site):
    extents = [[0, 512], [4096, 8192], [SIZE - 512, 512]]
    path = site.image("extents", windows.listed({"size": SIZE, "extents": extents}).encode())
    assert list(windows.read_extents(path, SIZE)) == [
        (0, 1),
        (8, 24),
        (SIZE // 512 - 1, SIZE // 512),
    ]


def test_a_receiver_ends_well_although_its_files_have_gone_before(site):
    receiver = Move(site).receiver
    os.unlink(site.path("receiver.ready"))
    receiver.ask("exit")
    assert receiver.process.wait(10) == 0, site.log("receiver")
