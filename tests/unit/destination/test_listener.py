# SPDX-License-Identifier: LGPL-2.1-only
"""The receiver's door: who says nothing at it shuts nobody out who knows the token."""

import socket
import tempfile

import pytest

from storage_motion.destination import listener
from storage_motion.errors import PeerRefused
from storage_motion.wire import channel

TOKEN = "t" * 64
SIZE = 4096
BOUND = 30.0  # seconds in which something happens that happens at once


class Disk:
    """A ReceivedDisk whose control role ends at once."""

    size = SIZE

    def __init__(self):
        self.roles = []

    def take_role(self, role):
        self.roles.append(role)

    def end_role(self, role, why):
        pass

    def control(self, lines, heard):
        pass


@pytest.fixture(params=["127.0.0.1", "::1"])
def door(request, monkeypatch):
    """(address, Listener, its certificate, its only disk). Nobody goes because of the time."""
    accept = channel.accept
    monkeypatch.setattr(
        listener.channel,
        "accept",
        lambda sock, certificate, token: accept(sock, certificate, token, 10 * BOUND),
    )
    with tempfile.TemporaryDirectory(prefix="sxm-listener-", dir="/dev/shm") as directory:
        certificate = channel.make_certificate(directory)
        disk = Disk()
        found = listener.Listener(request.param, certificate, TOKEN, {"k": disk}, lambda: None)
        yield request.param, found, certificate, disk
        found.close()


def closed(sock):
    """Whether the other side ends this connection."""
    sock.settimeout(BOUND)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("silent", [listener.MAX_STRANGERS, 3 * listener.MAX_STRANGERS])
def test_silent_connections_shut_no_mover_out(door, silent):
    """They wait as long as a mover may; with one more than there may be the oldest has to go."""
    address, found, certificate, disk = door
    strangers = [socket.create_connection((address, found.port), BOUND) for _ in range(silent)]
    try:
        for role in ("control", "control"):
            tls, size = channel.connect(
                address, found.port, certificate.fingerprint, TOKEN, role, "k", BOUND
            )
            assert size == SIZE
            tls.close()
        assert disk.roles == ["control", "control"]
        assert all(closed(sock) for sock in strangers[: silent - listener.MAX_STRANGERS])
    finally:
        for sock in strangers:
            sock.close()


def test_who_knows_no_token_has_no_role(door):
    address, found, certificate, disk = door
    with pytest.raises(PeerRefused, match="wrong token"):
        channel.connect(
            address, found.port, certificate.fingerprint, "x" * 64, "control", "k", BOUND
        )
    assert disk.roles == []
