# SPDX-License-Identifier: LGPL-2.1-only
"""xapi's data model: classes, fields, enumerations and messages, as
`docs/facts/xapi-datamodel.json` has them.

That file was made from xapi's own source at e2ee48d688 (26.x): a class a line, with `persisted`
("no": never on disk), `fields` {name: [type, qualifier, on disk?, default ("REQ": none)]},
`messages` and `enums`. What the lab adds about a class or a message is in `tables`.
"""

import json
import os
import re
from collections import namedtuple

PATH = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    "docs/facts/xapi-datamodel.json",
)

Type = namedtuple("Type", "kind arguments")
"""kind: string, int, float, bool, datetime, ref, enum, set, map, record or void. arguments: the
class of a ref or record, the values of an enum, the types of what is in a set or map."""

with open(PATH, encoding="utf-8") as _file:
    MODEL = json.load(_file)

ENUMS = {
    name: tuple(values)
    for described in MODEL.values()
    for name, values in described["enums"].items()
}

KEPT = tuple(name for name, described in MODEL.items() if "get_record" in described["messages"])
"""The classes of which the database has objects."""

_WORD = re.compile(r"<?\w+>?")


def parse_type(text):
    """The Type that the model writes as `int`, `VM ref`, `enum vm_operations set`, `(string ->
    string) map`."""
    parsed, rest = _parse(text)
    if rest:
        raise ValueError("not a type: %r" % text)
    return parsed


def _parse(text):
    if text.startswith("("):
        key, rest = _parse(text[1:])
        value, rest = _parse(rest[len(" -> ") :])
        parsed, rest = Type("map", (key, value)), rest[len(") map") :]
    else:
        word = _WORD.match(text).group(0)
        rest = text[len(word) :]
        if word == "enum":
            name = _WORD.match(rest, 1).group(0)
            parsed, rest = Type("enum", ENUMS[name]), rest[1 + len(name) :]
        elif rest.startswith((" ref", " record")):
            kind = _WORD.match(rest, 1).group(0)
            parsed, rest = Type(kind, (word,)), rest[1 + len(kind) :]
        else:
            parsed = Type(word, ())
    while rest.startswith((" set", " option")):
        kind = "set" if rest.startswith(" set") else "option"
        parsed, rest = Type(kind, (parsed,)), rest[1 + len(kind) :]
    return parsed, rest


def message(name):
    """What the model says of the message `CLASS.METHOD`: params, result, errors; None where it has
    no such message."""
    class_name, _, method = name.partition(".")
    return MODEL.get(class_name, {"messages": {}})["messages"].get(method)


def parameters(name):
    """[(name, Type, required)] of the message's parameters, without the session."""
    return [
        (parameter, parse_type(text), required)
        for parameter, text, required in message(name)["params"]
        if parameter != "session_id"
    ]


def needs_session(name):
    """Whether the message's first parameter is a session."""
    return any(parameter == "session_id" for parameter, _, _ in message(name)["params"])


def names():
    """The names of all messages."""
    return [
        "%s.%s" % (class_name, method)
        for class_name, described in MODEL.items()
        for method in described["messages"]
    ]
