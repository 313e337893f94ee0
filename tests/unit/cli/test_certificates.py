# SPDX-License-Identifier: LGPL-2.1-only
"""A pool's certificate is trusted at its first use, and refused when it is another: before a
password is sent."""

import contextlib
import socket
import ssl
import threading

import pytest

from served_xapi import certificate
from storage_motion.cli import certificates
from storage_motion.cli.failures import BadConfiguration, CertificateChanged
from storage_motion.errors import CertificateMismatch, Unreachable
from storage_motion.xapi import session as sessions


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two certificates: paths of files with key and certificate."""
    folder = tmp_path_factory.mktemp("keys")
    return [certificate(str(folder / name), name) for name in ("one", "other")]


@contextlib.contextmanager
def serving(key):
    """A TLS server of this certificate. Yields (URL, what clients have sent)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key)
    listening, received = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        while True:
            try:
                connection = listening.accept()[0]
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(
                connection, server_side=True
            ) as secured:
                received.append(secured.recv(4096))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield "https://127.0.0.1:%d" % listening.getsockname()[1], received
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def test_the_first_use_is_told_and_later_ones_are_not(keys, tmp_path):
    told = []
    with serving(keys[0]) as (url, _):
        first = certificates.trusted(str(tmp_path / "sxm"), url, told.append)
        assert certificates.trusted(str(tmp_path / "sxm"), url, told.append) == first
    (line,) = told
    assert certificates.spelled(first) in line and "openssl x509" in line


def test_another_one_is_refused_with_both_and_what_to_do(keys, tmp_path):
    with serving(keys[1]) as (url, _):
        certificates.trust(str(tmp_path), url, "ab" * 32)
        with pytest.raises(CertificateChanged) as raised:
            certificates.trusted(str(tmp_path), url, lambda _: None)
        address, trusted, shown, remedy = raised.value.details
        assert trusted == "trusted: " + ":".join(["AB"] * 32) and shown.count(":") == 32
        assert "sxm trust %s" % address in remedy
        certificates.trust(str(tmp_path), url, certificates.shown(url))
        certificates.trusted(str(tmp_path), url, pytest.fail)


def test_no_password_goes_to_another_one(keys):
    """Also where it changes between the look at it and the login."""
    with serving(keys[0]) as (url, received):
        with pytest.raises(CertificateMismatch):
            sessions.remote(url, "root", "hush", certificate="ab" * 32)
    assert b"".join(received) == b""


def test_nobody_there(tmp_path):
    with pytest.raises(Unreachable):
        certificates.shown("https://127.0.0.1:1")


def test_a_file_that_is_torn_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / certificates.FILE).write_text("10.0.0.1:443\n")
    with pytest.raises(BadConfiguration):
        certificates.trust(str(tmp_path), "https://10.0.0.1", "ab")


def test_two_that_are_trusted_at_once_are_both_noted(tmp_path, monkeypatch):
    """Each reads the file, and writes all of it anew."""
    read, meeting = certificates._read, threading.Barrier(2)

    def slowly(folder):
        found = read(folder)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.5)
        return found

    monkeypatch.setattr(certificates, "_read", slowly)
    urls = ["https://10.0.0.1", "https://10.0.0.2"]
    threads = [
        threading.Thread(target=certificates.trust, args=(str(tmp_path), url, "ab")) for url in urls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(read(str(tmp_path))) == ["10.0.0.1:443", "10.0.0.2:443"]
