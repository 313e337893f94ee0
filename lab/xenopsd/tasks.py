# SPDX-License-Identifier: LGPL-2.1-only
"""The tasks of xenopsd, in the encoding of xenops_interface.ml (module Task)."""

import datetime
import logging
import threading
import time

from lab.xenopsd.errors import XenopsError, does_not_exist, encode_any

log = logging.getLogger("xenopsd")


class Task:
    """One operation under way."""

    def __init__(self, identity, debug_info):
        self.id = identity
        self.debug_info = debug_info
        self.created = time.time()
        self.state = ["Pending", 0.0]
        self.cancelled = threading.Event()
        self.done = threading.Event()

    def progress(self, fraction):
        """Record how far it is (0 to 1); raises Cancelled if the task was cancelled."""
        self.check_cancelled()
        self.state = ["Pending", float(fraction)]

    def check_cancelled(self):
        """Raise Cancelled if the task was cancelled."""
        if self.cancelled.is_set():
            raise XenopsError("Cancelled", self.id)

    def encode(self):
        """Task.t as XML-RPC values."""
        created = datetime.datetime.fromtimestamp(self.created, datetime.timezone.utc)
        return {
            "id": self.id,
            "dbg": self.debug_info,
            "ctime": self.created,
            "state": self.state,
            "subtasks": [],
            "debug_info": [["created", created.isoformat()]],
            "backtrace": "()",
            "cancellable": not self.done.is_set(),
        }


class Tasks:
    """All tasks of this xenopsd; they do not outlive it."""

    def __init__(self):
        self._tasks = {}
        self._lock = threading.Lock()
        self._count = 0

    def start(self, debug_info, work):
        """Run `work(task)` in a thread; its result becomes the task's. The task."""
        with self._lock:
            self._count += 1
            task = self._tasks[str(self._count)] = Task(str(self._count), debug_info)
        threading.Thread(target=self._run, args=(task, work), daemon=True).start()
        return task

    def get(self, identity):
        """The task of this id; raises Does_not_exist."""
        with self._lock:
            if identity not in self._tasks:
                raise does_not_exist("task", identity)
            return self._tasks[identity]

    def all(self):
        """Every task."""
        with self._lock:
            return list(self._tasks.values())

    def destroy(self, identity):
        """Forget it."""
        self.get(identity)
        with self._lock:
            self._tasks.pop(identity, None)

    @staticmethod
    def _run(task, work):
        try:
            result = work(task)
            completion = {"duration": time.time() - task.created}
            if result is not None:
                completion["result"] = result
            task.state = ["Completed", completion]
        except Exception as error:  # whatever it is, it is the task's outcome
            log.exception("task %s failed", task.id)
            task.state = ["Failed", encode_any(error)]
        task.done.set()
