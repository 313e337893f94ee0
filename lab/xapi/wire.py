# SPDX-License-Identifier: LGPL-2.1-only
"""XML-RPC and JSON-RPC as xapi speaks them: parsing without DTDs, 64-bit integers as strings,
Status and Value."""

import json
import re
import xmlrpc.client
from xml.sax.saxutils import escape

from lab.xapi.failures import Failure
from lab.xapi.schema import Timestamp

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Malformed(ValueError):
    """What came is not XML-RPC or JSON-RPC."""


def _refuse_doctype(*_):
    raise Malformed("document types are not accepted")


def parse_xmlrpc(data):
    """(parameters, method name or None) of a call or a response. Raises Malformed, or
    xmlrpc.client.Fault for a fault.

    A document type, and with it every entity that is not XML's own, is refused.
    """
    parser, target = xmlrpc.client.getparser()
    parser._parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.feed(data)
        parser.close()
        return target.close(), target.getmethodname()
    except xmlrpc.client.Fault:
        raise
    # expat, the unmarshaller and its conversions raise many kinds for bad input
    except Exception as error:
        raise Malformed("not XML-RPC: %s" % error) from error


def parse_value(data):
    """The value of a bare `<value>..</value>` document, such as ova.xml or a task's result. Raises
    Malformed."""
    text = data.decode("utf-8", "strict") if isinstance(data, bytes) else data
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    return parse_xmlrpc("<params><param>%s</param></params>" % text)[0][0]


class Int32(int):
    """An integer of 32 bits: the one kind that XenAPI sends as a number, in an event batch's
    counts."""


def sendable(value):
    """`value` as XenAPI's XML-RPC has it: integers as strings, dates as dates, nothing that XML
    cannot carry."""
    if isinstance(value, Timestamp):
        return xmlrpc.client.DateTime(str(value))
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, Int32):
        return int(value)
    if isinstance(value, int):
        return str(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return _NOT_XML.sub("?", value)
    if isinstance(value, dict):
        return {sendable(str(key)): sendable(item) for key, item in value.items()}
    return [sendable(item) for item in value]


def value_document(value):
    """`<value>..</value>` as xapi writes it, strings without a tag of their own: a task's result,
    ova.xml."""
    return "".join(_parts(value))


def _parts(value):
    if isinstance(value, dict):
        yield "<value><struct>"
        for key, item in value.items():
            yield "<member><name>%s</name>" % escape(sendable(str(key)))
            yield from _parts(item)
            yield "</member>"
        yield "</struct></value>"
    elif isinstance(value, (list, tuple)):
        yield "<value><array><data>"
        for item in value:
            yield from _parts(item)
        yield "</data></array></value>"
    elif isinstance(value, Timestamp):
        yield "<value><dateTime.iso8601>%s</dateTime.iso8601></value>" % value
    elif isinstance(value, bool):
        yield "<value><boolean>%d</boolean></value>" % value
    elif isinstance(value, float):
        yield "<value><double>%r</double></value>" % value
    else:
        yield "<value>%s</value>" % escape(sendable(value))


def xml_response(value=None, failure=None):
    """The methodResponse of a call that answered `value` or failed with `failure` (an error
    description)."""
    if failure is not None:
        body = {"Status": "Failure", "ErrorDescription": [sendable(item) for item in failure]}
    else:
        body = {"Status": "Success", "Value": sendable(value)}
    return _document(xmlrpc.client.dumps((body,), methodresponse=True))


def xml_call(method, parameters):
    """The methodCall that xapi hands to a plugin (recorded/plugin-argv.request)."""
    return "<methodCall><methodName>%s</methodName><params>%s</params></methodCall>" % (
        escape(method),
        "".join("<param>%s</param>" % value_document(parameter) for parameter in parameters),
    )


def xml_fault(code, text):
    return _document(
        xmlrpc.client.dumps(xmlrpc.client.Fault(code, _NOT_XML.sub("?", text)), methodresponse=True)
    )


def xml_plain_response(value):
    """A methodResponse with the bare value: how SM drivers and the storage interface answer."""
    return _document(xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True))


def _document(text):
    return text.encode("utf-8")


def parse_json_call(data):
    """(method, parameters, id, is version 2) of a JSON-RPC call. Raises Malformed."""
    try:
        call = json.loads(data)
        method, parameters, identity = call["method"], call.get("params", []), call.get("id")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Malformed("not JSON-RPC: %s" % error) from error
    if not isinstance(method, str) or not isinstance(parameters, list):
        raise Malformed("not JSON-RPC: method must be a string, params an array")
    return method, parameters, identity, call.get("jsonrpc") == "2.0"


def json_response(identity, second_version, value=None, failure=None):
    """The answer to it: result or error as the wire protocol of either version says."""
    value = "" if value is None else value
    if second_version:
        answer = {"jsonrpc": "2.0", "id": identity}
        if failure is None:
            answer["result"] = value
        else:
            answer["error"] = {"code": 1, "message": failure[0], "data": failure[1:]}
    else:
        answer = {"result": value if failure is None else None, "error": failure, "id": identity}
    return json.dumps(answer).encode()


def ask(send, method, parameters):
    """One XML-RPC call: `send(body) -> answer's body`. Answers the value.

    Both answers are understood: xapi's Status and Value, and a bare value. Raises Failure for a
    failure, Fault for a fault, Malformed.
    """
    body = xmlrpc.client.dumps(tuple(parameters), method, allow_none=True).encode("utf-8")
    (answer,), _ = parse_xmlrpc(send(body))
    if isinstance(answer, dict) and answer.get("Status") == "Failure":
        description = answer["ErrorDescription"]
        raise Failure.of(description if isinstance(description, list) else [str(description)])
    if isinstance(answer, dict) and answer.get("Status") == "Success":
        return answer["Value"]
    return answer
