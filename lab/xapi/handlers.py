# SPDX-License-Identifier: LGPL-2.1-only
"""The HTTP requests of xapi that are not API calls: /export_metadata, /import_metadata."""

import logging

from lab.xapi import metadata_export, metadata_import
from lab.xapi.context import Context
from lab.xapi.failures import Failure, internal_error
from lab.xapi.http_server import RESET, refusal, response

log = logging.getLogger("xapi.handlers")


def context(pool, request, host_uuid):
    """For whom the request is: a session by cookie or query, or dom0's root over the unix socket.
    Raises SESSION_INVALID."""
    session = request.cookies.get("session_id") or request.query.get("session_id")
    found = Context(pool, session, host_uuid is not None, host_uuid)
    if host_uuid is None or session:
        pool.sessions.check(session or "")
    return found


class _WithTask:
    """What a request does is the task of its `task_id`; that is complete when the request is."""

    def __init__(self, pool, request, label):
        self._pool = pool
        given = request.cookies.get("task_id") or request.query.get("task_id")
        self._own = not given
        self.task = given or pool.tasks.create(label, host=pool.own_host)

    def run(self, work):
        """(what `work` answered, None) or (None, the Failure)."""
        try:
            value = work()
            self._pool.wait_durable()
        except Failure as failure:
            self._pool.tasks.fail(self.task, failure)
            return None, failure
        except Exception as error:  # whatever it was, the task must not stay pending
            log.exception("a request failed")
            failure = internal_error(error)
            self._pool.tasks.fail(self.task, failure)
            return None, failure
        self._pool.tasks.succeed(self.task, value if isinstance(value, list) else None)
        return value, None

    def forget(self):
        if self._own and self._pool.database.exists("task", self.task):
            self._pool.database.destroy("task", self.task)


def export_metadata(pool, request, host_uuid):
    """GET /export_metadata?ref=R|uuid=U&export_snapshots=B"""
    try:
        asking = context(pool, request, host_uuid)
    except Failure as failure:
        return refusal(401, failure.code)
    task = _WithTask(pool, request, "VM.export_metadata")

    def work():
        vm = request.query.get("ref") or pool.database.by_uuid("VM", request.query.get("uuid", ""))
        return metadata_export.export(
            asking.within(task.task), vm, request.query.get("export_snapshots", "true") == "true"
        )

    archive, failure = task.run(work)
    task.forget()
    if failure:
        return refusal(500, str(failure))
    return response(
        archive,
        "application/octet-stream",
        headers=[
            ("task-id", task.task),
            ("Content-Disposition", 'attachment; filename="export.xva"'),
        ],
    )


def import_metadata(pool, request, host_uuid):
    """PUT /import_metadata?restore=B&live=B&dry_run=B&force=B. The VMs are the task's result. Of
    one that is refused the connection is reset, as xapi does, which answers 200 and goes away with
    the rest of the archive unread: why is in the task alone."""
    try:
        asking = context(pool, request, host_uuid)
    except Failure as failure:
        return refusal(401, failure.code)
    flags = {
        name: request.query.get(name) == "true" for name in ("restore", "live", "dry_run", "force")
    }
    prefix = "vdi:"
    options = metadata_import.Options(
        vdi_map={
            key[len(prefix) :]: value
            for key, value in request.query.items()
            if key.startswith(prefix)
        },
        **flags,
    )
    task = _WithTask(pool, request, "VM.metadata_import")
    _, failure = task.run(
        lambda: metadata_import.run(
            asking.within(task.task), metadata_import.read_ova(request.body), options
        )
    )
    task.forget()
    if failure:
        return RESET
    return response(b"", "application/octet-stream", headers=[("task-id", task.task)])
