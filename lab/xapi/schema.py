# SPDX-License-Identifier: LGPL-2.1-only
"""XenAPI's types and fields, from the data model; how a value that a client sent becomes one of
them, or is refused as xapi refuses it."""

import copy
import json
import logging
import re
import time
from collections import namedtuple

from lab.xapi import model, tables
from lab.xapi.failures import Failure
from lab.xapi.model import Type

NULL = "OpaqueRef:NULL"

log = logging.getLogger("xapi.schema")

_WORD = re.compile(r"\w+")

Field = namedtuple("Field", "name type access required default lazy kept")
Parameter = namedtuple("Parameter", "name type optional default")


class Timestamp(str):
    """A date and time as XML-RPC writes it, `20260102T03:04:05Z`; a type of its own so that it is
    sent as one."""

    @classmethod
    def at(cls, seconds):
        """Of the epoch's `seconds`."""
        return cls(time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime(seconds)))

    @classmethod
    def now(cls):
        return cls.at(time.time())


EPOCH = Timestamp.at(0)


def empty(of_type):
    """The value of a field of this type that nobody has set."""
    if of_type.kind == "enum":
        return of_type.arguments[0]
    return {
        "string": "",
        "int": 0,
        "float": 0.0,
        "bool": False,
        "datetime": EPOCH,
        "ref": NULL,
        "set": [],
        "map": {},
    }[of_type.kind]


def coerce(value, of_type, name):
    """`value` as a client sent it (XenAPI sends integers as strings), as the type says.

    Raises INTERNAL_ERROR with the text of the exception that unmarshalling ends with in xapi
    (rpc.ml and ppx_deriving_rpc.ml of ocaml-rpc; recorded/xapi-VM.set_ha_always_run-wrong-type).
    `name`: of what it is, for the log of this xapi.
    """
    try:
        return _COERCIONS[of_type.kind](value, of_type)
    except _Mismatch as mismatch:
        log.info("%s is not %s: %s", name, of_type.kind, mismatch)
        raise Failure(
            "INTERNAL_ERROR", "Failure(%s)" % json.dumps(str(mismatch), ensure_ascii=False)
        ) from None


class _Mismatch(Exception):
    """The text of OCaml's `Failure`."""


def _expected(what, value):
    return _Mismatch("Expected %s, got '%s'" % (what, rpc_text(value)))


def rpc_text(value):
    """A value as ocaml-rpc writes it in its messages: `S(text)`, `I(5)`, `{a:S(b)}`."""
    if value is None:
        return "N"
    if isinstance(value, bool):
        return "B(%s)" % ("true" if value else "false")
    for kind, sign in ((int, "I(%d)"), (float, "F(%g)"), (str, "S(%s)")):
        if isinstance(value, kind):
            return sign % value
    if isinstance(value, dict):
        return "{%s}" % ";".join("%s:%s" % (key, rpc_text(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "[%s]" % ";".join(rpc_text(item) for item in value)
    return "D(%s)" % getattr(value, "value", value)


def _string(value, _type):
    if not isinstance(value, str):
        raise _expected("string", value)
    return str(value)


def _boolean(value, _type):
    if not isinstance(value, bool):
        raise _expected("bool", value)
    return value


_INTEGER = re.compile(r"^[-+]?\d+$", re.ASCII)


def _integer(value, _type):
    if isinstance(value, str):
        if not _INTEGER.match(value):
            raise _Mismatch("Int64.of_string")
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _expected("int64", value)
    return value


def _number(value, _type):
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _expected("float", value)
    try:
        return float(value)
    except ValueError:
        raise _Mismatch("float_of_string") from None


_STAMP = re.compile(r"^(\d{4})-?(\d\d)-?(\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?$")


def _stamp(value, _type):
    text = getattr(value, "value", value)  # xmlrpc.client.DateTime, or the text
    if not isinstance(text, str):
        raise _expected("DateTime", value)
    match = _STAMP.match(text)
    if not match:
        raise Failure("INTERNAL_ERROR", 'Invalid_argument("of_iso8601: %s")' % text)
    return Timestamp("%s%s%sT%sZ" % match.group(1, 2, 3, 4))


def _reference(value, _type):
    if not isinstance(value, str):
        raise _expected("string", value)
    return value if value not in ("", "NULL") else NULL


def _enumeration(value, of_type):
    """Whatever the case of its letters."""
    for name in of_type.arguments:
        if isinstance(value, str) and name.lower() == value.lower():
            return name
    raise _Mismatch("Unknown tag/contents")


def _items(value, of_type):
    if not isinstance(value, (list, tuple)):
        raise _Mismatch("Expecting Rpc.Enum, but found '%s'" % rpc_text(value))
    return [_COERCIONS[of_type.arguments[0].kind](item, of_type.arguments[0]) for item in value]


def _pairs(value, of_type):
    key_type, item_type = of_type.arguments
    if not isinstance(value, dict):
        plain = key_type.kind in ("string", "ref")
        raise _Mismatch(
            "Expecting Rpc.Dict, but found '%s'" % rpc_text(value)
            if plain
            else "Unmarshalling error"
        )
    return {
        _COERCIONS[key_type.kind](key, key_type): _COERCIONS[item_type.kind](item, item_type)
        for key, item in value.items()
    }


def _record(value, _type):
    if not isinstance(value, dict):
        raise _Mismatch("bad __structure")
    return value


_COERCIONS = {
    "string": _string,
    "bool": _boolean,
    "int": _integer,
    "float": _number,
    "datetime": _stamp,
    "ref": _reference,
    "enum": _enumeration,
    "set": _items,
    "map": _pairs,
    "record": _record,
}


def signature(text):
    """The Parameters of `"vdi:ref(VDI) sm_config:map(string,string)? managed:bool?true"`; `?`: may
    be left out, then it is the JSON value that follows, or empty. An enumeration goes by its name
    in the model: `type:enum(vdi_type)`."""
    parameters = []
    for word in text.split():
        name, rest = word.split(":", 1)
        type_text, optional, default = rest.partition("?")
        of_type = _signed(type_text)[0]
        value = None
        if optional:
            value = json.loads(default) if default else empty(of_type)
        parameters.append(Parameter(name, of_type, bool(optional), value))
    return parameters


def _signed(text):
    """(Type, rest) of what `signature` takes for a type."""
    word = _WORD.match(text).group(0)
    rest = text[len(word) :]
    if not rest.startswith("("):
        return Type(word, ()), rest
    if word in ("ref", "enum", "record"):
        inside, rest = rest[1:].split(")", 1)
        return Type(word, model.ENUMS[inside] if word == "enum" else (inside,)), rest
    arguments = []
    while not rest.startswith(")"):
        argument, rest = _signed(rest[1:])
        arguments.append(argument)
    return Type(word, tuple(arguments)), rest[1:]


_ACCESS = {"RW": "RW", "RO/constructor": "ST", "RO/runtime": "DY"}
"""Of the model's qualifiers: may be set by a client; given when the object is made, fixed
afterwards; set by xapi alone."""


def _default(class_name, name, of_type, written):
    """The value of what the model writes as a default: `D:"text"`, `D:1500`, `D:map0`; REQ where
    there is none."""
    if (class_name, name) in tables.DEFAULTS:
        return tables.DEFAULTS[class_name, name]
    text = written[len("D:") :]
    if written == "REQ" or text in ("map0", "set0", "date") or of_type.kind == "ref":
        return empty(of_type)
    if of_type.kind == "enum":
        return text
    return json.loads(text + "0" if text.endswith(".") else text)


def _fields(class_name):
    fields = {}
    lazy = tables.LAZY.get(class_name, set())
    persisted = model.MODEL[class_name]["persisted"] == "yes"
    for name, (type_text, qualifier, on_disk, written) in model.MODEL[class_name]["fields"].items():
        of_type = model.parse_type(type_text)
        fields[name] = Field(
            name,
            of_type,
            _ACCESS[qualifier],
            written == "REQ",
            _default(class_name, name, of_type, written),
            bool({name, "*"} & lazy),
            persisted and on_disk,
        )
    return fields


CLASSES = {name: _fields(name) for name in model.KEPT}


def _internal(class_name):
    fields = {}
    for name, type_text in tables.INTERNAL.get(class_name, {}).items():
        of_type = model.parse_type(type_text)
        fields[name] = Field(name, of_type, "DY", False, empty(of_type), False, True)
    return fields


KEPT = {name: dict(fields, **_internal(name)) for name, fields in CLASSES.items()}
"""What the database has of each class: its fields, and those that no client sees."""


def construct(class_name, given):
    """The fields of a new object that a client asked for with the record `given`, and the defaults
    of those that it left out.

    Fields that only xapi sets are ignored, as xapi ignores them. Raises INTERNAL_ERROR naming the
    field where a required one is missing (xapi answers so too), and where one has the wrong type.
    """
    made = {}
    for field in CLASSES[class_name].values():
        if field.access == "DY":
            continue
        if field.name in given:
            made[field.name] = coerce(given[field.name], field.type, field.name)
        elif field.required:
            raise Failure(
                "INTERNAL_ERROR",
                "Server_helpers.Dispatcher_FieldNotFound(%s)" % json.dumps(field.name),
            )
        else:
            made[field.name] = copy.copy(field.default)
    return made
