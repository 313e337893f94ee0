# SPDX-License-Identifier: LGPL-2.1-only
"""Our NBD client and server against qemu's and nbdkit's, and against scripted peers that behave as
tapdisk does, or badly."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from data_harness import MIB, PYTHON_LIBS, REPOSITORY, Site, connectable, pattern
from storage_motion.errors import ConnectionLost, DataPathError, ProtocolError, RequestFailed
from storage_motion.wire import digest, nbd, nbd_client, nbd_server
from tests.eventually import eventually

SIZE = 4 * MIB


@pytest.fixture
def site():
    with Site() as site:
        yield site


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    yield ours, theirs
    ours.close()
    theirs.close()


def in_thread(function):
    """Run `function` beside the test; `join` to be sure it ended."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def received(sock, length):
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        assert part, "closed"
        data += part
    return data


# The client.


@pytest.mark.parametrize("server", ["qemu-nbd", "nbdkit newstyle", "nbdkit with zeroes"])
def test_reading_and_writing(site, server):
    image = site.image("disk", pattern(1, SIZE))
    path = site.path("socket")
    arguments = {
        "qemu-nbd": [
            "qemu-nbd",
            "-t",
            "-e",
            "4",
            "-f",
            "raw",
            "-x",
            nbd_client.EXPORT_NAME,
            "-k",
            path,
            image,
        ],
        "nbdkit newstyle": ["nbdkit", "-f", "-U", path, "file", image],
        "nbdkit with zeroes": ["nbdkit", "-f", "--mask-handshake=1", "-U", path, "file", image],
    }[server]
    site.start(arguments)
    eventually(lambda: connectable(path), "the server listens")
    client = nbd_client.connect(path)
    assert client.size == SIZE
    assert client.read(512, 4096) == pattern(1, SIZE)[512:4608]
    client.write(512, b"z" * 1024)
    for number in range(client.depth):
        client.start_read(number * 512, 512, tag=number)
    assert client.full and client.in_flight == nbd_client.DEPTH == 8
    with pytest.raises(ValueError):
        client.start_read(0, 512)
    answers = dict(client.reap() for _ in range(client.depth))
    assert [bytes(answers[number]) for number in (1, 2)] == [b"z" * 512] * 2
    assert bytes(answers[3]) == pattern(1, SIZE)[1536:2048]
    for name in digest.ALGORITHMS:
        assert digest.of_disk(name, client, [[0, SIZE]]) == digest.of_buffers(
            name, [client.read(0, SIZE)]
        )
        parts = digest.of_disk(name, client, [[0, 512], [MIB, 2 * MIB]])
        assert parts == digest.of_buffers(name, [client.read(0, 512), client.read(MIB, 2 * MIB)])
        each = digest.of_parts(name, client, [[[512, 512], [4096, 512]], [[MIB, 512]]])
        assert each == [
            digest.of_buffers(name, [client.read(512, 512), client.read(4096, 512)]),
            digest.of_buffers(name, [client.read(MIB, 512)]),
        ]
    client.disconnect()


@pytest.mark.parametrize(
    "offset, length, number",
    [
        (1, 512, errno.EINVAL),
        (0, 100, errno.EINVAL),
        (0, 0, errno.EINVAL),
        (0, nbd.MAX_REQUEST + 512, errno.EINVAL),
        (SIZE, 512, errno.ENOSPC),
    ],
)
def test_what_would_harm_tapdisk_is_not_sent(pair, offset, length, number):
    client = nbd_client.Client(pair[0], SIZE)
    with pytest.raises(RequestFailed) as failed:
        client.start_read(offset, length)
    assert failed.value.errno == number
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)


def test_errors_of_tapdisk_are_negative(pair):
    client = nbd_client.Client(pair[0], SIZE)
    client.start_write(0, b"a" * 512, tag="mine")
    pair[1].sendall(nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 4294967274, 1))
    with pytest.raises(RequestFailed) as failed:
        client.reap()
    assert (failed.value.errno, failed.value.tag) == (errno.EINVAL, "mine")
    assert client.in_flight == 0


def test_requests_carry_no_flags_and_a_fresh_greeting_is_no_confirmation_of_the_goodbye(pair):
    client = nbd_client.Client(pair[0], SIZE)
    client.start_write(512, b"a" * 512)
    assert received(pair[1], 28 + 512)[:28] == nbd.REQUEST.pack(
        nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 1, 512, 512
    )
    pair[1].sendall(
        nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, 1)
        + nbd.GREETING.pack(nbd.MAGIC, nbd.OPTION_MAGIC, 3)
    )
    client.reap()
    with pytest.raises(ConnectionLost):
        client.disconnect()
    assert received(pair[1], 28) == nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_DISC, 0, 0, 0)


@pytest.mark.parametrize(
    "said, error",
    [
        (nbd.SIMPLE_REPLY.pack(0x668E33EF, 0, 1), ProtocolError),
        (nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, 2), ProtocolError),
        (nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, 1) + b"half", ConnectionLost),
        (b"", ConnectionLost),
    ],
    ids=["structured", "another handle", "half the data", "nothing"],
)
def test_a_server_that_answers_badly(pair, said, error):
    client = nbd_client.Client(pair[0], SIZE)
    client.start_read(0, 512)
    pair[1].sendall(said)
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(error):
        client.reap()


def test_a_server_that_is_silent(pair):
    client = nbd_client.Client(pair[0], SIZE, timeout=0.2)
    client.start_read(0, 512)
    began = time.monotonic()
    with pytest.raises(ConnectionLost):
        client.reap()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "greeting",
    [
        b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0",
        b"HTTP/1.1 400 no\r\n\r\n",
        nbd.GREETING.pack(nbd.MAGIC, nbd.OPTION_MAGIC, 0),
    ],
    ids=["oldstyle", "http", "not fixed"],
)
def test_greetings_that_are_refused(pair, greeting):
    pair[1].sendall(greeting)
    with pytest.raises(ProtocolError):
        nbd_client.handshake(pair[0], "x", time.monotonic() + 60)


@pytest.mark.parametrize("flags, padding", [(3, 0), (1, 124)])
def test_a_server_that_does_not_know_opt_go(pair, flags, padding):
    def serve():
        pair[1].sendall(nbd.GREETING.pack(nbd.MAGIC, nbd.OPTION_MAGIC, flags))
        received(pair[1], 4 + 16 + 4 + 4 + 2)
        pair[1].sendall(
            nbd.OPTION_REPLY.pack(nbd.OPTION_REPLY_MAGIC, nbd.OPT_GO, nbd.REP_ERR_UNSUP, 0)
        )
        received(pair[1], 16 + 4)
        pair[1].sendall(nbd.EXPORT.pack(SIZE, nbd.FLAG_HAS_FLAGS) + bytes(padding) + b"next")

    thread = in_thread(serve)
    assert nbd_client.handshake(pair[0], "name", time.monotonic() + 60) == SIZE
    assert received(pair[0], 4) == b"next"
    thread.join(60)


def test_the_digests_differ_and_only_known_ones_are_made():
    assert digest.fastest() in digest.ALGORITHMS
    assert len({digest.of_buffers(name, [b"a"]) for name in digest.ALGORITHMS}) == len(
        digest.ALGORITHMS
    )
    for name in ("md5", None, ["sha256"]):
        with pytest.raises(ProtocolError):
            digest.new(name)


def test_nobody_there(site):
    with pytest.raises(ConnectionLost):
        nbd_client.connect(site.path("nothing"))


HOLDER = """
import sys, threading
from storage_motion.wire import nbd_client
with nbd_client._turn(sys.argv[1], 0):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_one_handshake_at_a_time_with_one_server_on_the_whole_host(site):
    _, server = site.serve(site.image("image", bytes(SIZE)))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, server],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=REPOSITORY + os.pathsep + PYTHON_LIBS),
    )
    try:
        assert holder.stdout.readline() == b"mine\n"
        with pytest.raises(ConnectionLost, match="in a handshake"):
            nbd_client.connect(server, timeout=0.1)
        with pytest.raises(ConnectionLost, match="No such file"):
            nbd_client.connect(site.path("another"), timeout=0.1)
        holder.kill()  # whoever is gone has no turn
        nbd_client.connect(server).close()
    finally:
        holder.kill()
        holder.wait(60)
        holder.stdin.close()
        holder.stdout.close()


# The server.


def served(theirs, size=SIZE):
    """Serve a handshake beside the test: a list to which its outcome, None or an error, will be
    appended; and the thread."""
    outcome = []

    def serve():
        try:
            outcome.append(nbd_server.handshake(theirs, size, time.monotonic() + 60))
        except DataPathError as error:
            outcome.append(error)
            theirs.close()

    return outcome, in_thread(serve)


def option(number, data=b""):
    return nbd.OPTION.pack(nbd.OPTION_MAGIC, number, len(data)) + data


def test_our_client_and_our_server(pair):
    outcome, thread = served(pair[1])
    assert nbd_client.handshake(pair[0], "anything", time.monotonic() + 60) == SIZE
    thread.join(60)
    assert outcome == [None]


@pytest.mark.parametrize("flags, padding", [(3, 0), (1, 124)])
def test_export_name_as_tapdisk_sends_it(pair, flags, padding):
    outcome, thread = served(pair[1])
    assert received(pair[0], 18) == nbd.GREETING.pack(nbd.MAGIC, nbd.OPTION_MAGIC, 3)
    pair[0].sendall(nbd.CLIENT_FLAGS.pack(flags) + option(nbd.OPT_EXPORT_NAME, b"tapdisk_client\0"))
    assert received(pair[0], 10 + padding) == nbd.EXPORT.pack(SIZE, nbd.FLAG_HAS_FLAGS) + bytes(
        padding
    )
    thread.join(60)
    assert outcome == [None]


@pytest.mark.parametrize(
    "said",
    [
        nbd.CLIENT_FLAGS.pack(4),
        nbd.CLIENT_FLAGS.pack(3) + b"x" * 16,
        nbd.CLIENT_FLAGS.pack(3) + nbd.OPTION.pack(nbd.OPTION_MAGIC, 1, 1 << 31),
        nbd.CLIENT_FLAGS.pack(3) + option(nbd.OPT_LIST) * 40,
        nbd.CLIENT_FLAGS.pack(3) + option(nbd.OPT_ABORT),
        nbd.CLIENT_FLAGS.pack(3) + option(nbd.OPT_GO, b"\xff" * 6) * 40,
        nbd.CLIENT_FLAGS.pack(3) + b"x",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["flags", "magic", "huge option", "many options", "abort", "lying length", "half", "http"],
)
def test_handshakes_that_come_to_nothing(pair, said):
    outcome, thread = served(pair[1])
    pair[0].sendall(said)
    pair[0].shutdown(socket.SHUT_WR)
    thread.join(60)
    assert len(outcome) == 1 and isinstance(outcome[0], DataPathError)


def test_a_client_that_dawdles_is_dropped_by_the_deadline(pair):
    with pytest.raises(ConnectionLost):
        nbd_server.handshake(pair[1], SIZE, time.monotonic() + 0.2)


def test_qemu_can_be_the_client(site):
    """What qemu 7.2 asks: OPT_STRUCTURED_REPLY, which we do not know, then OPT_GO; it takes our
    block sizes."""
    path = site.path("socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    requests = []

    def serve():
        sock, _ = listener.accept()
        nbd_server.handshake(sock, SIZE, time.monotonic() + 60)
        sock.setblocking(False)
        reader = nbd_server.RequestReader(sock)
        while not requests or requests[-1].command != nbd.CMD_DISC:
            for request in eventually(reader.read, "a request"):
                requests.append(request)
                if request.command != nbd.CMD_DISC:
                    sock.sendall(nbd_server.simple_reply(request.handle))
        sock.close()

    thread = in_thread(serve)
    output = subprocess.check_output(
        [
            "qemu-io",
            "-f",
            "raw",
            "-c",
            "write -P 7 1024 1536",
            "-c",
            "write -P 8 0 64k",
            "nbd+unix:///any?socket=" + path,
        ],
        timeout=30,
    )
    thread.join(60)
    listener.close()
    assert b"wrote 1536/1536" in output
    assert [(r.command, r.flags, r.offset, r.length) for r in requests[:2]] == [
        (nbd.CMD_WRITE, 0, 1024, 1536),
        (nbd.CMD_WRITE, 0, 0, 65536),
    ]
    assert bytes(requests[0].payload) == b"\7" * 1536


WRITE = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 5, 512, 1024) + b"d" * 1024


def test_requests_arrive_whole_however_they_are_cut(pair):
    ours, theirs = pair
    theirs.setblocking(False)
    reader = nbd_server.RequestReader(theirs)
    assert reader.read() is None and not reader.partial
    for position in range(len(WRITE) - 1):
        ours.sendall(WRITE[position : position + 1])
        assert reader.read() == [] and reader.partial
    ours.sendall(WRITE[-1:] + nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_READ, 6, 0, 512))
    ours.sendall(WRITE[:3])
    first, second = reader.read()
    assert (first.handle, bytes(first.payload)) == (5, b"d" * 1024)
    first.rename(99)
    assert first.handle == 99 and (
        bytes(first.message)
        == nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 99, 512, 1024) + b"d" * 1024
    )
    assert (second.command, second.handle) == (nbd.CMD_READ, 6)
    assert reader.read() is None and reader.partial
    ours.close()
    with pytest.raises(ConnectionLost):
        reader.read()


def test_what_is_longer_than_a_buffer_arrives_and_what_follows_it_too(pair):
    ours, theirs = pair
    theirs.setblocking(False)
    reader = nbd_server.RequestReader(theirs, portion=1100)
    long = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 7, 0, 4096) + b"l" * 4096
    sent = WRITE + long + WRITE + WRITE
    ours.sendall(sent)
    taken = []
    while sum(len(request.message) for request in taken) < len(sent):
        taken += reader.read()
    assert b"".join(request.message for request in taken) == sent
    assert [request.handle for request in taken] == [5, 7, 5, 5] and not reader.partial


def test_a_buffer_that_was_given_back_is_used_again_and_none_that_was_not(pair):
    ours, theirs = pair
    theirs.setblocking(False)
    reader = nbd_server.RequestReader(theirs)
    buffers = []
    for given_back in (False, False, True, True):
        ours.sendall(WRITE)
        (request,) = reader.read()
        buffers.append(request.buffer)
        if given_back:
            reader.give_back(request.buffer)
    ours.sendall(WRITE)
    (request,) = reader.read()
    assert len({id(buffer) for buffer in buffers}) == 4 and request.buffer is buffers[2]


def test_what_lies_behind_one_another_goes_as_one_run(pair):
    ours, theirs = pair
    theirs.setblocking(False)
    reader = nbd_server.RequestReader(theirs)
    ours.sendall(WRITE * 5)
    requests = reader.read()
    assert [len(run) for run in nbd_server.runs(requests)] == [5 * len(WRITE)]
    del requests[2]
    assert [len(run) for run in nbd_server.runs(requests)] == [2 * len(WRITE)] * 2
    assert list(nbd_server.runs([])) == []


@pytest.mark.parametrize(
    "header",
    [
        nbd.REQUEST.pack(0, 0, 1, 1, 0, 512),
        nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 1, 0, nbd.MAX_REQUEST + 1),
    ],
    ids=["magic", "huge"],
)
def test_requests_that_are_none(pair, header):
    pair[1].setblocking(False)
    pair[0].sendall(header)
    with pytest.raises(ProtocolError):
        nbd_server.RequestReader(pair[1]).read()


def test_the_one_error_that_has_no_number(pair):
    """1 << 31, as a hostile server may answer: not even strerror takes it."""
    client = nbd_client.Client(pair[0], SIZE)
    client.start_write(0, b"a" * 512)
    pair[1].sendall(nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 1 << 31, 1))
    with pytest.raises(RequestFailed) as failed:
        client.reap()
    assert failed.value.errno == 1 << 31 and "no error of this system" in str(failed.value)
