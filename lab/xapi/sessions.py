# SPDX-License-Identifier: LGPL-2.1-only
"""Who may call: logins, and the sessions that they give."""

import hmac
import threading

from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.schema import Timestamp

# key of the other_config of a session that xapi opened for a driver: the SR (xapi_globs.ml)
SM_SESSION = "_sm_session"
_MOST_SESSIONS = 2000  # the one that was idle longest goes first, as in xapi


class Sessions:
    """The sessions of a pool; they do not outlive its master's xapi."""

    def __init__(self, database, root_password):
        self._database = database
        self._password = root_password
        self._lock = threading.Lock()

    def login(self, name, password, originator, host_ref):
        """A new session for root. Raises SESSION_AUTHENTICATION_FAILED."""
        matches = hmac.compare_digest(password.encode(), self._password.encode())
        if name != "root" or not matches:
            raise Failure("SESSION_AUTHENTICATION_FAILED", name, "Authentication failure")
        return self.open(host_ref, originator)

    def open(self, host_ref, originator=""):
        """A new session without any check: for dom0's root, the pool itself, and what xapi
        starts."""
        self._make_room()
        return self._database.create(
            "session",
            {
                "this_host": host_ref,
                "is_local_superuser": True,
                "originator": originator,
                "auth_user_name": "root",
                "last_active": Timestamp.now(),
                "validation_time": Timestamp.now(),
            },
        )

    def open_for_driver(self, host_ref, sr):
        """A session for a driver of the SR `sr` (None: of none), with which it may set what only
        drivers may."""
        session = self.open(host_ref, "SM")
        if sr:
            self._database.set("session", session, other_config={SM_SESSION: sr})
        return session

    def check(self, session):
        """Raises SESSION_INVALID [ref] unless it is a session."""
        try:
            self._database.set("session", session, last_active=Timestamp.now())
        except Failure:
            raise Failure("SESSION_INVALID", session) from None

    def close(self, session):
        """End it; one that has ended already is no error."""
        with self._lock:
            if self._database.exists("session", session):
                self._database.destroy("session", session)

    def _make_room(self):
        with self._lock:
            if len(self._database.refs("session")) < _MOST_SESSIONS:
                return
            records = self._database.records("session")
            self._database.destroy(
                "session", min(records, key=lambda ref: records[ref]["last_active"])
            )


def assert_internal_access(context, sr):
    """Raises PERMISSION_DENIED unless the call's session is one that xapi opened for a driver of
    this SR (sm.ml)."""
    if context.database.get("session", context.session, "other_config").get(SM_SESSION) != sr:
        raise Failure("PERMISSION_DENIED", "")


@call(
    "session.login_with_password",
    "uname:string pwd:string version:string? originator:string?",
    needs_session=False,
    is_async=False,
)
def login_with_password(context, uname, pwd, _version, originator):
    sessions = context.pool.sessions
    if context.local:
        return sessions.open(context.host, originator)
    return sessions.login(uname, pwd, originator, context.pool.own_host)


@call(
    "session.slave_local_login_with_password",
    "uname:string pwd:string",
    needs_session=False,
    is_async=False,
)
def slave_local_login_with_password(context, uname, pwd):
    return login_with_password(context, uname, pwd, "", "")


@call("session.logout", is_async=False)
def logout(context):
    context.pool.sessions.close(context.session)


@call("session.local_logout", is_async=False)
def local_logout(context):
    context.pool.sessions.close(context.session)
