# SPDX-License-Identifier: LGPL-2.1-only
"""Tasks of xapi: ours, that shows a migration to the user, and those that xapi ends for us."""

import logging
import time
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence

import XenAPI

from storage_motion.errors import TaskFailed, TimedOut
from storage_motion.xapi.session import NOT_XAPI, at_once, reason

POLL = 0.2
CANCEL_INTERVAL = 1.0  # seconds between two looks at whether somebody cancels the task

log = logging.getLogger("sxm")


class Shown(NamedTuple):
    """What a task shows the user. `label`: the operation as which it is shown. `vm`: the ref of the
    VM that XenCenter shows it with. `keys`: more of its other_config."""

    label: str
    description: str
    vm: str
    keys: Dict[str, str]


class ProgressTask:
    """A Task of the source pool, which `xe task-list`, XenCenter and Xen Orchestra show. In the
    latter two the buttons that cancel a task are off for it (docs/facts/xapi.md, Tasks of a
    client).

    Tasks are in xapi's memory only, so a restart of xapi takes it away, as does its housekeeping
    after a day without progress (db_gc_util.ml): another one takes its place then. Nothing waits
    for a xapi that is away: the next report tells more."""

    def __init__(self, session: "XenAPI.Session", shown: Shown, ref: Optional[str] = None) -> None:
        """`ref`: of one that is there; else it is made. `noted(uuid)`: called for each that is made
        in place of a lost one."""
        self._session = session
        self._shown = shown
        self._asked: Optional[float] = None
        self.noted: Callable[[str], None] = lambda uuid: None
        self.ref: str = ref or self._made(session)

    def _made(self, session: "XenAPI.Session") -> str:
        api = session.xenapi
        task = api.task.create(self._shown.label, self._shown.description)
        keys = dict(self._shown.keys, applies_to=self._shown.vm)
        for key, value in sorted(keys.items()):
            api.task.add_to_other_config(task, key, value)
        return task

    @property
    def uuid(self) -> str:
        """Its UUID."""
        return self._session.xenapi.task.get_uuid(self.ref)

    def progress(self, fraction: float) -> None:
        """`fraction`: 0 to 1."""
        value = min(1.0, max(0.0, float(fraction)))
        self._ask(
            at_once(self._session),
            lambda session: session.xenapi.task.set_progress(self.ref, value),
        )

    def cancel_asked(self) -> bool:
        """Whether somebody has said `task.cancel`, as `xe task-cancel` does: xapi only notes that
        (xapi_task.ml), and it is for us to look, which is done once in CANCEL_INTERVAL at
        most."""
        if self._asked is not None and time.monotonic() - self._asked < CANCEL_INTERVAL:
            return False
        self._asked = time.monotonic()
        operations = self._ask(
            at_once(self._session),
            lambda session: session.xenapi.task.get_current_operations(self.ref),
        )
        return "cancel" in (operations or {}).values()

    def finish(self, status: str, error: Sequence[str] = ()) -> None:
        """`status`: success, failure or cancelled. `error`: [code, detail, ...]."""
        if error:
            self._ask(
                self._session,
                lambda session: session.xenapi.task.set_error_info(self.ref, list(error)),
            )
        if status == "success":
            self._ask(
                self._session, lambda session: session.xenapi.task.set_progress(self.ref, 1.0)
            )
        self._ask(self._session, lambda session: session.xenapi.task.set_status(self.ref, status))

    def _ask(self, session: "XenAPI.Session", call: Callable[["XenAPI.Session"], Any]) -> Any:
        """What `call(session)` answers; None if there is no answer now. What is only shown ends no
        migration."""
        try:
            try:
                return call(session)
            except XenAPI.Failure as failure:
                if failure.details[0] != "HANDLE_INVALID":
                    raise
            self.ref = self._made(session)
            self.noted(session.xenapi.task.get_uuid(self.ref))
            return call(session)
        except XenAPI.Failure as failure:
            # A xapi that is older than the call (set_error_info came with 21.3), or that is
            # starting, or else.
            log.warning("the task that shows the migration: %s", failure.details[0])
        except (OSError,) + NOT_XAPI as error:
            # The session tells the log of an outage, once.
            log.debug("the task that shows the migration: %s", reason(error))
        return None


def run(session: "XenAPI.Session", begin: Callable[[], str], timeout: float) -> Any:
    """The result of what `begin()` has xapi begin: a task, and may be begun twice. It is, where
    xapi has been restarted, and has forgotten the task.

    Raises TaskFailed with its error, or TimedOut."""
    end = time.monotonic() + timeout
    while True:
        try:
            return wait(session, begin(), end - time.monotonic())
        except XenAPI.Failure as failure:
            if failure.details[:2] != ["HANDLE_INVALID", "task"]:
                raise


def wait(session: "XenAPI.Session", task: str, timeout: float) -> Any:
    """Wait up to `timeout` seconds for a task that xapi works on. Returns its result.

    Raises TaskFailed with its error, or TimedOut."""
    end = time.monotonic() + timeout
    while True:
        status = session.xenapi.task.get_status(task)
        if status == "success":
            return session.xenapi.task.get_result(task)
        if status in ("failure", "cancelled"):
            raise TaskFailed(*(session.xenapi.task.get_error_info(task) or [status]))
        if time.monotonic() > end:
            raise TimedOut("task of xapi", "%g" % timeout)
        time.sleep(POLL)
