# SPDX-License-Identifier: LGPL-2.1-only
"""message: what the pool tells its administrator."""

from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.schema import Timestamp

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
