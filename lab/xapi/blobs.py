# SPDX-License-Identifier: LGPL-2.1-only
"""blob: files of anything that belong to a VM (xapi_blob.ml).

The database has the record of one. Its file is the very host's that PUT /blob was sent to: no other
one is asked for it, and none is told. (The real master gives its own to the members once a day:
xapi_sync.ml; this one does not.)
"""

import contextlib
import os

from lab.xapi import forwarding
from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.http_server import Reading, refusal, response
from lab.xapi.schema import EPOCH, Timestamp

DIRECTORY = "/var/lib/xcp/blobs"
PATH = "/blob"
_ANY = "application/octet-stream"


@call("VM.create_new_blob", "vm:ref(VM) name:string mime_type:string public:bool?", is_async=False)
def create_of_vm(context, vm, name, mime_type, public):
    """Raises MAP_DUPLICATE_KEY where the VM has one of that name: then there is one more, which no
    VM has."""
    blob = create(context, mime_type, public)
    with context.database.lock:
        blobs = context.database.get("VM", vm, "blobs")
        if name in blobs:
            raise Failure("MAP_DUPLICATE_KEY", "VM", "blobs", vm, name)
        context.database.set("VM", vm, blobs=dict(blobs, **{name: blob}))
    return blob


@call("blob.create", "mime_type:string public:bool?", is_async=False)
def create(context, mime_type, public):
    return context.database.create(
        "blob", {"mime_type": mime_type or _ANY, "public": public, "size": 0, "last_updated": EPOCH}
    )


@call("blob.destroy", "self:ref(blob)", is_async=False)
def destroy(context, self):
    remove(context.pool, self)


def remove(pool, blob):
    """Destroy it, and the master's file of it."""
    database = pool.database
    with database.lock:
        path = os.path.join(pool.config.root + DIRECTORY, database.get("blob", blob, "uuid"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        for vm in database.refs("VM"):
            blobs = database.get("VM", vm, "blobs")
            kept = {name: ref for name, ref in blobs.items() if ref != blob}
            if kept != blobs:
                database.set("VM", vm, blobs=kept)
        database.destroy("blob", blob)


class BlobService:
    """GET and PUT /blob at one host. `xapi`: its Xapi; `xapi.known_blob(ref, uuid)`: what the
    pool's master says of one (`known`), `xapi.put_blob(ref, size)`: has it note that it is here."""

    def __init__(self, xapi):
        self._xapi = xapi

    def answer(self, request):
        """The Response to one of these; None for anything else."""
        if request.path != PATH or request.method not in ("GET", "PUT"):
            return None
        if not {"ref", "uuid"} & set(request.query):
            return refusal(400, "bad request")
        session = request.query.get("session_id") or request.cookies.get("session_id")
        known = self._xapi.known_blob(request.query.get("ref"), request.query.get("uuid"))
        public = known and known["public"] and request.method == "GET"
        may = request.local or forwarding.is_authentic(
            request.cookies, self._xapi.config.pool_secret
        )
        if not public and not may and not self._xapi.is_session(session or ""):
            return refusal(401, "SESSION_INVALID")
        if known is None:
            return refusal(404, "Unknown reference\n")
        path = os.path.join(self._xapi.config.root + DIRECTORY, os.path.basename(known["uuid"]))
        if request.method == "GET":
            return self._get(path, known)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "wb"):
            """Before anything of the body is read it is empty."""
        length = request.headers.get("Content-Length")
        if length is None:
            return refusal(500, "Need content length")
        return Reading(None, lambda body: self._take(path, known["ref"], body), int(length))

    def _get(self, path, known):
        try:
            with open(path, "rb") as file:
                return response(file.read(), known["mime_type"])
        except FileNotFoundError:
            return refusal(404, "missing")

    def _take(self, path, ref, body):
        with open(path, "wb") as file:
            file.write(body)
        self._xapi.put_blob(ref, len(body))


def known(pool, ref, uuid):
    """{"ref", "uuid", "mime_type", "public"} of a blob by its ref or UUID; None: there is none."""
    database = pool.database
    ref = ref or database.find_uuid("blob", uuid or "")
    if not ref or not database.exists("blob", ref):
        return None
    record = database.record("blob", ref)
    return dict({name: record[name] for name in ("uuid", "mime_type", "public")}, ref=ref)


def put(pool, ref, size):
    """A host has taken so many bytes for it."""
    with contextlib.suppress(Failure):  # it was destroyed meanwhile
        pool.database.set("blob", ref, size=size, last_updated=Timestamp.now())
