# SPDX-License-Identifier: LGPL-2.1-only
"""Tasks: those of Async calls, and those that clients make themselves."""

import logging
import threading

from lab.xapi import wire
from lab.xapi.calls import call
from lab.xapi.database import new_uuid
from lab.xapi.failures import Failure, internal_error
from lab.xapi.schema import Timestamp

COMPLETED = ("success", "failure", "cancelled")

log = logging.getLogger("xapi.task")


class Tasks:
    """The tasks of a pool."""

    def __init__(self, database):
        self._database = database

    def create(self, label, description="", host="OpaqueRef:NULL", parent="OpaqueRef:NULL"):
        """A pending task."""
        return self._database.create(
            "task",
            {
                "name_label": label,
                "name_description": description,
                "created": Timestamp.now(),
                "resident_on": host,
                "subtask_of": parent,
                "type": "<none/>",
            },
        )

    def run(self, task, work, wait_durable):
        """Run `work()` in a thread of its own and complete the task with what comes of it."""
        threading.Thread(
            target=self._run, args=(task, work, wait_durable), name="async-call", daemon=True
        ).start()

    def _run(self, task, work, wait_durable):
        try:
            value = work()
            wait_durable()
        except Failure as failure:
            self.fail(task, failure)
        except Exception as error:  # whatever it was, the task must not stay pending
            log.exception("the work of a task failed")
            self.fail(task, internal_error(error))
        else:
            self.succeed(task, value)

    def succeed(self, task, value=None):
        """Complete it with `value` (XenAPI's `<value>..</value>`; nothing for a call without a
        result)."""
        self._complete(
            task, status="success", result="" if value is None else wire.value_document(value)
        )

    def fail(self, task, failure):
        """Complete it with a Failure; one that says TASK_CANCELLED makes it cancelled."""
        status = "cancelled" if failure.code == "TASK_CANCELLED" else "failure"
        self._complete(task, status=status, error_info=failure.description)

    def _complete(self, task, **fields):
        with self._database.lock:
            if not self._database.exists("task", task):
                return  # its client destroyed it meanwhile
            if self._database.get("task", task, "status") in COMPLETED:
                return
            self._database.set(
                "task",
                task,
                finished=Timestamp.now(),
                progress=1.0,
                allowed_operations=[],
                **fields,
            )
            self.collect(task)

    def collect(self, task):
        """Remove a task that somebody has destroyed while it was pending, once it is complete. xapi
        does it within half a minute (db_gc_util.ml, timeout_tasks), this one at once."""
        with self._database.lock:
            record = self._database.record("task", task)
            if record["status"] in COMPLETED and "destroy" in record["current_operations"].values():
                self._database.destroy("task", task)

    def is_cancelling(self, task):
        """Has somebody asked for it to be cancelled?"""
        with self._database.lock:
            return (
                self._database.exists("task", task)
                and "cancel" in self._database.get("task", task, "current_operations").values()
            )


@call("task.create", "label:string description:string", is_async=False)
def create(context, label, description):
    return context.pool.tasks.create(label, description, context.pool.own_host)


@call("task.destroy", "self:ref(task)", is_async=False)
def destroy(context, self):
    database = context.database
    with database.lock:
        if database.get("task", self, "status") in COMPLETED:
            database.destroy("task", self)
        else:  # it goes when it is complete
            database.add_to("task", self, "current_operations", "task", "destroy")


@call("task.cancel", "task:ref(task)")
def cancel(context, task):
    """Note the wish: whoever does the work looks for it in current_operations, where it stays
    (xapi_task.ml)."""
    asking = context.task or "DummyRef:|%s|task.cancel" % new_uuid()
    context.database.set("task", task, current_operations={asking: "cancel"})


@call("task.set_status", "self:ref(task) value:enum(task_status_type)", is_async=False)
def set_status(context, self, value):
    context.database.set("task", self, status=value)
    context.pool.tasks.collect(self)
