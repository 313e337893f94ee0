"""Tasks of xapi: ours, that shows a migration to the user, and those that xapi ends for us."""
import time

import XenAPI

from storage_motion.errors import MotionError, TimedOut

POLL = 0.2


class TaskFailed(MotionError):
    """[code, detail, ...] of what xapi ended the task with."""
    code = "SXM_TASK_FAILED"

    def failure(self):
        """xapi's own error, when it gave one."""
        return self.details or [self.code]


class ProgressTask:
    """A Task of the source pool, which `xe task-list` and XenCenter show (facts: xapi.md, Small things)."""

    def __init__(self, session, ref):
        self._session = session
        self.ref = ref

    @classmethod
    def create(cls, session, label, description, vm_ref, other_config):
        """`vm_ref`: what XenCenter shows it with. `other_config`: more keys for it."""
        task = session.xenapi.task.create(label, description)
        keys = dict(other_config, applies_to=vm_ref, XenCenterMeddlingActionTitle=label)
        for key, value in sorted(keys.items()):
            session.xenapi.task.add_to_other_config(task, key, value)
        return cls(session, task)

    @property
    def uuid(self):
        """Its UUID."""
        return self._session.xenapi.task.get_uuid(self.ref)

    def progress(self, fraction):
        """`fraction`: 0 to 1. A task that the user has destroyed is shown no more, and hinders nothing."""
        self._quietly(self._session.xenapi.task.set_progress, min(1.0, max(0.0, float(fraction))))

    def finish(self, status, error=()):
        """`status`: success, failure or cancelled. `error`: [code, detail, ...]."""
        if error:
            self._quietly(self._session.xenapi.task.set_error_info, list(error))
        if status == "success":
            self._quietly(self._session.xenapi.task.set_progress, 1.0)
        self._quietly(self._session.xenapi.task.set_status, status)

    def _quietly(self, call, value):
        try:
            call(self.ref, value)
        except XenAPI.Failure as failure:
            # A destroyed task; or a xapi that is older than the call (set_error_info came with 21.3).
            if failure.details[0] not in ("HANDLE_INVALID", "MESSAGE_METHOD_UNKNOWN"):
                raise


def wait(session, task, timeout):
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
