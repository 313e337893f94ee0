# SPDX-License-Identifier: LGPL-2.1-only
"""What is done with a VDI or an SR just now: in its current_operations, one at a time."""

import time

from lab.xapi.failures import Failure

OTHERS_TIMEOUT = 7200.0
"""Seconds for which xapi waits for another operation on the object (helpers.ml, Policy)."""
OTHERS_POLL = 0.05


class Operation:
    """While it lasts, the object's current_operations show it, and another operation on the object
    waits (Helpers.retry_with_global_lock), unless its task is cancelled."""

    def __init__(self, context, class_name, ref, name, admit=lambda: None):
        """`admit()`: raises what forbids it, once nobody else is at the object."""
        self._context, self._class, self._ref, self._name = context, class_name, ref, name
        self._key = context.task or "OpaqueRef:call-%s" % id(self)
        self._admit = admit
        self.record = None

    def __enter__(self):
        deadline, task = time.monotonic() + OTHERS_TIMEOUT, self._context.task
        while not self._begun():
            if task and self._context.pool.tasks.is_cancelling(task):
                raise Failure("TASK_CANCELLED", task)
            if time.monotonic() > deadline:
                raise Failure("OTHER_OPERATION_IN_PROGRESS", self._class, self._ref, self._name)
            time.sleep(OTHERS_POLL)
        return self

    def _begun(self):
        """Begin it, unless another operation is in progress."""
        database = self._context.database
        with database.lock:
            self.record = database.record(self._class, self._ref)
            if self.record["current_operations"]:
                return False
            self._admit()
            database.add_to(self._class, self._ref, "current_operations", self._key, self._name)
            return True

    def __exit__(self, *_):
        database = self._context.database
        with database.lock:
            if database.exists(self._class, self._ref):
                database.remove_from(self._class, self._ref, "current_operations", self._key)
