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

from storage_motion.errors import BadMetadata, JournalNotWritten, Unreachable
from storage_motion.xapi import metadata, tasks
from tpm_document import SECRET, with_tpm
from web_server import serving


class Session:
    """A pool whose import ends as `status` says, unless somebody sets another one. `destroyed`: the
    tasks that have been; `left`: whether one of them was pending then, which xapi keeps until it
    has ended (xapi_task.ml)."""

    handle = "OpaqueRef:s;s"

    def __init__(self, status="success", error=()):
        self.destroyed, self.left = [], False
        self._status = status
        self.xenapi = types.SimpleNamespace(
            task=types.SimpleNamespace(
                create=lambda label, description: "OpaqueRef:t",
                get_status=lambda task: self._status,
                set_status=self._set_status,
                get_result=lambda task: "",
                get_error_info=lambda task: list(error),
                destroy=self._destroy,
            )
        )

    def _set_status(self, task, value):
        self._status = value

    def _destroy(self, task):
        self.destroyed.append(task)
        self.left = self._status == "pending"


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
    """xapi may be at it still: the task is for it to end, or who looks whether it has would think
    that it had."""
    monkeypatch.setattr(metadata, "REFUSAL_TIMEOUT", 0.0)
    session = Session("pending")
    with resetting() as url, pytest.raises(
        Unreachable, match="import_metadata: Connection reset by peer"
    ):
        metadata.bring(session, url, b"<value/>", True)
    assert session.destroyed == ["OpaqueRef:t"] and session.left


def test_nobody_there():
    asked, session = [], Session("pending")
    with pytest.raises(Unreachable, match="refused"):
        metadata.bring(session, "http://127.0.0.1:1", b"<value/>", True, asked=asked.append)
    assert asked == [], "nothing has been asked for"
    assert session.destroyed == ["OpaqueRef:t"] and not session.left


def test_a_task_of_which_there_is_no_note_is_not_left_pending():
    """Nothing is sent then, and nobody would ever end it."""
    sent, session = [], Session("pending")

    def asked(task):
        raise JournalNotWritten("a.json", "No space left on device")

    with serving(lambda *request: (sent.append(request), (200, b""))[1]) as url, pytest.raises(
        JournalNotWritten
    ):
        metadata.bring(session, url, b"<value/>", True, asked=asked)
    assert not sent and session.destroyed == ["OpaqueRef:t"] and not session.left


def test_the_task_is_told_before_the_document_is_sent():
    order = []

    def answer(method, path, headers, body):
        order.append("sent")
        return 200, b""

    with serving(answer) as url:
        metadata.bring(Session(), url, b"<value/>", True, asked=order.append)
    assert order == ["OpaqueRef:t", "sent"]
