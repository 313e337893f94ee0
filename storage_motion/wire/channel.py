# SPDX-License-Identifier: LGPL-2.1-only
"""The channel between mover and receiver: TLS, one certificate per receiver, pinned; a token first;
one connection per role.

The receiver's host gives address, port, fingerprint and token over its authenticated XenAPI
session, so no authority has to vouch for the certificate: the mover takes exactly this one, and
says nothing before it has seen it. The token is good once per role and disk. Hello, in one line
each way:

    {"version": 2, "token": ..., "role": "mirror"|"copy"|"control", "disk": key}  ->  {"ok": true, "size": bytes} or {"ok": false, "error": ...}

After it `mirror` and `copy` speak NBD's transmission phase with simple replies, `control` JSON
lines.
"""  # noqa: E501

import hashlib
import hmac
import os
import select
import socket
import ssl
import subprocess
import time
from typing import Any, Callable, NoReturn, Tuple, TypeVar, Union

from storage_motion.errors import (
    CertificateMismatch,
    ConnectionLost,
    DataPathError,
    PeerRefused,
    ProtocolError,
)
from storage_motion.wire.buffered_tls import BufferedTls
from storage_motion.wire.json_lines import JsonLines, reason_of
from storage_motion.wire.tls import server_context, unverified_context

Tls = TypeVar("Tls", ssl.SSLSocket, BufferedTls)

# Of hello and roles: 2 since an answer to a copy says that it was read back, 3 `stand-by`, 4
# `digests`, 5 why a disk is given up (`abort`).
VERSION = 5
ROLES = ("mirror", "copy", "control")
MAX_HELLO = 4096  # bytes
HELLO_BOUND = 10.0  # seconds from the connection to the complete hello
CERTIFICATE_DAYS = 30
OPENSSL_BOUND = 60.0  # seconds for one key; a busy dom0 is short of entropy at times


class Certificate(object):
    """A receiver's key and certificate. `fingerprint`: SHA-256 of its DER form, in hex."""

    def __init__(self, context: ssl.SSLContext, fingerprint: str) -> None:
        self.context = context
        self.fingerprint = fingerprint


def make_certificate(directory: str) -> Certificate:
    """A fresh self-signed Certificate, by `openssl`. Its files are in `directory` only until they
    are loaded.

    Raises DataPathError if openssl fails.
    """
    key, certificate = (
        os.path.join(directory, "key.pem"),
        os.path.join(directory, "certificate.pem"),
    )
    previous = os.umask(0o077)
    try:
        # In two steps, which every openssl from 1.0 on knows.
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        _openssl(
            "req",
            "-x509",
            "-new",
            "-key",
            key,
            "-sha256",
            "-days",
            str(CERTIFICATE_DAYS),
            "-subj",
            "/CN=storage-motion-receiver",
            "-out",
            certificate,
        )
        context = server_context()
        context.load_cert_chain(certificate, key)
        with open(certificate) as pem:
            fingerprint = fingerprint_of(ssl.PEM_cert_to_DER_cert(pem.read()))
        return Certificate(context, fingerprint)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataPathError("openssl made no certificate: %s" % error)
    finally:
        os.umask(previous)
        for path in (key, certificate):
            if os.path.exists(path):
                os.unlink(path)


def _openssl(*arguments: str) -> None:
    result = subprocess.run(
        ("openssl",) + arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=OPENSSL_BOUND,
    )
    if result.returncode:
        raise DataPathError(
            "openssl %s: %s"
            % (arguments[0], result.stderr.decode("utf-8", "replace").strip()[-500:])
        )


def fingerprint_of(der: bytes) -> str:
    """SHA-256 of a certificate in DER form, in hex."""
    return hashlib.sha256(der).hexdigest()


def connect(
    address: str,
    port: int,
    fingerprint: str,
    token: str,
    role: str,
    disk: str,
    timeout: float = HELLO_BOUND,
) -> Tuple[ssl.SSLSocket, int]:
    """Open `role` for `disk` at a receiver: (TLS socket, size of the disk in bytes).

    Raises CertificateMismatch, before anything was sent; PeerRefused with the receiver's reason;
    ConnectionLost; ProtocolError.
    """
    deadline = time.monotonic() + timeout
    try:
        sock = socket.create_connection((address, port), timeout)
    except OSError as error:
        raise ConnectionLost("%s port %s: %s" % (address, port, error))
    tls = _negotiated(sock, _connecting, deadline)
    try:
        der = tls.getpeercert(binary_form=True)
        assert der is not None
        found = fingerprint_of(der)
        if not hmac.compare_digest(found.encode(), fingerprint.lower().encode()):
            raise CertificateMismatch(fingerprint, found)
        return tls, greet(tls, token, role, disk, deadline)
    except DataPathError:
        tls.close()
        raise


def greet(tls: ssl.SSLSocket, token: str, role: str, disk: str, deadline: float) -> int:
    """The hello of `connect`, by `deadline` (time.monotonic()): the size of the disk in bytes.
    Raises as `connect` does."""
    lines = JsonLines(tls, MAX_HELLO)
    lines.send({"version": VERSION, "token": token, "role": role, "disk": disk}, HELLO_BOUND)
    answer = lines.receive(max(0.0, deadline - time.monotonic()))
    lines.require_empty()
    if answer.get("ok") is not True:
        raise PeerRefused(reason_of(answer))
    size = answer.get("size")
    if type(size) is not int or size <= 0:
        raise ProtocolError("the receiver names no size")
    return size


def accept(
    sock: socket.socket, certificate: Certificate, token: str, timeout: float = HELLO_BOUND
) -> Tuple[BufferedTls, str, str]:
    """The other end of `connect`: (TLS socket, role, disk) of a peer that knows `token`; the caller
    answers it.

    Raises PeerRefused, with the reason told to the peer already, ConnectionLost, ProtocolError; the
    connection is closed then.
    """
    deadline = time.monotonic() + timeout
    tls = _negotiated(sock, lambda plain: BufferedTls(plain, certificate.context), deadline)
    try:
        lines = JsonLines(tls, MAX_HELLO)
        hello = lines.receive(max(0.0, deadline - time.monotonic()))
        lines.require_empty()
        if not _same_token(hello.get("token"), token):
            refuse(tls, "wrong token")
        if hello.get("version") != VERSION:
            refuse(tls, "this receiver speaks version %d" % VERSION)
        role, disk = hello.get("role"), hello.get("disk")
        if role not in ROLES or not isinstance(disk, str):
            refuse(tls, "unknown role")
        return tls, role, disk
    except DataPathError:
        tls.close()
        raise


def welcome(tls: BufferedTls, size: int) -> None:
    """Answer a hello that was accepted: the disk has `size` bytes."""
    JsonLines(tls).send({"ok": True, "size": size}, HELLO_BOUND)


def refuse(tls: BufferedTls, reason: str) -> NoReturn:
    """Answer a hello with `reason`, and raise PeerRefused with the same."""
    JsonLines(tls).send({"ok": False, "error": reason}, HELLO_BOUND)
    raise PeerRefused(reason)


def _same_token(given: Any, token: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(
        given.encode("utf-8", "replace"), token.encode("utf-8")
    )


def _connecting(sock: socket.socket) -> ssl.SSLSocket:
    return unverified_context().wrap_socket(sock, do_handshake_on_connect=False)


def _negotiated(sock: socket.socket, wrap: Callable[[socket.socket], Tls], deadline: float) -> Tls:
    """`wrap(sock)`, with TLS negotiated by `deadline`: a timeout of the socket would begin anew
    with every byte of the peer.

    Raises ConnectionLost, and closes it then.
    """
    tls: Union[Tls, socket.socket] = sock
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        # From here on `sock` may have no descriptor any more: SSLSocket has taken it.
        tls = secured = wrap(sock)
        while True:
            try:
                secured.do_handshake()
                return secured
            except ssl.SSLWantReadError:
                _wait(secured, select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                _wait(secured, select.POLLOUT, deadline)
    except (OSError, ValueError) as error:
        tls.close()
        raise ConnectionLost("no TLS with the peer: %s" % error)
    except ConnectionLost:
        tls.close()
        raise


def _wait(sock: Union[ssl.SSLSocket, BufferedTls], event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(sock, event)
    remaining = deadline - time.monotonic()
    if remaining <= 0 or not poll.poll(remaining * 1000):
        raise ConnectionLost("the peer did not finish the TLS handshake in time")
