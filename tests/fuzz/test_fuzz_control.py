# SPDX-License-Identifier: LGPL-2.1-only
"""What the other side says outside of NBD: lines, hello, TLS, the control role and its answers, the
control socket."""

import json
import os
import re
import socket
import tempfile
import time

import pytest
from hypothesis import given, strategies as st

import fuzz_bounds
from fuzz_bounds import EACH
from storage_motion.destination.received_disk import ReceivedDisk
from storage_motion.errors import (
    ConnectionLost,
    DataPathError,
    NotFinished,
    PeerRefused,
    ProtocolError,
)
from storage_motion.wire import channel, control_link, control_socket, json_lines

SIZE = 1 << 20
BOUND = 2.0  # seconds
BUSY = 30.0  # for what another thread of ours has to do on a machine that is busy with much else
TOKEN = "f00d" * 16
WORDS = st.sampled_from(
    [
        "cmd",
        "ok",
        "error",
        "size",
        "token",
        "version",
        "role",
        "disk",
        "ranges",
        "algorithm",
        "unmirrored",
        "digest",
        "digests",
        "parts",
        "finish",
        "heartbeat",
        "abort",
        "status",
        "mirror",
        "copy",
        "control",
        "blake2b",
        "sha256",
        TOKEN,
        "key",
        "",
    ]
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-1, 3),
        st.sampled_from([512, SIZE, 1 << 63, 1 << 64, -512]),
        st.floats(),
        WORDS,
        st.text(max_size=6),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)
DEEP = st.integers(900, 30000).map(
    lambda depth: b'{"ok": false, "cmd": "digest", "error": ' + b"[" * depth + b"]" * depth + b"}\n"
)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=5).map(
    lambda message: json.dumps(message).encode() + b"\n"
)
LINES = st.one_of(
    OBJECTS,
    OBJECTS,
    JSON.map(lambda value: json.dumps(value).encode() + b"\n"),
    st.binary(max_size=60),
    DEEP,
    st.sampled_from(
        [
            b"\n",
            b"{}\n",
            b"\xff\n",
            b"[" * 60000 + b"\n",
            b"x" * 70000,
            b'{"ok": ' + b"9" * 60000 + b"}\n",
            b'{"a": NaN}\n',
        ]
    ),
)


def said(data):
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    theirs.sendall(data)
    theirs.shutdown(socket.SHUT_WR)
    return ours, theirs


def close(*socks):
    for sock in socks:
        sock.close()


@fuzz_bounds.inputs("JSON lines", 1, EACH)
@given(st.lists(LINES, max_size=4).map(b"".join), st.lists(st.integers(1, 70000), max_size=5))
def test_lines(example, cuts):
    for data in fuzz_bounds.variants(example):
        read_lines(data, cuts)


def read_lines(data, cuts):
    lines = json_lines.LineBuffer()
    with fuzz_bounds.bounded("JSON lines"):
        try:
            for cut in cuts + [len(data)]:
                lines.feed(data[:cut])
                data = data[cut:]
                for message in iter(lines.next, None):
                    assert isinstance(message, dict)
        except ProtocolError:
            pass


@pytest.fixture(scope="module")
def in_the_clear():
    """The channel without its TLS, which would take a thousand times as long as what is meant
    here."""
    patch = pytest.MonkeyPatch()
    patch.setattr(channel, "_negotiated", lambda sock, *_: sock)
    yield
    patch.undo()


HELLO = {"version": channel.VERSION, "token": TOKEN, "role": "mirror", "disk": "key"}


@fuzz_bounds.inputs("hello", 1, EACH)
@given(
    st.one_of(
        LINES,
        st.dictionaries(st.sampled_from(sorted(HELLO)), JSON, max_size=2).map(
            lambda changes: json.dumps(dict(HELLO, **changes)).encode() + b"\n"
        ),
    ),
    st.sampled_from([b"", b"", b"x"]),
)
def test_hello(in_the_clear, example, more):
    for hello in fuzz_bounds.variants(example):
        meet(hello, more)


def meet(hello, more):
    ours, theirs = said(hello + more)
    try:
        with fuzz_bounds.bounded("hello"):
            try:
                _, role, disk = channel.accept(ours, channel.Certificate(None, ""), TOKEN, BOUND)
                line, _, rest = (hello + more).partition(b"\n")
                message = json.loads(line.decode())
                assert (message["token"], message["version"], rest) == (
                    TOKEN,
                    channel.VERSION,
                    b"",
                ) and len(line) <= channel.MAX_HELLO
                assert role in channel.ROLES and isinstance(disk, str)
            except DataPathError:
                pass
    finally:
        close(ours, theirs)


@pytest.fixture(scope="module")
def certificate():
    with tempfile.TemporaryDirectory(prefix="sxm-fuzz-", dir="/dev/shm") as directory:
        yield channel.make_certificate(directory)


@fuzz_bounds.inputs("TLS")
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(
            lambda rest: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rest
        ),
        LINES,
    )
)
def test_no_tls(certificate, data):
    near = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(near.getsockname())
    ours, _ = near.accept()
    try:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        with fuzz_bounds.bounded("TLS"):
            with pytest.raises(DataPathError):
                channel.accept(ours, certificate, TOKEN, BOUND)
    finally:
        close(near, theirs, ours)


@fuzz_bounds.inputs("welcome", 1, EACH)
@given(
    st.one_of(
        LINES,
        st.dictionaries(st.sampled_from(["ok", "size", "error"]), JSON).map(
            lambda message: json.dumps(message).encode() + b"\n"
        ),
    )
)
def test_what_a_receiver_answers(in_the_clear, example):
    for answer in fuzz_bounds.variants(example):
        be_answered(answer)


def be_answered(answer):
    ours, theirs = said(answer)
    try:
        with fuzz_bounds.bounded("welcome"):
            try:
                assert channel.greet(ours, TOKEN, "copy", "key", time.monotonic() + BOUND) > 0
            except DataPathError as error:
                assert len(str(error)) < 4096
    finally:
        close(ours, theirs)


class Reading:
    """The nbd_client.Client of a disk of zeros."""

    full = False
    size = SIZE

    def __init__(self):
        self.asked = []

    def start_read(self, offset, length, tag):
        assert (
            0 <= offset
            and 0 < length
            and offset + length <= SIZE
            and offset % 512 == length % 512 == 0
        )
        self.asked.append((tag, length))

    def reap(self):
        tag, length = self.asked.pop(0)
        return tag, bytes(length)

    def close(self):
        pass


class Gates(object):
    """Those of one disk. `told`: what they were told, in order."""

    def __init__(self):
        self.told = []

    def open(self, sr, vdi):
        self.told.append("open")

    def stand_by(self, sr, vdi):
        self.told.append("stand by")

    def stand_down(self, vdi):
        self.told.append("stand down")


class Disk(ReceivedDisk):
    def __init__(self):
        self.gates = Gates()
        spec = {
            "size": SIZE,
            "sr": "sr",
            "vdi": "vdi",
            "socket": "/nowhere",
            "depth": 6,
            "blank": True,
        }
        super().__init__("key", spec, self.gates)

    def connect(self):
        return Reading()


RANGES = st.lists(
    st.lists(st.sampled_from([0, 512, 4096, 1 << 20, -512, 1, SIZE]), max_size=3), max_size=3
)
COMMANDS = st.one_of(
    LINES,
    st.fixed_dictionaries(
        {
            "cmd": st.just("digest"),
            "algorithm": st.sampled_from(["blake2b", "sha256", "md5"]),
            "ranges": RANGES,
        }
    ).map(lambda message: json.dumps(message).encode() + b"\n"),
    st.fixed_dictionaries(
        {
            "cmd": st.just("digests"),
            "algorithm": st.sampled_from(["blake2b", "sha256", "md5"]),
            "parts": st.lists(RANGES, max_size=3),
        }
    ).map(lambda message: json.dumps(message).encode() + b"\n"),
    st.just(b'{"cmd": "finish", "unmirrored": true}\n'),
    st.just(b'{"cmd": "stand-by"}\n'),
)


@fuzz_bounds.inputs("control role", 1, EACH)
@given(
    st.lists(COMMANDS, max_size=4).map(b"".join),
    st.sampled_from(["unused", "open", "broken"]),
    st.sampled_from(["unused", "open", "ended", "broken"]),
)
def test_control_role(example, mirror, copied):
    for data in fuzz_bounds.variants(example):
        control(data, mirror, copied)


def control(data, mirror, copied):
    disk = Disk()
    disk.roles.update(mirror=mirror, copy=copied, control="open")
    ours, theirs = said(data)
    try:
        with fuzz_bounds.bounded("control role"):
            disk.control(json_lines.JsonLines(ours), lambda: None)
        lawful = (
            mirror == "unused"
            and copied == "ended"
            and re.search(rb'"cmd": *"finish"', data)
            and re.search(rb'"unmirrored": *true', data)
        )
        assert "open" not in disk.gates.told or lawful, "a gate has been opened"
        assert disk.gates.told[-1] == "stand down", "something stands by for nobody"
        assert disk.roles["control"] in ("ended", "broken")
    finally:
        close(ours, theirs)


@pytest.fixture(scope="module")
def served():
    def refuse(_):
        raise NotFinished("no")

    with tempfile.TemporaryDirectory(prefix="sxm-fuzz-", dir="/dev/shm") as directory:
        path = os.path.join(directory, "c")
        control = control_socket.ControlSocket(
            path,
            {
                "status": lambda _: {"ok": True},
                "finish": refuse,
                "digest": lambda message: {"ok": message["ranges"]},
            },
        )
        yield path
        control.close()


@fuzz_bounds.inputs("control socket")
@given(st.lists(LINES, max_size=3).map(b"".join))
def test_control_socket(served, data):
    with fuzz_bounds.bounded("control socket", 2 * fuzz_bounds.MEMORY_BOUND, ("socket.connect",)):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(BUSY)
            sock.connect(served)
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                answers = b"".join(iter(lambda: sock.recv(65536), b""))
            except (BrokenPipeError, ConnectionResetError):
                answers = b""  # what was too long is not read to its end
        finally:
            sock.close()
        for line in answers.splitlines():
            assert json.loads(line.decode())["ok"] is not None
        assert control_socket.request(served, {"cmd": "status"}, BUSY) == {"ok": True}, (
            "it has survived"
        )


@fuzz_bounds.inputs("control link")
@given(st.integers(1, 3), st.lists(LINES, max_size=4).map(b"".join))
def test_control_link(count, answers):
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    theirs.settimeout(BOUND)
    lost = []
    try:
        with fuzz_bounds.bounded("control link", 2 * fuzz_bounds.MEMORY_BOUND):
            link = control_link.ControlLink(ours, lost.append)
            waiting = [link.submit({"cmd": "heartbeat"}, BOUND) for _ in range(count)]
            try:
                theirs.sendall(answers)
                theirs.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # what was too long, or one answer too many, has ended it
            for pending in waiting:
                try:
                    assert pending.wait()["ok"] is True
                except (PeerRefused, ConnectionLost) as error:
                    assert len(str(error)) < 4096
            link.close()
    finally:
        close(theirs)
