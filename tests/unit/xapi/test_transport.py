# SPDX-License-Identifier: LGPL-2.1-only
"""A connection that the server has closed meanwhile is replaced, whatever way that shows, for what
may be asked twice."""

import http.client
import socket
import ssl
import threading
import xmlrpc.client

import pytest

from storage_motion.xapi import outage, session, transport
from web_server import serving

ANSWER = xmlrpc.client.dumps(({"Status": "Success", "Value": 42},), methodresponse=True).encode()


class Connection(http.client.HTTPConnection):
    """One that `error` comes out of when something is sent over it."""

    error = None

    def send(self, data):
        if self.error is not None:
            raise self.error
        super(Connection, self).send(data)


def proxy(made, url, broken_from_the_start=None):
    def make():
        made.append(Connection(url[len("http://") :]))
        made[-1].error = broken_from_the_start
        return made[-1]

    return session.Session(
        url, transport._BoundTransport(make, 60.0), "there", patient=False
    ).xenapi


GONE = [
    ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed"),
    ConnectionResetError(104, "reset"),
    BrokenPipeError(32, "broken pipe"),
]


@pytest.mark.parametrize("error", GONE, ids=lambda error: error.__class__.__name__)
def test_a_cold_connection_is_replaced(error):
    made = []
    with serving(lambda *_: (200, ANSWER)) as url:
        server = proxy(made, url)
        assert server.pool.get_all() == 42
        made[0].error = error
        assert server.pool.get_all() == 42
    assert len(made) == 2


@pytest.mark.parametrize("error", GONE, ids=lambda error: error.__class__.__name__)
def test_not_for_what_would_be_done_twice(error):
    made = []
    with serving(lambda *_: (200, ANSWER)) as url:
        server = proxy(made, url)
        assert server.VDI.create({}) == 42 and server.VDI.create({}) == 42
        assert len(made) == 2, "each goes over a new connection, which cannot have gone cold"
    del made[:]
    with pytest.raises(OSError):
        proxy(made, url, error).VDI.create({})
    assert len(made) == 1


@pytest.mark.parametrize("error", GONE, ids=lambda error: error.__class__.__name__)
def test_only_once(error):
    made = []
    with pytest.raises(OSError):
        proxy(made, "http://127.0.0.1:1", error).pool.get_all()
    assert len(made) == 2


def test_another_fault_of_tls_is_told_at_once():
    made = []
    with pytest.raises(ssl.SSLError):
        proxy(
            made, "http://127.0.0.1:1", ssl.SSLError(1, "certificate verify failed")
        ).pool.get_all()
    assert len(made) == 1


def test_who_cannot_wait_does_not_wait_for_a_server_that_hangs():
    held = threading.Event()

    def answer(*_):
        if hang:
            held.wait(60)
        return 200, ANSWER

    hang = []
    with serving(answer) as url:
        asked = session.Session(url, transport.remote_transport(url, 60.0), "there")
        assert asked.xenapi.pool.get_all() == 42
        hang.append(True)
        with pytest.MonkeyPatch.context() as patched, pytest.raises(socket.timeout):
            patched.setattr(outage, "AT_ONCE_TIMEOUT", 0.05)
            asked.at_once.xenapi.pool.get_all()
        hang.clear()
        held.set()
        assert asked.xenapi.pool.get_all() == 42


def test_a_call_may_be_given_longer_than_others_and_for_no_other_that_holds():
    made = []
    with serving(lambda *_: (200, ANSWER)) as url:
        of_it = session.Session(
            url,
            transport._BoundTransport(
                lambda: made.append(Connection(url[len("http://") :])) or made[-1], 60.0
            ),
            "there",
            patient=False,
        )
        session.for_long(of_it, 900.0).xenapi.host.call_plugin()
        assert made[-1].timeout == 900.0
        of_it.xenapi.host.call_plugin()
        assert made[-1].timeout == 60.0
        of_it.xenapi.pool.get_all()
        assert made[-1].timeout == 60.0, "a shorter bound of the transport's holds"
