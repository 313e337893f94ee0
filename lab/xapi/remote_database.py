# SPDX-License-Identifier: LGPL-2.1-only
"""POST /remote_db_access: what a member's xapi does with the master's database, by the first of its
two protocols (db_remote_cache_access_v1.ml, db_rpc_common_v1.ml): of its functions `write_field`,
of references and strings.

The master alone serves it; over its own unix socket it asks for no credential. It looks at nothing
but that table, row and column are there: a reference may lead nowhere. What it answers was seen on
a real xapi (docs/checked-by-hand.md)."""

import xml.etree.ElementTree
from xml.sax.saxutils import escape

from lab.xapi import handlers
from lab.xapi.failures import Failure
from lab.xapi.http_server import refusal, response
from lab.xapi.schema import CLASSES

URI = "/remote_db_access"
POST = ("POST", URI)
_STRINGS = ("ref", "string")


class _Malformed(Exception):
    """What ends such a request with 500."""


def post(pool, request, host_uuid):
    """POST /remote_db_access, with the session in the query or in a cookie."""
    try:
        handlers.context(pool, request, host_uuid)
    except Failure:
        return refusal(401, "unauthorised")
    try:
        answer = _processed(pool.database, _read(request.body))
    except _Malformed as error:
        return refusal(500, str(error))
    return response(_written(answer).encode())


def _processed(database, call):
    if not isinstance(call, list) or len(call) != 3:
        raise _Malformed("DBCacheListenerInvalidMessageReceived")
    name, _, arguments = call  # the second was a secret once, and is looked at no more
    if name != "write_field":
        raise _Malformed('DBCacheListenerUnknownMessageName("%s")' % name)
    if not isinstance(arguments, list) or len(arguments) != 4:
        raise _Malformed("DB_remote_marshall_error")
    of, ref, field, value = arguments
    if of not in CLASSES:
        return _not_found("missing table", of, "")
    if field not in CLASSES[of]:
        return _not_found("missing column", of, field)
    if not database.exists(of, ref):
        return _not_found("missing row", of, ref)
    if CLASSES[of][field].type.kind not in _STRINGS:
        raise _Malformed("%s.%s: only references and strings here" % (of, field))
    database.set(of, ref, **{field: value})
    return ["success", ""]


def _not_found(*details):
    return ["failure", ["dbcache_notfound", list(details)]]


def _read(body):
    """Strings, and lists of them."""
    try:
        return _value(xml.etree.ElementTree.fromstring(body))
    except xml.etree.ElementTree.ParseError as error:
        raise _Malformed("XML Error: %s" % error) from error


def _value(element):
    if element.tag != "value":
        raise _Malformed("DB_remote_marshall_error")
    inner = list(element)
    if not inner:
        return element.text or ""
    if inner[0].tag == "string":
        return inner[0].text or ""
    data = inner[0].find("data") if inner[0].tag == "array" else None
    if data is None:
        raise _Malformed("DB_remote_marshall_error")
    return [_value(item) for item in data]


def _written(value):
    if isinstance(value, list):
        data = "".join(_written(item) for item in value)
        return "<value><array><data>%s</data></array></value>" % data
    return "<value>%s</value>" % escape(value) if value else "<value/>"
