# SPDX-License-Identifier: LGPL-2.1-only
"""Where a host of the lab keeps what a real host has at fixed paths: dom0's files, and xapi's
socket.

The stand-ins for dom0's own programs (sm, XenAPIPlugin) import this from their host's
site-packages.
"""

import os

import XenAPI


def path(absolute):
    """The path on this machine of dom0's `absolute`: under $SXM_ROOT, if that is set."""
    return os.environ.get("SXM_ROOT", "").rstrip("/") + absolute


def xapi_local():
    """A session, not logged in, to this host's xapi over its unix socket (`XenAPI.xapi_local()` of
    a real host).

    XenAPI's unix transport takes the socket's path as a host name, with `_` for `/`.
    """
    socket = path("/var/lib/xcp/xapi")
    return XenAPI.Session("http://" + socket.replace("/", "_"), transport=XenAPI.UDSTransport())
