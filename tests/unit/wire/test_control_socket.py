# SPDX-License-Identifier: LGPL-2.1-only
"""The control sockets of mover and receiver, and the lines that they speak."""

import os
import socket
import stat
import threading
import time

import pytest

from storage_motion.errors import (
    ConnectionLost,
    DataPathError,
    NotFinished,
    PeerRefused,
    ProtocolError,
)
from storage_motion.wire import control_socket, json_lines, service
from storage_motion.wire.control_link import ControlLink
from tests.eventually import eventually


@pytest.fixture
def server(tmp_path):
    gate = threading.Event()

    def refuse(_):
        raise NotFinished("not yet")

    def fail(_):
        raise KeyError("a bug")

    def wait(_):
        assert gate.wait(60)
        return {"ok": True, "late": True}

    path = str(tmp_path / "control")
    server = control_socket.ControlSocket(
        path,
        {
            "echo": lambda message: {"ok": True, "said": message},
            "refuse": refuse,
            "fail": fail,
            "wait": wait,
        },
    )
    server.path, server.gate = path, gate
    yield server
    gate.set()
    if os.path.exists(path):
        server.close()


def test_who_finds_the_path_can_connect(tmp_path, monkeypatch):
    """A worker asks its mover as soon as there is a socket; seen: nobody listened yet, and a whole
    mirror was begun again."""
    path, seen = str(tmp_path / "control"), []
    real = socket.socket

    class Looked(real):
        def listen(self, *backlog):
            seen.append(os.path.exists(path))
            real.listen(self, *backlog)

    for leftover in (path, path + ".new"):
        real(socket.AF_UNIX, socket.SOCK_STREAM).bind(leftover)
    os.unlink(path)
    monkeypatch.setattr(socket, "socket", Looked)
    with control_socket.listen(path, 1):
        assert seen == [False]
        with real(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(path)


def test_questions_and_answers(server):
    assert control_socket.request(server.path, {"cmd": "echo", "n": 1}, 5) == {
        "ok": True,
        "said": {"cmd": "echo", "n": 1},
    }
    assert control_socket.request(server.path, {"cmd": "refuse"}, 5) == {
        "ok": False,
        "error": "SXM_NOT_FINISHED: not yet",
    }
    assert "KeyError" in control_socket.request(server.path, {"cmd": "fail"}, 5)["error"]
    for message in ({"cmd": "no such"}, {"cmd": ["echo"]}, {}):
        assert control_socket.request(server.path, message, 5) == {
            "ok": False,
            "error": "unknown command",
        }
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600


@pytest.mark.parametrize(
    "garbage", [b"\xff\n", b"[1]\n", b"x" * (json_lines.MAX_LINE + 1), b"[" * 60000 + b"\n"]
)
def test_garbage_costs_the_connection_only(server, garbage):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(server.path)
    sock.sendall(garbage)
    try:
        assert sock.recv(1) == b""
    except ConnectionResetError:
        pass
    sock.close()
    assert control_socket.request(server.path, {"cmd": "echo"}, 5)["ok"]


def test_several_clients_and_several_requests_of_one(server):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(server.path)
    lines = json_lines.JsonLines(sock)
    lines.send({"cmd": "wait"}, 5)
    assert control_socket.request(server.path, {"cmd": "echo"}, 5)["ok"]
    server.gate.set()
    assert lines.receive(5)["late"]
    lines.send({"cmd": "echo"}, 5)
    assert lines.receive(5)["ok"]
    sock.close()


def test_closing_answers_what_was_asked_first(server):
    answers = []
    client = threading.Thread(
        target=lambda: answers.append(control_socket.request(server.path, {"cmd": "wait"}, 10))
    )
    client.start()
    eventually(lambda: server._clients, "the client is being served")
    threading.Timer(0.1, server.gate.set).start()
    server.close()
    client.join(60)
    assert answers == [{"ok": True, "late": True}]
    with pytest.raises(ConnectionLost):
        control_socket.request(server.path, {"cmd": "echo"}, 1)


def test_no_answer_in_time(server):
    with pytest.raises(ConnectionLost):
        control_socket.request(server.path, {"cmd": "wait"}, 0.1)


class Peer(object):
    """The receiver's end of a control link, by hand."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.lost = []
        self.link = ControlLink(ours, self.lost.append)
        self.sock = theirs
        self.lines = json_lines.JsonLines(theirs)


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    peer.link.close()
    peer.sock.close()


def test_the_link_matches_answers_to_requests_in_their_order(peer):
    pendings = [peer.link.submit({"cmd": "digest", "n": number}, 5) for number in range(3)]
    for number in range(3):
        assert peer.lines.receive(5)["n"] == number
    peer.lines.send({"ok": True, "n": 0}, 5)
    peer.lines.send({"ok": False, "error": "no"}, 5)
    peer.lines.send({"ok": True, "n": 2}, 5)
    assert pendings[2].wait()["n"] == 2
    assert pendings[0].wait()["n"] == 0
    with pytest.raises(PeerRefused):
        pendings[1].wait()


def test_a_link_that_is_lost_fails_whoever_waits_and_says_so_once(peer):
    pending = peer.link.submit({"cmd": "digest"}, 60)
    peer.lines.receive(5)
    peer.sock.close()
    with pytest.raises(ConnectionLost):
        pending.wait()
    with pytest.raises(ConnectionLost):
        peer.link.request({"cmd": "digest"}, 5)
    peer.link.close()
    assert len(peer.lost) == 1


@pytest.mark.parametrize("said", [b'{"ok": true}\n', b"nonsense\n"])
def test_a_receiver_that_says_what_it_was_not_asked(peer, said):
    peer.sock.sendall(said)
    eventually(lambda: peer.lost, "the link is lost")
    assert len(peer.lost) == 1


def test_an_answer_that_is_late_ends_the_link(peer):
    with pytest.raises(ConnectionLost):
        peer.link.request({"cmd": "digest"}, 0.2)
    peer.link.close()
    assert len(peer.lost) == 1


def test_closing_the_link_is_no_loss(peer):
    peer.link.close()
    assert peer.lost == []
    with pytest.raises(ConnectionLost):
        peer.link.request({"cmd": "digest"}, 5)


def test_a_heartbeat_when_it_is_quiet(monkeypatch):
    monkeypatch.setattr("storage_motion.wire.control_link.HEARTBEAT", 0.05)
    begun, peer = time.monotonic(), Peer()
    for _ in range(10):
        assert peer.lines.receive(5) == {"cmd": "heartbeat"}
        peer.lines.send({"ok": True}, 5)
    assert time.monotonic() - begun >= 10 * 0.05, "one does not follow upon the answer to another"
    peer.link.close()
    peer.sock.close()


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 1}', None])
def test_specs_that_are_none(tmp_path, content):
    path = tmp_path / "spec"
    if content is not None:
        path.write_text(content)
        path.chmod(0o600)
    with pytest.raises(DataPathError):
        service.load_spec(str(path), ("a", "b"))


def test_lines_are_bounded():
    lines = json_lines.LineBuffer(16)
    lines.feed(b'{"a": 1}\n{"b": 2}')
    assert lines.next() == {"a": 1}
    assert lines.next() is None and not lines.empty
    lines.feed(b"\n")
    assert lines.next() == {"b": 2} and lines.empty
    lines.feed(b"x" * 16)
    with pytest.raises(ProtocolError):
        lines.next()
