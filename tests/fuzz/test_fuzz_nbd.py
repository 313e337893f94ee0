# SPDX-License-Identifier: LGPL-2.1-only
"""NBD from a peer that may say anything: as its server, as its client, between the two, and in the
mirror."""

import os
import socket
import struct
import tempfile
import threading
import time

from hypothesis import given, strategies as st

import fuzz_bounds
from fuzz_bounds import EACH
from storage_motion.destination.copy_role import CopyRole
from storage_motion.destination.mirror_role import MirrorRole
from storage_motion.errors import ConnectionLost, DataPathError, RequestFailed
from storage_motion.source import merge
from storage_motion.source.mirror import Mirror
from storage_motion.source.mirrored_writes import MirroredWrites
from storage_motion.wire import nbd, nbd_client, nbd_server, stream

SIZE = 1 << 20
# bytes of hostile input: fits a socket's buffer, so that the peer need not be a thread
BUFFERS = 16 << 10
BOUND = 2.0  # seconds
# one request is taken whole, and may be that long
WRITE_MEMORY = nbd.MAX_REQUEST + fuzz_bounds.MEMORY_BOUND

U16 = st.one_of(st.integers(0, 8), st.sampled_from([0x7FFF, 0xFFFF]))
U32 = st.one_of(
    st.integers(0, 1024),
    st.sampled_from(
        [
            511,
            512,
            4096,
            65536,
            65537,
            1 << 20,
            (1 << 26) - 1,
            1 << 26,
            (1 << 26) + 1,
            (1 << 31) - 1,
            1 << 31,
            (1 << 31) + 1,
            4294967274,
            (1 << 32) - 1,
        ]
    ),
)
U64 = st.one_of(
    st.integers(0, 8),
    st.sampled_from([512, SIZE - 512, SIZE, SIZE + 512, 1 << 63, (1 << 64) - 512, (1 << 64) - 1]),
)
TAIL = st.binary(max_size=40)


def mostly(value, other):
    """`value` most of the time, so that a parser gets on to what follows."""
    return st.one_of(st.just(value), st.just(value), st.just(value), other)


def packed(layout, *fields):
    return st.tuples(*fields).map(lambda values: layout.pack(*values))


def joined(parts, most):
    return st.lists(parts, max_size=most).map(lambda found: b"".join(found)[:BUFFERS])


OPTION_DATA = st.one_of(
    TAIL,
    st.tuples(U32, TAIL, U16, TAIL).map(
        lambda made: struct.pack(">I", made[0]) + made[1] + struct.pack(">H", made[2]) + made[3]
    ),
    st.binary(max_size=12).map(
        lambda name: struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, 3)
    ),
)
OPTIONS = st.tuples(
    mostly(nbd.OPTION_MAGIC, U64),
    st.one_of(st.sampled_from([1, 2, 3, 5, 6, 7, 8]), U32),
    OPTION_DATA,
    mostly(None, U32),
).map(
    lambda made: (
        nbd.OPTION.pack(made[0], made[1], len(made[2]) if made[3] is None else made[3]) + made[2]
    )
)
REQUESTS = st.tuples(
    mostly(nbd.REQUEST_MAGIC, U32),
    mostly(0, U16),
    st.one_of(st.sampled_from([nbd.CMD_WRITE, nbd.CMD_WRITE_ZEROES, nbd.CMD_REQUIRE_ZEROES]), U16),
    U64,
    U64,
    mostly(512, U32),
    mostly(None, TAIL),
).map(
    lambda made: (
        nbd.REQUEST.pack(*made[:6]) + (bytes(min(made[5], 2048)) if made[6] is None else made[6])
    )
)
REPLIES = packed(
    nbd.SIMPLE_REPLY,
    mostly(nbd.SIMPLE_REPLY_MAGIC, U32),
    mostly(0, U32),
    st.one_of(st.integers(0, 10), U64),
)


def said(data):
    """A socket at whose other end a peer has said `data` and closed its half: (ours, theirs)."""
    ours, theirs = socket.socketpair()
    theirs.sendall(data)
    theirs.shutdown(socket.SHUT_WR)
    return ours, theirs


@fuzz_bounds.inputs("NBD server", 2, EACH)
@given(
    st.one_of(st.binary(max_size=200), joined(OPTIONS, 40).map(struct.pack(">I", 3).__add__)),
    joined(REQUESTS, 6),
)
def test_server(handshake, requests):
    for data in fuzz_bounds.variants(handshake + requests):
        serve(data)


def serve(data):
    ours, theirs = said(data)
    try:
        with fuzz_bounds.bounded("NBD server", WRITE_MEMORY):
            try:
                nbd_server.handshake(ours, SIZE, time.monotonic() + BOUND)
            except DataPathError:
                pass
        assert ours.fileno() >= 0, "closed under its owner"
    finally:
        ours.close()
        theirs.close()


@fuzz_bounds.inputs("NBD server", 2, EACH)
@given(st.one_of(joined(REQUESTS, 8), st.binary(max_size=200)))
def test_requests_are_whole_or_none(example):
    for data in fuzz_bounds.variants(example):
        take_requests(data)


def take_requests(data):
    ours, theirs = said(data)
    ours.setblocking(False)
    reader, taken = nbd_server.RequestReader(ours), b""
    try:
        with fuzz_bounds.bounded("NBD server", WRITE_MEMORY):
            try:
                for requests in iter(reader.read, None):
                    taken += b"".join(request.message for request in requests)
            except DataPathError:
                pass
        assert data.startswith(taken)
    finally:
        ours.close()
        theirs.close()


class Tapdisk(threading.Thread):
    """The destination's: takes whole, lawful requests of `kind`, and answers them; what it reads
    are zeros. `wrong`: what it got that would harm a real one."""

    def __init__(self, sock, kind):
        super().__init__(daemon=True)
        self.sock = sock
        self.kind = kind
        self.wrong = []
        self.start()

    def run(self):
        try:
            while True:
                header = stream.receive_steadily(self.sock, nbd.REQUEST.size)
                magic, flags, command, handle, offset, length = nbd.REQUEST.unpack(header)
                if (magic, flags, command) != (
                    nbd.REQUEST_MAGIC,
                    0,
                    self.kind,
                ) or nbd.request_fault(offset, length, SIZE):
                    self.wrong.append((magic, flags, command, offset, length))
                    return
                reads = command == nbd.CMD_READ
                stream.receive_steadily(self.sock, 0 if reads else length)
                self.sock.sendall(nbd_server.simple_reply(handle) + bytes(length) * reads)
        except (ConnectionLost, OSError) as error:
            if "in time" in str(error):  # half a request, and no end: any other end is one
                self.wrong.append(error)
        finally:
            self.sock.close()


@fuzz_bounds.inputs("roles", 1, EACH)
@given(
    st.sampled_from(["mirror", "copy"]),
    st.one_of(joined(REQUESTS, 10), st.binary(max_size=100)),
    st.booleans(),
)
def test_roles(role, example, goodbye):
    for data in fuzz_bounds.variants(example):
        serve_role(
            role, data + nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_DISC, 0, 0, 0) * goodbye
        )


def serve_role(role, data):
    ours, mover = said(data)
    clients, tapdisks = [], []
    for kind in (nbd.CMD_WRITE, nbd.CMD_READ):
        near, far = socket.socketpair()
        far.settimeout(BOUND)
        tapdisks.append(Tapdisk(far, kind))
        clients.append(nbd_client.Client(near, SIZE, timeout=BOUND))
    try:
        with fuzz_bounds.bounded("roles", WRITE_MEMORY):
            try:
                if role == "mirror":
                    MirrorRole(ours, clients[0]).run()
                else:
                    CopyRole(ours, *clients).run()
            except DataPathError:
                pass
    finally:
        for sock in clients + [ours, mover]:
            sock.close()
        for tapdisk in tapdisks:
            tapdisk.join(BOUND)
    for tapdisk in tapdisks:
        assert not tapdisk.wrong and not tapdisk.is_alive()


GREETING = packed(
    nbd.GREETING,
    mostly(nbd.MAGIC, U64),
    mostly(nbd.OPTION_MAGIC, U64),
    st.one_of(st.just(1), st.just(3), U16),
)
ANSWERS = st.tuples(
    mostly(nbd.OPTION_REPLY_MAGIC, U64),
    mostly(nbd.OPT_GO, U32),
    st.one_of(st.sampled_from([1, 3, nbd.REP_ERR_UNSUP, nbd.REP_ERR_INVALID]), U32),
    st.one_of(TAIL, packed(nbd.INFO_EXPORT_DATA, mostly(0, U16), U64, U16)),
    mostly(None, U32),
).map(
    lambda made: (
        nbd.OPTION_REPLY.pack(
            made[0], made[1], made[2], len(made[3]) if made[4] is None else made[4]
        )
        + made[3]
    )
)


@fuzz_bounds.inputs("NBD client", 2, EACH)
@given(GREETING, joined(st.one_of(ANSWERS, packed(nbd.EXPORT, U64, U16), TAIL), 5))
def test_client_handshake(greeting, answers):
    for data in fuzz_bounds.variants(greeting + answers):
        negotiate(data)


def negotiate(data):
    ours, theirs = said(data)
    try:
        with fuzz_bounds.bounded("NBD client"):
            try:
                assert 0 <= nbd_client.handshake(ours, "x", time.monotonic() + BOUND) < 1 << 64
            except DataPathError:
                pass
    finally:
        ours.close()
        theirs.close()


@fuzz_bounds.inputs("NBD client", 2, EACH)
@given(
    st.lists(st.booleans(), min_size=1, max_size=nbd_client.DEPTH),
    joined(st.one_of(REPLIES, REPLIES, TAIL), 10),
)
def test_client(reads, example):
    for replies in fuzz_bounds.variants(example):
        ask(reads, replies)


def ask(reads, replies):
    ours, theirs = said(replies)
    client = nbd_client.Client(ours, SIZE, timeout=BOUND)
    try:
        with fuzz_bounds.bounded("NBD client"):
            for number, read in enumerate(reads):
                if read:
                    client.start_read(number * 512, 512, tag=number)
                else:
                    client.start_write(number * 512, bytes(512), tag=number)
            answered = set()
            try:
                while client.in_flight:
                    try:
                        tag, data = client.reap()
                        assert (data is not None) == reads[tag] and len(data or bytes(512)) == 512
                    except RequestFailed as error:
                        tag = error.tag
                    assert tag not in answered
                    answered.add(tag)
            except DataPathError:
                pass
    finally:
        client.close()
        theirs.close()


def guest_writes(path, count):
    """As tapdisk does at the guest's writes: attaches, sends, and reads the answers. The handles
    answered; fails for an error."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(BOUND)
    answered = []
    try:
        sock.connect(path)
        nbd_client.handshake(sock, "tapdisk_client", time.monotonic() + BOUND)
        for handle in range(count):
            sock.sendall(
                nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, handle, handle * 512, 512)
                + bytes(512)
            )
        while len(answered) < count:
            magic, error, handle = nbd.SIMPLE_REPLY.unpack(
                stream.receive_steadily(sock, nbd.SIMPLE_REPLY.size)
            )
            assert (magic, error) == (nbd.SIMPLE_REPLY_MAGIC, 0) and handle not in answered, (
                "the guest has seen it"
            )
            answered.append(handle)
    except (ConnectionLost, OSError) as error:
        assert "in time" not in str(error), "the guest's write hung"
    finally:
        sock.close()
    return answered


@fuzz_bounds.inputs("mirror")
@given(st.integers(1, 6), st.one_of(joined(REPLIES, 8), st.binary(max_size=60)), st.booleans())
def test_mirror_with_a_receiver_that_says_anything(count, replies, closes):
    tls, receiver = socket.socketpair()
    with tempfile.TemporaryDirectory(prefix="sxm-fuzz-", dir="/dev/shm") as directory:
        path = os.path.join(directory, "s")
        writes = MirroredWrites(merge.Merge(SIZE // nbd.SECTOR), SIZE, 300)
        mirror = Mirror(path, tls, SIZE, writes, 0.3)
        mirror.start()
        guest = threading.Thread(
            target=lambda: answered.extend(guest_writes(path, count)), daemon=True
        )
        answered = []
        try:
            with fuzz_bounds.bounded(
                "mirror", 2 * fuzz_bounds.MEMORY_BOUND, ("socket.connect", "os.remove")
            ):
                guest.start()
                for _ in range(count):
                    stream.receive_exactly(
                        receiver, nbd.REQUEST.size + 512, time.monotonic() + BOUND
                    )
                receiver.sendall(replies)
                if closes:
                    receiver.shutdown(socket.SHUT_WR)
                guest.join(BOUND)
                assert not guest.is_alive()
                status = mirror.status()
                assert (
                    status["state"] == "broken"
                    or status["mirrored_writes"] == len(answered) == count
                )
        finally:
            mirror.close()
            receiver.close()
