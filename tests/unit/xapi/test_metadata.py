# SPDX-License-Identifier: LGPL-2.1-only
"""An import's end is what its task says, whatever becomes of its connection."""

import contextlib
import logging
import socket
import struct
import threading
import traceback
import types
import urllib.parse

import pytest

from storage_motion.errors import BadMetadata, Unreachable
from storage_motion.xapi import metadata, tasks
from tpm_document import SECRET, with_tpm
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


@pytest.mark.parametrize(
    "asked, restore, live",
    [
        ({}, "true", "true"),
        ({"dry_run": True}, "true", "true"),
        ({"copy": True}, "false", "false"),  # "live" would keep the generation id
        ({"copy": True, "dry_run": True}, "false", "true"),  # and else it wants the disks
    ],
)
def test_a_copy_is_no_restore_and_gets_a_generation_id_of_its_own(asked, restore, live):
    seen = []

    def answer(method, path, headers, body):
        seen.append(urllib.parse.parse_qs(path.partition("?")[2]))
        return 200, b""

    with serving(answer) as url:
        metadata.bring(Session(), url, b"<value/>", True, **asked)
    assert (seen[0]["restore"], seen[0]["live"]) == ([restore], [live])


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


@pytest.mark.parametrize("quoted", [SECRET, SECRET.split()[0], "x%sx" % SECRET.split()[1]])
def test_an_error_of_xapi_that_quotes_a_tpm_is_told_without_it(quoted, caplog):
    caplog.set_level(logging.DEBUG)
    session = Session("failure", ["INTERNAL_ERROR", 'Rpc.Runtime_error("no", S(%s))' % quoted])
    with serving(lambda *_: (200, b"")) as url, pytest.raises(tasks.TaskFailed) as refused:
        metadata.bring(session, url, with_tpm(SECRET), True)
    assert refused.value.failure()[0] == "INTERNAL_ERROR"
    assert metadata.LEFT_OUT in refused.value.failure()[1]
    raised = refused.value
    told = "".join(traceback.format_exception(None, raised, raised.__traceback__)) + caplog.text
    assert not [part for part in SECRET.split() if part in told]


def test_a_broken_archive_is_not_quoted():
    archive = metadata.pack(with_tpm(SECRET))
    for broken in (archive[512:], archive[:700], archive[:100], b""):
        with pytest.raises(BadMetadata) as raised:
            metadata.unpack(broken)
        told = "".join(traceback.format_exception(None, raised.value, raised.value.__traceback__))
        assert not [part for part in SECRET.split() if part in told]


def test_a_connection_that_broke_and_a_task_that_says_nothing(monkeypatch):
    monkeypatch.setattr(metadata, "REFUSAL_TIMEOUT", 0.0)
    with resetting() as url, pytest.raises(
        Unreachable, match="import_metadata: Connection reset by peer"
    ):
        metadata.bring(Session("pending"), url, b"<value/>", True)


def test_nobody_there():
    asked = []
    with pytest.raises(Unreachable, match="refused"):
        metadata.bring(
            Session("pending"), "http://127.0.0.1:1", b"<value/>", True, asked=asked.append
        )
    assert asked == [], "nothing has been asked for"


def test_the_task_is_told_before_the_document_is_sent():
    order = []

    def answer(method, path, headers, body):
        order.append("sent")
        return 200, b""

    with serving(answer) as url:
        metadata.bring(Session(), url, b"<value/>", True, asked=order.append)
    assert order == ["OpaqueRef:t", "sent"]
