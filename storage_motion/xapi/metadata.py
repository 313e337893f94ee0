# SPDX-License-Identifier: LGPL-2.1-only
"""Taking a VM's metadata out of one pool and bringing it into another: /export_metadata and
/import_metadata.

The archive is a tar with one member, `ova.xml`; it is held in memory, with a bound, and never
written to disk: it is a secret (ova.py). Session and task go in the query: xapi does not trim
cookies, and older ones split them elsewhere (docs/facts/xapi.md, Run, 2).
"""

import http.client
import io
import tarfile
import urllib.parse
from typing import TYPE_CHECKING, Callable, List, Optional

from storage_motion.errors import BadMetadata, TaskFailed, TimedOut, Unreachable
from storage_motion.xapi import ova, tasks, transport
from storage_motion.xapi.session import NOT_XAPI, reason

if TYPE_CHECKING:
    import XenAPI

MEMBER = "ova.xml"
MAX_ARCHIVE = ova.MAX_BYTES + 1024 * 1024
IMPORT_TIMEOUT = 120.0
# of an import whose connection broke: a task that was refused has ended by then
REFUSAL_TIMEOUT = 10.0
CHUNK = 64 * 1024
LEFT_OUT = "(left out)"
# A shorter part of a TPM's contents tells nothing, and may stand in any text.
SHORTEST_SECRET = 8
# HTTP statuses of a xapi that has been restarted since the session began, or is starting
AWAY = (401, 500, 502, 503)


class NotAsked(Unreachable):
    """Nothing has come of it: it may be asked again."""


def export(session: "XenAPI.Session", vm_ref: str, snapshots: bool = False) -> bytes:
    """The `ova.xml` (bytes) of a VM of this host's pool, over the local socket. Raises BadMetadata
    or NotAsked."""
    query = urllib.parse.urlencode(
        [("session_id", session.handle), ("export_snapshots", _flag(snapshots)), ("ref", vm_ref)]
    )
    connection = transport.local_connection()
    try:
        connection.request("GET", "/export_metadata?" + query)
        answer = connection.getresponse()
        if answer.status in AWAY:
            raise NotAsked(transport.LOCAL_SOCKET, "HTTP status %d" % answer.status)
        if answer.status != 200:
            raise BadMetadata("export_metadata: HTTP status %d" % answer.status)
        archive = answer.read(MAX_ARCHIVE + 1)
    except (OSError, http.client.HTTPException) as error:
        raise NotAsked(transport.LOCAL_SOCKET, reason(error))
    finally:
        connection.close()
    return unpack(archive)


def unpack(archive: bytes) -> bytes:
    """The `ova.xml` (bytes) of an archive (bytes). Raises BadMetadata."""
    if len(archive) > MAX_ARCHIVE:
        raise BadMetadata("more than %d bytes" % MAX_ARCHIVE)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            member = tar.next()
            # Not isreg(): a sparse member would be regular, too, and its size is only what it
            # claims.
            if (
                member is None
                or member.name != MEMBER
                or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE)
            ):
                raise BadMetadata("no %s at the start of the archive" % MEMBER)
            if member.size > ova.MAX_BYTES:
                raise BadMetadata("more than %d bytes" % ova.MAX_BYTES)
            content = tar.extractfile(member)
            assert content is not None
            document = content.read()
    except (tarfile.TarError, EOFError):
        raise BadMetadata("not a tar archive") from None
    if len(document) != member.size:
        raise BadMetadata("the archive ends in the middle of %s" % MEMBER)
    return document


def pack(document: bytes) -> bytes:
    """The archive (bytes) of an `ova.xml` (bytes)."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(MEMBER)
        member.size = len(document)
        tar.addfile(member, io.BytesIO(document))
    return archive.getvalue()


def bring(
    session: "XenAPI.Session",
    url: str,
    document: bytes,
    check_cpu: bool,
    dry_run: bool = False,
    copy: bool = False,
    asked: Callable[[str], None] = lambda task: None,
) -> None:
    """Import `document` at the host whose xapi answers at `url` (a base URL), as a VM that arrives
    live.

    `session`: of that host's pool. `dry_run`: only ask whether it could. The VM keeps its UUID,
    MAC addresses and generation id; a `copy` gets new ones. `asked`: called with the task's ref
    just before the document is sent, from when on the import may go on without us. Raises
    tasks.TaskFailed with xapi's own error, NotAsked, Unreachable, or TimedOut; XenAPI.Failure,
    HANDLE_INVALID of a task, where xapi was restarted meanwhile: then all of the VM is there, a
    part of it, or nothing."""
    archive = pack(document)
    task = session.xenapi.task.create("Import of a VM's metadata", "")
    query = urllib.parse.urlencode(
        [
            ("session_id", session.handle),
            ("task_id", task),
            ("restore", _flag(not copy)),
            # "live" keeps the generation id (import.ml, VM.do_import), as xapi's own copies do. By
            # it a guest learns that it is a copy. A dry run is to find no disks, so is "live", too.
            ("live", _flag(dry_run or not copy)),
            ("dry_run", _flag(dry_run)),
            ("check_cpu", _flag(check_cpu)),
            ("force", "false"),
            ("export_snapshots", "false"),
        ]
    )
    try:
        connection = _connected(session, url, task, asked)
        trouble = _put(connection, "/import_metadata?" + query, archive)
        try:
            tasks.wait(session, task, REFUSAL_TIMEOUT if trouble else IMPORT_TIMEOUT)
        except TaskFailed as failed:
            # Of what it cannot read xapi may quote some (Printexc.to_string, in INTERNAL_ERROR).
            raise TaskFailed(*_without(ova.contents(document), failed.details)) from None
        except TimedOut:
            if trouble:
                raise Unreachable(url, "import_metadata: %s" % trouble)
            raise
    finally:
        session.xenapi.task.destroy(task)


def _connected(
    session: "XenAPI.Session", url: str, task: str, asked: Callable[[str], None]
) -> http.client.HTTPConnection:
    """A connection by which nothing was sent yet. Raises NotAsked where there is none, and what
    `asked(task)` raises. The task is cancelled then: nobody works on it, so it would be pending,
    even when destroyed, until xapi is restarted or a day is over (xapi_task.ml, destroy;
    db_gc_util.ml, timeout_tasks)."""
    connection = transport.connection(url)
    try:
        try:
            connection.connect()
        except (OSError,) + NOT_XAPI as error:
            raise NotAsked(url, reason(error))
        asked(task)
    except BaseException:
        connection.close()
        session.xenapi.task.set_status(task, "cancelled")
        raise
    return connection


def _put(connection: http.client.HTTPConnection, path: str, body: bytes) -> Optional[str]:
    """None, or what went wrong, in words. xapi resets the connection of an import that it refuses,
    before it has read the archive: only the task tells what came of it."""
    try:
        connection.request("PUT", path, body=body)
        answer = connection.getresponse()
        answer.read(CHUNK)
        return None if answer.status == 200 else "HTTP status %d" % answer.status
    except (OSError,) + NOT_XAPI as error:
        return reason(error)
    finally:
        connection.close()


def _without(secrets: List[str], details: List[str]) -> List[str]:
    """The details of an error, without the parts of these contents: three texts in base64 with a
    space between them (xapi-guard's types.ml)."""
    parts = [part for secret in secrets for part in secret.split(" ")]
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= SHORTEST_SECRET:
            details = [detail.replace(part, LEFT_OUT) for detail in details]
    return details


def _flag(value: bool) -> str:
    return "true" if value else "false"
