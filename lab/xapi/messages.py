# SPDX-License-Identifier: LGPL-2.1-only
"""message: what the pool tells its administrator."""

import re
import xml.etree.ElementTree

from lab.xapi import handlers
from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.http_server import RESET, Reading, refusal, response
from lab.xapi.schema import Timestamp

PUT = ("PUT", "/messages")
_IN_ONE_SECOND = 11  # files whose names xapi tries, from a message's second on (xapi_message.ml)
_TEXTS = ("ref", "name", "priority", "cls", "obj_uuid", "timestamp", "uuid", "body", "generation")
_CLASSES = {"VM": "VM", "Host": "host", "SR": "SR", "Pool": "pool", "VDI": "VDI"}


@call(
    "message.create",
    "name:string priority:int cls:enum(cls) obj_uuid:string body:string",
    is_async=False,
)
def create(context, name, priority, cls, obj_uuid, body):
    """Raises UUID_INVALID where there is no such object."""
    if cls not in _CLASSES:
        raise Failure("NOT_IMPLEMENTED", "message.create for class %s" % cls)
    context.database.by_uuid(_CLASSES[cls], obj_uuid)
    message = context.database.create(
        "message",
        {
            "name": name,
            "priority": priority,
            "cls": cls,
            "obj_uuid": obj_uuid,
            "body": body,
            "timestamp": Timestamp.now(),
        },
    )
    context.pool.messages.keep(message)
    return message


@call("message.destroy", "self:ref(message)", is_async=False)
def destroy(context, self):
    context.database.destroy("message", self)
    context.pool.messages.remove(self)


@call("message.get", "cls:enum(cls) obj_uuid:string since:datetime", is_async=False)
def get(context, cls, obj_uuid, since):
    """Raises UUID_INVALID where there is no such object any more."""
    if not _is_there(context.database, cls, obj_uuid):
        raise Failure("UUID_INVALID")
    return {
        ref: record
        for ref, record in context.database.records("message").items()
        if record["cls"] == cls and record["obj_uuid"] == obj_uuid and record["timestamp"] >= since
    }


@call("message.get_since", "since:datetime", is_async=False)
def get_since(context, since):
    return {
        ref: record
        for ref, record in context.database.records("message").items()
        if record["timestamp"] >= since
    }


def _is_there(database, cls, uuid):
    return cls in _CLASSES and database.find_uuid(_CLASSES[cls], uuid) is not None


def put(pool, request, host_uuid):
    """PUT /messages?cls=C&uuid=U (xapi_message.ml, handler): 200 before the body is read; of
    another object than one of this pool there is no answer at all."""
    try:
        handlers.context(pool, request, host_uuid)
    except Failure as failure:
        return refusal(401, failure.code)
    if not {"uuid", "cls"} <= set(request.query):
        return refusal(400, "bad request")
    if not _is_there(pool.database, request.query["cls"], request.query["uuid"]):
        return RESET
    return Reading(None, lambda body: _take(pool, body))


def put_at_member(xapi, request):
    """The same at a member: it sends on to the master."""
    if not {"uuid", "cls"} <= set(request.query):
        return refusal(400, "bad request")
    query = request.target.partition("?")[2]
    url = xapi.known_rrd(request.query["uuid"])["master_url"]
    return response(b"", status=302, headers=[("Location", "%s%s?%s" % (url, request.path, query))])


def _take(pool, body):
    for message in [_read(text) for text in re.split(rb"(?=<\?xml)", body) if text]:
        ref = message.pop("ref")
        message.pop("generation", None)
        with pool.database.lock:
            if pool.database.exists("message", ref):
                continue
            if len(pool.database.where("message", timestamp=message["timestamp"])) < _IN_ONE_SECOND:
                pool.database.create("message", message, ref)
                pool.messages.keep(ref)


def _read(text):
    """The message of a document (of_xml). Raises ValueError."""
    try:
        root = xml.etree.ElementTree.fromstring(text)
    except xml.etree.ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    found = {child.tag: child.text or "" for child in root}
    if root.text or any(child.tail for child in root) or not set(found) <= set(_TEXTS):
        raise ValueError("Bad XML!")
    found["priority"] = int(found["priority"])
    found["timestamp"] = Timestamp(found["timestamp"])
    return found
