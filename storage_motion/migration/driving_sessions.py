# SPDX-License-Identifier: LGPL-2.1-only
"""The sessions with xapi of whoever drives a migration. Those of one that was killed are ended
before his recovery looks at anything.

A call outlives who has made it: xapi reads it from a connection that nobody is at any more, and a
member sends it on to its master by a connection of its own (api_server.ml, forward). But the master
looks at a call's session as it begins with it (session_check.ml), and refuses one whose session has
been ended: SESSION_INVALID. So what had not begun by then never does, be it HA's restart priority,
a mark, a block or a reset; and what a plugin goes on with for the dead one ends there, as it has
his session (xapi_plugins.ml). What had begun is a write of xapi's database, or is waited for by who
knows it; the recovery looks once more at its end, behind the sync.

A session's reference is as good as a password while it lasts: so it is among the secrets.
"""

import contextlib
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Dict, List

from storage_motion.dom0 import root
from storage_motion.errors import NotNoted
from storage_motion.journal import journal, secret_files
from storage_motion.xapi import session as sessions

if TYPE_CHECKING:
    import XenAPI

NAME = "sessions"  # of the secret: {SOURCE or DESTINATION: references of sessions}
SOURCE, DESTINATION = "source", "destination"

_ALONE = threading.Lock()  # threads share a session, and each may log in anew

log = logging.getLogger("sxm")


def begin(migration: str, side: str, session: "XenAPI.Session") -> None:
    """Before anything else is asked for by a session of this process with the pool of a `side`:
    note it, and end those that were noted before.

    Idempotent. Raises NotNoted, XenAPI.Failure, or what a call fails with: a call of a dead one may
    come still, and nothing is to be looked at yet."""
    own = session.handle
    with _ALONE:
        earlier = [one for one in _noted(migration).get(side, []) if one != own]
        _note(migration, side, earlier + [own])
    session.began = _Noting(migration, side, own)
    for one in earlier:
        sessions.end_surely(session, one)
    if earlier:
        log.info("%s: %d earlier sessions with the %s are ended", migration, len(earlier), side)
        _drop(migration, side, earlier)


def end(migration: str, side: str, session: "XenAPI.Session") -> None:
    """End it, and forget it. Those that could not be ended before stay noted."""
    began = getattr(session, "began", None)
    own = list(began.own) if isinstance(began, _Noting) else [session.handle]
    sessions.logout(session)
    try:
        _drop(migration, side, own + [session.handle])
    except NotNoted as error:
        # who comes next ends one that has ended; what this one has come to is what counts
        log.warning("%s: %s", migration, error)


class _Noting:
    """Notes each session that is logged in anew as xapi knew the one before no more. `own`: all of
    them. Several threads may do so at once, and any of theirs may be what a call is made by."""

    def __init__(self, migration: str, side: str, first: str) -> None:
        self.own = [first]
        self._migration, self._side = migration, side

    def __call__(self, reference: str) -> None:
        """It was logged in. Nothing, when the migration has ended."""
        try:
            with _ALONE:
                noted = _noted(self._migration).get(self._side, [])
                known = bool(set(self.own) & set(noted))
                self.own.append(reference)
                if known:
                    _note(self._migration, self._side, noted + [reference])
        except NotNoted as error:
            # what is asked for may be what the guest's pause waits for
            log.warning("%s: %s", self._migration, error)


def _drop(migration: str, side: str, references: List[str]) -> None:
    with _ALONE:
        noted = _noted(migration)
        left = [one for one in noted.get(side, []) if one not in references]
        if any(dict(noted, **{side: left}).values()):
            _note(migration, side, left)
        else:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(_path(migration))


def _note(migration: str, side: str, references: List[str]) -> None:
    secret_files.keep(migration, NAME, dict(_noted(migration), **{side: references}))


def _noted(migration: str) -> Dict[str, Any]:
    if not os.path.exists(_path(migration)):
        return {}
    found: Dict[str, Any] = secret_files.get(migration, NAME)
    return found


def _path(migration: str) -> str:
    return root.path("%s/%s/%s.json" % (journal.RUN, journal.check_id(migration), NAME))
