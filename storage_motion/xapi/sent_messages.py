# SPDX-License-Identifier: LGPL-2.1-only
"""The messages (alerts) about a VM, as one master sends them to another: they are files of its, and
not in its database (xapi_message.ml)."""

import xmlrpc.client
from typing import TYPE_CHECKING, Any, Dict
from xml.sax.saxutils import escape

from storage_motion.xapi import unanswered

if TYPE_CHECKING:
    import XenAPI

PUT = "/messages"
CLASS = "VM"
EPOCH = xmlrpc.client.DateTime("19700101T00:00:00Z")
# in the order in which xapi writes them (to_xml); the reference goes before
FIELDS = ("name", "priority", "cls", "obj_uuid", "timestamp", "uuid", "body")

Messages = Dict[str, Dict[str, Any]]


def about(session: "XenAPI.Session", vm: str) -> Messages:
    """All messages about a VM (its UUID) that the pool of `session` has, while it has the VM:
    {ref: record}."""
    found: Messages = session.xenapi.message.get(CLASS, vm, EPOCH)
    return found


def send(url: str, session: "XenAPI.Session", vm: str, messages: Messages) -> None:
    """Have the master whose xapi answers at `url` keep messages about a VM (its UUID). Those that
    it has already, by their references, it leaves as they are. Raises Unreachable."""
    path = unanswered.query(session, PUT, [("cls", CLASS), ("uuid", vm)])
    unanswered.put(url, path, document(messages))


def document(messages: Messages) -> bytes:
    """The messages as xapi sends them (export_xml): an XML document each, one behind the other. A
    blank between two elements would make it refuse all of them (of_xml)."""
    return "".join(_one(ref, record) for ref, record in sorted(messages.items())).encode("utf-8")


def _one(ref: str, record: Dict[str, Any]) -> str:
    texts = [("ref", ref)] + [(field, record[field]) for field in FIELDS]
    return '<?xml version="1.0" encoding="UTF-8"?>\n<message>%s</message>' % "".join(
        # a carriage return that is not named would be read as a newline
        "<%s>%s</%s>" % (name, escape(str(text), {"\r": "&#13;"}), name)
        for name, text in texts
    )
