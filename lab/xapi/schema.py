"""XenAPI's types and fields, read from the tables; how a value that a client sent becomes one of them."""
import json
import re
import time
from collections import namedtuple

from lab.xapi import tables
from lab.xapi.failures import Failure

NULL = "OpaqueRef:NULL"
_WORD = re.compile(r"\w+")

Type = namedtuple("Type", "kind arguments")
Field = namedtuple("Field", "name type access required default lazy kept")
Parameter = namedtuple("Parameter", "name type optional default")


class Timestamp(str):
    """A date and time as XML-RPC writes it, `20260102T03:04:05Z`; a type of its own so that it is sent as one."""

    @classmethod
    def at(cls, seconds):
        """Of the epoch's `seconds`."""
        return cls(time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime(seconds)))

    @classmethod
    def now(cls):
        return cls.at(time.time())


EPOCH = Timestamp.at(0)


def parse_type(text):
    """The Type written as `int`, `ref(VM)`, `set(ref(VBD))`, `map(string,int)` or `enum(a|b)`."""
    parsed, rest = _parse(text)
    if rest:
        raise ValueError("not a type: %r" % text)
    return parsed


def _parse(text):
    word = _WORD.match(text).group(0)
    rest = text[len(word):]
    if word in tables.TYPES:
        return parse_type(tables.TYPES[word]), rest
    if not rest.startswith("("):
        return Type(word, ()), rest
    if word in ("ref", "enum", "record"):
        inside, rest = rest[1:].split(")", 1)
        return Type(word, tuple(inside.split("|"))), rest
    arguments = []
    while not rest.startswith(")"):
        argument, rest = _parse(rest[1:])
        arguments.append(argument)
    return Type(word, tuple(arguments)), rest[1:]


def empty(of_type):
    """The value of a field of this type that nobody has set."""
    if of_type.kind == "enum":
        return of_type.arguments[0]
    return {"string": "", "int": 0, "float": 0.0, "bool": False, "datetime": EPOCH, "ref": NULL,
            "set": [], "map": {}}[of_type.kind]


def coerce(value, of_type, name):
    """`value` as a client sent it (XenAPI sends integers as strings), as the type says.

    Raises FIELD_TYPE_ERROR [name] where it cannot be that.
    """
    try:
        return _COERCIONS[of_type.kind](value, of_type, name)
    except (TypeError, ValueError, AttributeError):
        raise Failure("FIELD_TYPE_ERROR", name) from None


def _string(value, _type, _name):
    if value is None:
        return ""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise TypeError(value)
    return str(value)


def _boolean(value, _type, _name):
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _integer(value, _type, _name):
    if isinstance(value, (bool, float)):
        raise TypeError(value)
    return int(value)


def _number(value, _type, _name):
    if isinstance(value, bool):
        raise TypeError(value)
    return float(value)


_STAMP = re.compile(r"^(\d{4})-?(\d\d)-?(\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?$")


def _stamp(value, _type, _name):
    text = getattr(value, "value", value)               # xmlrpc.client.DateTime, or the text
    match = _STAMP.match(text)
    if not match:
        raise ValueError(text)
    return Timestamp("%s%s%sT%sZ" % match.group(1, 2, 3, 4))


def _reference(value, _type, _name):
    if not isinstance(value, str):
        raise TypeError(value)
    return value if value not in ("", "NULL") else NULL


def _enumeration(value, of_type, _name):
    if value not in of_type.arguments:
        raise ValueError(value)
    return value


def _items(value, of_type, name):
    if not isinstance(value, (list, tuple)):
        raise TypeError(value)
    return [coerce(item, of_type.arguments[0], name) for item in value]


def _pairs(value, of_type, name):
    return {coerce(key, of_type.arguments[0], name): coerce(item, of_type.arguments[1], name)
            for key, item in value.items()}


def _record(value, _type, _name):
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


_COERCIONS = {"string": _string, "bool": _boolean, "int": _integer, "float": _number, "datetime": _stamp,
              "ref": _reference, "enum": _enumeration, "set": _items, "map": _pairs, "record": _record}


def signature(text):
    """The Parameters of `"vdi:ref(VDI) sm_config:map(string,string)? managed:bool?true"`; `?`: may be left out, then it is
    the JSON value that follows, or empty."""
    parameters = []
    for word in text.split():
        name, rest = word.split(":", 1)
        type_text, optional, default = rest.partition("?")
        of_type = parse_type(type_text)
        value = None
        if optional:
            value = json.loads(default) if default else empty(of_type)
        parameters.append(Parameter(name, of_type, bool(optional), value))
    return parameters


def _fields(class_name, text):
    fields = {}
    lazy = tables.LAZY.get(class_name, set())
    lost = tables.NOT_ON_DISK["*"] | tables.NOT_ON_DISK.get(class_name, set())
    kept = class_name not in tables.TRANSIENT
    for line in text.strip().splitlines():
        name, type_text, access, *default = line.split(None, 3)
        of_type = parse_type(type_text)
        fields[name] = Field(name, of_type, access.rstrip("!"), access.endswith("!"),
                             json.loads(default[0]) if default else empty(of_type), bool({name, "*"} & lazy), kept and name not in lost)
    return fields


CLASSES = {name: _fields(name, text) for name, text in tables.CLASSES.items()}


def construct(class_name, given):
    """The fields of a new object that a client asked for with the record `given`.

    Fields that only xapi sets are ignored, as xapi ignores them. Raises INTERNAL_ERROR naming the field where a
    required one is missing (xapi answers so too), FIELD_TYPE_ERROR where one has the wrong type.
    """
    made = {}
    for field in CLASSES[class_name].values():
        if field.access == "DY":
            continue
        if field.name in given:
            made[field.name] = coerce(given[field.name], field.type, field.name)
        elif field.required:
            raise Failure("INTERNAL_ERROR", "Server_helpers.Dispatcher_FieldNotFound(%s)" % json.dumps(field.name))
    return made
