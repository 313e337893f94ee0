# SPDX-License-Identifier: LGPL-2.1-only
"""The certificates of the pools, each trusted since its first use: a file of lines, "ADDRESS
SHA-256", beside the configuration."""

import fcntl
import os
import tempfile
import urllib.parse
from typing import Callable, Dict

from storage_motion.cli.failures import BadConfiguration, CertificateChanged, CertificateNotKept
from storage_motion.errors import Unreachable
from storage_motion.xapi import session as sessions, transport

FILE = "trusted-certificates"
LOCK = FILE + ".lock"
TIMEOUT = 30.0  # seconds for a pool's master to show its certificate
ON_HOST = "openssl x509 -in /etc/xensource/xapi-ssl.pem -noout -fingerprint -sha256"


def shown(url: str) -> str:
    """The fingerprint of the certificate that the pool at `url` shows now. Raises Unreachable."""
    try:
        return transport.shown_certificate(url, TIMEOUT)
    except (OSError,) + sessions.NOT_XAPI as error:
        raise Unreachable(url, sessions.reason(error))


def trusted(folder: str, url: str, tell: Callable[[str], None]) -> str:
    """The fingerprint that the pool at `url` has to show. At its first use it is the one that it
    shows, which `tell` is told of.

    Raises CertificateChanged before anything is sent, CertificateNotKept; Unreachable,
    BadConfiguration, OSError."""
    address, found = _address(url), shown(url)
    known = _read(folder).get(address)
    if known is None:
        trust(folder, url, found)
        tell(
            "%s is new to this machine: its certificate %s is trusted from now on (on its master, "
            "%s tells it)" % (address, spelled(found), ON_HOST)
        )
    elif known != found:
        raise CertificateChanged(
            address,
            "trusted: %s" % spelled(known),
            "shown now: %s" % spelled(found),
            "if its certificate was renewed on purpose (on its master, %s tells it): sxm trust %s; "
            "else somebody may be in between: no password was sent" % (ON_HOST, address),
        )
    return found


def trust(folder: str, url: str, fingerprint: str) -> None:
    """Note that this is the certificate of the pool at `url`. Raises BadConfiguration,
    CertificateNotKept."""
    try:
        _note(folder, url, fingerprint)
    except OSError as error:
        where = error.filename or os.path.join(folder, FILE)
        raise CertificateNotKept(_address(url), "%s: %s" % (where, error.strerror))


def _note(folder: str, url: str, fingerprint: str) -> None:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, LOCK), "w") as lock:  # of who notes another pool's just now
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = dict(_read(folder), **{_address(url): fingerprint})
        number, path = tempfile.mkstemp(dir=folder)
        with os.fdopen(number, "w") as file:
            file.writelines("%s %s\n" % item for item in sorted(known.items()))
        os.rename(path, os.path.join(folder, FILE))


def spelled(fingerprint: str) -> str:
    """As openssl writes it: AB:CD:..."""
    return ":".join(fingerprint[at : at + 2] for at in range(0, len(fingerprint), 2)).upper()


def _address(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return parts.netloc if parts.port else "%s:443" % parts.netloc


def _read(folder: str) -> Dict[str, str]:
    path = os.path.join(folder, FILE)
    try:
        with open(path) as file:
            rows = [line.split() for line in file if line.strip()]
    except FileNotFoundError:
        return {}
    if any(len(row) != 2 for row in rows):
        raise BadConfiguration(path, "each line is an address and a SHA-256")
    return dict(rows)
