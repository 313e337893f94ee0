# SPDX-License-Identifier: LGPL-2.1-only
"""The least that every TLS connection of ours has to be: TLS 1.2 or better, no compression."""

import ssl


def server_context() -> ssl.SSLContext:
    """For the side that has a certificate."""
    return _context(ssl.PROTOCOL_TLS_SERVER)


def unverified_context() -> ssl.SSLContext:
    """For the side that connects, where no authority vouches for the other: the caller pins the
    certificate, or cannot."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    if hasattr(ssl, "TLSVersion"):  # Python 3.7
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # novm
    else:
        context.options |= ssl.OP_NO_SSLv2 | ssl.OP_NO_SSLv3 | ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    context.options |= ssl.OP_NO_COMPRESSION
    return context
