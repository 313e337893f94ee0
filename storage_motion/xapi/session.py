# SPDX-License-Identifier: LGPL-2.1-only
"""Sessions with the xapi of this host's pool and of another one. Passwords stay in this process."""

import http.client
import socket
import ssl
import urllib.parse
import xml.parsers.expat
import xmlrpc.client
from typing import Any, Callable, Optional, Sequence, TypeVar, Union

import XenAPI

from storage_motion.errors import BadCredentials, HostIsSlave, Unreachable
from storage_motion.xapi import outage, transport

ORIGINATOR = "sxm"
# Seconds that one call of a worker may take: to make and open a hundred disks at the destination is
# one.
CALL_TIMEOUT = 1800.0
API_VERSION = "1.0"
# What a server that is not a xapi, or is none any more, makes of a call.
NOT_XAPI = (
    xmlrpc.client.ProtocolError,
    xmlrpc.client.Fault,
    xmlrpc.client.ResponseError,
    http.client.HTTPException,
    ssl.SSLError,
    xml.parsers.expat.ExpatError,
    ValueError,
    TypeError,
)
# a login's failure with a xapi that serves already, and has not read its database
NO_HOST_YET = ["UUID_INVALID", "host"]
# what the end of a session fails with that has ended already
ENDED = ("SESSION_INVALID", "HANDLE_INVALID")

Answer = TypeVar("Answer")


class Session(XenAPI.Session):
    """XenAPI's, for whose calls it is no failure that xapi is restarted: they wait for it
    (outage.BOUND), and log in anew. A xapi that hangs holds a call up for outage.timeout; then it
    raises socket.timeout.

    What may have been carried out when the connection broke is called again only if that does no
    harm (outage.repeatable): else it raises, and whoever called has to look."""

    def __init__(
        self, url: str, to_server: transport._BoundTransport, server: str, patient: bool = True
    ) -> None:
        """`to_server`: a transport. `server`: how the log names it. `patient`: whether calls wait
        for it."""
        super(Session, self).__init__(url, transport=to_server)
        self._to_server = to_server
        self._patient = patient
        self.outage = outage.Outage(server)
        # called with the reference of each session that it logs in
        self.began: Callable[[str], None] = lambda reference: None

    @property
    def at_once(self) -> "_AtOnce":
        """The same session, for calls that do not wait: they fail while xapi does not answer."""
        return _AtOnce(
            lambda method, params: self._call(method, params, False, outage.timeout(method, False))
        )

    def for_long(self, seconds: float) -> "_AtOnce":
        """The same session, for calls that may take so long, be it longer than others."""

        def call(method: str, params: Sequence[Any]) -> Any:
            with self._to_server.within(seconds, longer=True):
                return self._persist(method, params, self._patient)

        return _AtOnce(call)

    def xenapi_request(self, methodname: str, params: Sequence[Any]) -> Any:
        """One call, as XenAPI.Session makes it. Raises XenAPI.Failure, or what the connection
        failed with."""
        return self._call(methodname, params, self._patient, outage.timeout(methodname, True))

    def _login(self, method: str, params: Sequence[Any]) -> None:
        """As XenAPI.Session's, which logs in by itself in the middle of a call. Whoever made that
        must not take it for the call's own failure: that what he asked for does not exist."""
        try:
            super(Session, self)._login(method, params)
        except XenAPI.Failure as failure:
            if failure.details[:2] == NO_HOST_YET:
                raise XenAPI.Failure([outage.BOOTING])
            raise
        self.began(self.handle)

    def _call(
        self, method: str, params: Sequence[Any], patient: bool, bound: Optional[float]
    ) -> Any:
        with self._to_server.within(bound):
            return self._persist(method, params, patient)

    def _persist(self, method: str, params: Sequence[Any], patient: bool) -> Any:
        ask = super(Session, self).xenapi_request
        if method.startswith(("login", "logout", "session.log")):
            return ask(method, params)
        again, repeated, tries = outage.repeatable(method, params), False, 0
        if not again:
            self._to_server.close()  # over a new connection it is known whether it was sent
        while True:
            try:
                answer = ask(method, params)
            except XenAPI.Failure as failure:
                if failure.details[0] != outage.BOOTING:
                    self.outage.ends()
                    if repeated and outage.was_done(method, params, failure, self._look):
                        return ""
                    raise
                error, sent = failure, False
            except Exception as failed:
                if not outage.is_away(failed):
                    raise
                error, sent = failed, not isinstance(failed, outage.NEVER_SENT)
            else:
                self.outage.ends()
                return answer
            if sent and not again:
                raise error
            repeated = repeated or sent
            if not tries and outage.is_cold(error):
                tries = 1
                continue
            self.outage.begins(reason(error))
            if not patient or not self.outage.wait(tries):
                raise error
            tries += 1

    def _look(self, method: str, *params: Any) -> Any:
        return self._persist(method, params, self._patient)


class _AtOnce:
    def __init__(self, call: Callable[[str, Sequence[Any]], Any]) -> None:
        self.xenapi = _Calls(call)


class _Calls:
    """`calls.VM.get_all(...)` is `call("VM.get_all", (...))`."""

    def __init__(self, call: Callable[[str, Sequence[Any]], Any], name: str = "") -> None:
        self._made = call
        self._name = name

    def __getattr__(self, name: str) -> "_Calls":
        return _Calls(self._made, self._name + "." + name if self._name else name)

    def __call__(self, *params: Any) -> Any:
        return self._made(self._name, params)


def patiently(login: Callable[[], Answer]) -> Answer:
    """What `login()` answers: `local` or `remote`, for one who can wait for a xapi that is just
    being restarted."""
    waiting, tries = outage.Outage("the start"), 0
    while True:
        try:
            return login()
        except Unreachable as error:
            waiting.begins(str(error))
            if not waiting.wait(tries):
                raise
            tries += 1


def at_once(session: "XenAPI.Session") -> "Union[_AtOnce, XenAPI.Session]":
    """A session, for calls that do not wait for a xapi that is away."""
    return session.at_once if isinstance(session, Session) else session


def for_long(
    session: "XenAPI.Session", seconds: float = CALL_TIMEOUT
) -> "Union[_AtOnce, XenAPI.Session]":
    """A session, for calls that may take so long."""
    return session.for_long(seconds) if isinstance(session, Session) else session


def local(timeout: float = transport.DEFAULT_TIMEOUT, patient: bool = True) -> Session:
    """A session of this host's pool, as root without a password (docs/facts/xapi.md, Plugins).
    `patient`: as Session has it.

    Raises Unreachable when xapi does not answer."""
    session = Session("http://localhost/", transport.local_transport(timeout), "this host", patient)
    try:
        session.login_with_password("root", "", API_VERSION, ORIGINATOR)
    except XenAPI.Failure as failure:
        if failure.details[0] != outage.BOOTING:
            raise
        raise Unreachable(transport.LOCAL_SOCKET, outage.BOOTING)
    except (OSError,) + NOT_XAPI as error:
        raise Unreachable(transport.LOCAL_SOCKET, reason(error))
    return session


def joined(handle: str, timeout: float = transport.DEFAULT_TIMEOUT) -> Session:
    """The session of this host's xapi with that handle, which somebody else began and ends: xapi,
    for the plugin that it runs.

    Threads may share it, which is not so of the one that XenAPIPlugin hands over
    (XenAPI.UDSTransport: one connection for all)."""
    session = Session(
        "http://localhost/", transport.local_transport(timeout), "this host", patient=False
    )
    session._session = handle
    return session


def url_of(master: str) -> str:
    """The URL of what `remote-master` named: `10.0.0.2`, `10.0.0.2:8443`, `https://10.0.0.2`.

    It is https: the password goes there. An IPv6 address may be bare where no port can be meant.
    Raises ValueError when there is no host in it, or another scheme."""
    if any(character.isspace() or not character.isprintable() for character in master):
        raise ValueError("has a blank, or what cannot be printed, in it")
    text = master if "://" in master else "https://" + _bracketed(master)
    parts = urllib.parse.urlsplit(text)
    if parts.scheme == "http":
        raise ValueError("the password would go there in clear: leave http:// out")
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("not the address of a host")
    if (
        parts.username
        or parts.password
        or parts.query
        or parts.fragment
        or parts.path not in ("", "/")
    ):
        raise ValueError("only a host and a port are meant here")
    _ = parts.port  # raises ValueError when it is not a port
    return "%s://%s" % (parts.scheme, parts.netloc)


def _bracketed(text: str) -> str:
    """`text`, if it is a bare IPv6 address in brackets. Raises ValueError for one that may end with
    a port, or with a zone."""
    if text.count(":") < 2 or "[" in text or "@" in text:
        return text
    address, _, last = text.rpartition(":")
    if not _is_ipv6(text):
        raise ValueError("an IPv6 address wants brackets, as in [2001:db8::1] or [2001:db8::1]:443")
    if last.isdigit() and _is_ipv6(address):
        raise ValueError(
            "[%s] may be meant, or [%s]:%s: put the address in brackets" % (text, address, last)
        )
    return "[%s]" % text


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def remote(
    url: str,
    username: str,
    password: str,
    timeout: float = transport.DEFAULT_TIMEOUT,
    certificate: str = "",
) -> Session:
    """A session with the pool whose master answers at `url`. `certificate`: the SHA-256 of the one
    that it has to show each time; without it any will do.

    It logs in again by itself when it has expired, or ended with a xapi that was restarted.
    Raises Unreachable, BadCredentials, HostIsSlave or CertificateMismatch."""
    session = Session(url + "/", transport.remote_transport(url, timeout, certificate), url)
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


def reason(error: BaseException) -> str:
    """Why a server could not be talked to, in words that carry no request (a request may hold a
    password)."""
    if isinstance(error, XenAPI.Failure):
        return str(error.details[0])
    if isinstance(error, xmlrpc.client.ProtocolError):
        return "not a xapi: HTTP status %d" % error.errcode
    if isinstance(error, transport.CUT):
        return "the connection was closed"
    if isinstance(error, ssl.SSLError):
        return "no TLS: %s" % (error.reason or "handshake failed")
    if isinstance(error, OSError):
        return error.strerror or error.__class__.__name__
    return "not a xapi: %s" % error.__class__.__name__


def logout(session: "XenAPI.Session") -> None:
    """End a session. One that is gone already, or whose server is, needs no end; nor is it waited
    for as what somebody needs."""
    try:
        at_once(session).xenapi.session.logout()
    except (XenAPI.Failure, OSError) + NOT_XAPI:
        pass


def end(session: "XenAPI.Session", reference: str) -> None:
    """End another session of the same pool, by its reference. One that cannot be ended now ends by
    itself, unused."""
    try:
        session.session.logout(reference)
    except (OSError,) + NOT_XAPI:
        pass


def end_surely(session: Session, reference: str) -> None:
    """The same, where it has to be known that it has ended: from then on xapi begins with no call
    of it any more. One that is gone already has ended. Raises XenAPI.Failure, or what a call fails
    with."""
    session._to_server.close()  # a connection that was idle may have ended
    with session._to_server.within(outage.QUICK_TIMEOUT):
        answer = session.session.logout(reference)
    if answer["Status"] != "Success" and answer["ErrorDescription"][0] not in ENDED:
        raise XenAPI.Failure(answer["ErrorDescription"])
