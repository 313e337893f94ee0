"""Sessions with the xapi of this host's pool and of another one. Passwords stay in this process."""
import http.client
import socket
import ssl
import urllib.parse
import xml.parsers.expat
import xmlrpc.client

import XenAPI

from storage_motion.errors import MotionError, Unreachable
from storage_motion.xapi import transport

ORIGINATOR = "sxm"
API_VERSION = "1.0"
# What a server that is not a xapi, or is none any more, makes of a call.
NOT_XAPI = (xmlrpc.client.ProtocolError, xmlrpc.client.Fault, xmlrpc.client.ResponseError, http.client.HTTPException,
            ssl.SSLError, xml.parsers.expat.ExpatError, ValueError, TypeError)


class BadCredentials(MotionError):
    """[url]: user name or password are not those of that pool."""
    code = "SXM_BAD_CREDENTIALS"


class HostIsSlave(MotionError):
    """[url, address of the master]"""
    code = "SXM_HOST_IS_SLAVE"


def local(timeout=transport.DEFAULT_TIMEOUT):
    """A session of this host's pool, as root without a password (facts: xapi.md, Plugins).

    Raises Unreachable when xapi does not answer."""
    session = XenAPI.Session("http://localhost/", transport=transport.local_transport(timeout))
    try:
        session.login_with_password("root", "", API_VERSION, ORIGINATOR)
    except (OSError,) + NOT_XAPI as error:
        raise Unreachable(transport.LOCAL_SOCKET, reason(error))
    return session


def joined(handle, timeout=transport.DEFAULT_TIMEOUT):
    """The session of this host's xapi with that handle, which somebody else began and ends: xapi, for the plugin that it runs.

    Threads may share it, which is not so of the one that XenAPIPlugin hands over (XenAPI.UDSTransport: one connection for all)."""
    session = XenAPI.Session("http://localhost/", transport=transport.local_transport(timeout))
    session._session = handle
    return session


def url_of(master):
    """The URL of what `remote-master` named: `10.0.0.2`, `10.0.0.2:8443`, `https://10.0.0.2`, `http://...`.

    Without a scheme it is https. Raises ValueError when there is no host in it."""
    text = master if "://" in master else "https://" + master
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not the address of a host")
    if parts.username or parts.password or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise ValueError("only a host and a port are meant here")
    parts.port  # raises ValueError when it is not a port
    return "%s://%s" % (parts.scheme, parts.netloc)


def remote(url, username, password, timeout=transport.DEFAULT_TIMEOUT):
    """A session with the pool whose master answers at `url`.

    XenAPI.Session logs in again by itself when the session has expired in a long migration.
    Raises Unreachable, BadCredentials or HostIsSlave."""
    session = XenAPI.Session(url + "/", transport=transport.remote_transport(url, timeout))
    try:
        session.login_with_password(username, password, API_VERSION, ORIGINATOR)
    except XenAPI.Failure as failure:
        code = failure.details[0]
        if code == "SESSION_AUTHENTICATION_FAILED":
            raise BadCredentials(url)
        if code == "HOST_IS_SLAVE":
            raise HostIsSlave(url, failure.details[1] if len(failure.details) > 1 else "")
        raise Unreachable(url, " ".join(str(detail) for detail in failure.details))
    except socket.timeout:
        raise Unreachable(url, "no answer within %g s" % timeout)
    except (OSError,) + NOT_XAPI as error:
        raise Unreachable(url, reason(error))
    return session


def reason(error):
    """Why a server could not be talked to, in words that carry no request (a request may hold a password)."""
    if isinstance(error, xmlrpc.client.ProtocolError):
        return "not a xapi: HTTP status %d" % error.errcode
    if isinstance(error, ssl.SSLError):
        return "no TLS: %s" % (error.reason or "handshake failed")
    if isinstance(error, OSError):
        return error.strerror or error.__class__.__name__
    return "not a xapi: %s" % error.__class__.__name__


def logout(session):
    """End a session. One that is gone already, or whose server is, needs no end."""
    try:
        session.xenapi.session.logout()
    except (XenAPI.Failure, OSError) + NOT_XAPI:
        pass


def end(session, reference):
    """End another session of the same pool, by its reference. One that cannot be ended now ends by itself, unused."""
    try:
        session.session.logout(reference)
    except (OSError,) + NOT_XAPI:
        pass
