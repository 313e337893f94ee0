# SPDX-License-Identifier: LGPL-2.1-only
"""A pool's database on disk. xapi writes it every five minutes, and upon `pool.sync_database`: what
was noted since then a crash of xapi takes back (docs/facts/xapi.md, The database and crashes).

The call writes the master's file first thing, within milliseconds; but it answers only when all
members have theirs, and a member that is off or hung holds it up for minutes, and all calls behind
it. So it is made as a task, and the master is asked how far its own disk is. Both are told in
generations, which every change of the database increases: `event.inject` answers that of now
(xapi_event.ml). No clock is compared. A pool with HA writes to its metadata VDI alone, and reads
that when xapi starts (xapi_pool.ml): there the end of the task is the proof. Should a call of
somebody else hold up ours, xapi's own writing every five minutes comes in time (db_cache_impl.ml,
`spawn_db_flush_threads`).
"""

import json
import logging
import time
from typing import Any, Optional

import XenAPI

from storage_motion.errors import NotDurable
from storage_motion.xapi.session import NOT_XAPI, reason

FUNCTION = "database-generation"  # of our plugin, on the master
BOUND = 330.0  # seconds: xapi's own period, 300 s, and a little
POLL = 0.03
PROMPT = 0.5  # seconds for the task to end, before the master's disk is looked at
LOOK = 0.5  # seconds between two looks
AGAIN = 1.0  # seconds before a xapi that is away is asked again

log = logging.getLogger("sxm")


def sync(session: "XenAPI.Session", bound: Optional[float] = None) -> None:
    """Have on the disk of the pool's master all that its database holds now. Raises NotDurable if
    that is not proven in `bound` seconds.

    xapi may have been restarted meanwhile, with an older database: so look once more, afterwards,
    for what is to be kept."""
    begun = time.monotonic()
    end = begun + (BOUND if bound is None else bound)
    why = "no answer"
    while True:
        try:
            _Sync(session).wait(end)
            log.info("a database is on disk, after %.3f s", time.monotonic() - begun)
            return
        except (OSError,) + NOT_XAPI as error:
            why = reason(error)
        except XenAPI.Failure as failure:
            why = " ".join(str(detail) for detail in failure.details)
        if time.monotonic() > end:
            raise NotDurable(why)
        time.sleep(AGAIN)


class _Sync:
    """One call. Its constructor raises as every call of xapi does."""

    def __init__(self, session: "XenAPI.Session") -> None:
        self._xapi = session.xenapi
        (pool,) = self._xapi.pool.get_all()
        self._master = self._xapi.pool.get_master(pool)
        self._wanted = int(self._xapi.event.inject("pool", pool).partition(",")[0])
        self._task = self._xapi.Async.pool.sync_database()

    def wait(self, end: float) -> None:
        """Until it is proven. Raises NotDurable after `end` (time.monotonic()), or whatever xapi
        makes of a question."""
        look = time.monotonic() + PROMPT
        try:
            while True:
                status = self._xapi.task.get_status(self._task)
                if status == "success":
                    return
                now = time.monotonic()
                if (status != "pending" or now > look) and self._on_disk() > self._wanted:
                    return
                if status != "pending":
                    raise XenAPI.Failure(self._xapi.task.get_error_info(self._task) or [status])
                if now > look:
                    look = now + LOOK
                if now > end:
                    raise NotDurable(
                        "pool.sync_database has not ended, and the master's file is older than the "
                        "call"
                    )
                time.sleep(POLL)
        finally:
            self._forget()

    def _on_disk(self) -> Any:
        return json.loads(self._xapi.host.call_plugin(self._master, "sxm.py", FUNCTION, {}))[
            "generation"
        ]

    def _forget(self) -> None:
        try:
            self._xapi.task.destroy(self._task)  # one that is pending goes when it has ended
        except (XenAPI.Failure, OSError) + NOT_XAPI:
            pass
