# SPDX-License-Identifier: LGPL-2.1-only
"""An import's end is what its task says, whatever becomes of its connection."""

import contextlib
import socket
import struct
import threading
import types
import urllib.parse

import pytest

from storage_motion.errors import Unreachable
from storage_motion.xapi import metadata, tasks
from web_server import serving


class Session:
    """A pool whose import ends as `status` says."""

    handle = "OpaqueRef:s;s"

    def __init__(self, status="success", error=()):
        self.destroyed = []
        self.xenapi = types.SimpleNamespace(
            task=types.SimpleNamespace(
                create=lambda label, description: "OpaqueRef:t",
                get_status=lambda task: status,
                get_result=lambda task: "",
                get_error_info=lambda task: list(error),
                destroy=self.destroyed.append,
            )
        )


@contextlib.contextmanager
def resetting():
    """A server that resets each connection as soon as it has read something. Yields its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)

    def run():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.recv(10)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield "http://127.0.0.1:%d" % listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_session_and_task_are_in_the_query():
    seen = []

    def answer(method, path, headers, body):
        seen.append(
            (
                method,
                urllib.parse.parse_qs(path.partition("?")[2]),
                headers["Cookie"],
                metadata.unpack(body),
            )
        )
        return 200, b""

    session = Session()
    with serving(answer) as url:
        metadata.bring(session, url, b"<value/>", True)
    ((method, query, cookie, document),) = seen
    assert (
        method == "PUT"
        and query["session_id"] == ["OpaqueRef:s;s"]
        and query["task_id"] == ["OpaqueRef:t"]
        and cookie is None
    )
    assert document == b"<value/>" and session.destroyed == ["OpaqueRef:t"]


@pytest.mark.parametrize("document", [b"<value/>", bytes(8 << 20)], ids=["small", "large"])
def test_the_reason_of_a_refusal_is_read_from_the_task(document):
    session = Session("failure", ["VM_TO_IMPORT_IS_NOT_NEWER_VERSION", "OpaqueRef:vm", "0", "0"])
    with resetting() as url, pytest.raises(tasks.TaskFailed) as refused:
        metadata.bring(session, url, document, True)
    assert refused.value.failure() == [
        "VM_TO_IMPORT_IS_NOT_NEWER_VERSION",
        "OpaqueRef:vm",
        "0",
        "0",
    ]
    assert session.destroyed == ["OpaqueRef:t"]


def test_a_connection_that_broke_and_a_task_that_says_nothing(monkeypatch):
    monkeypatch.setattr(metadata, "REFUSAL_TIMEOUT", 0.0)
    with resetting() as url, pytest.raises(
        Unreachable, match="import_metadata: Connection reset by peer"
    ):
        metadata.bring(Session("pending"), url, b"<value/>", True)


def test_nobody_there():
    with pytest.raises(Unreachable, match="refused"):
        metadata.bring(Session("pending"), "http://127.0.0.1:1", b"<value/>", True)
