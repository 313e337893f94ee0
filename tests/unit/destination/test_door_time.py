# SPDX-License-Identifier: LGPL-2.1-only
"""How long a stranger may take at the receiver's door: by the clock, however diligently he sends a
byte now and then."""

import socket
import ssl
import tempfile
import threading
import time

import pytest

from storage_motion.errors import ConnectionLost
from storage_motion.wire import channel

BOUND = 0.5  # seconds
PAUSE = 0.05


@pytest.fixture(scope="module")
def certificate():
    with tempfile.TemporaryDirectory(prefix="sxm-door-", dir="/dev/shm") as directory:
        yield channel.make_certificate(directory)


def drip(sock, data, ended):
    """Send `data` a byte at a time, until the other side has had enough."""
    for byte in data:
        if ended.wait(PAUSE):
            return
        try:
            sock.sendall(bytes([byte]))
        except OSError:
            return


@pytest.fixture
def pair():
    near = socket.socket()
    near.bind(("127.0.0.1", 0))
    near.listen(1)
    theirs = socket.create_connection(near.getsockname(), 5)
    ours, _ = near.accept()
    ended = threading.Event()
    yield ours, theirs, ended
    ended.set()
    for sock in (near, ours, theirs):
        sock.close()


def assert_turned_away(ours, certificate):
    began = time.monotonic()
    with pytest.raises(ConnectionLost):
        channel.accept(ours, certificate, "token", BOUND)
    assert time.monotonic() - began < 20 * BOUND


def test_a_handshake_that_drips(certificate, pair):
    ours, theirs, ended = pair
    threading.Thread(
        target=drip, args=(theirs, b"\x16\x03\x01\x02\x00" + bytes(512), ended), daemon=True
    ).start()
    assert_turned_away(ours, certificate)


def test_a_hello_that_drips(certificate, pair):
    ours, theirs, ended = pair

    def talk():
        try:
            tls = ssl_context().wrap_socket(theirs)
            drip(tls, b'{"version": 1, "token": "' + b"t" * 500, ended)
        except OSError:
            pass  # turned away

    threading.Thread(target=talk, daemon=True).start()
    assert_turned_away(ours, certificate)


def ssl_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
