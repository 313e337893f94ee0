# SPDX-License-Identifier: LGPL-2.1-only
"""event.from: what has changed since a token; event.inject: a change of nothing."""

import math
import re
import time

from lab.xapi import tables
from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.model import MODEL
from lab.xapi.schema import CLASSES
from lab.xapi.wire import Int32

_LONGEST = 24 * 3600.0  # seconds
_NONE = dict.fromkeys(MODEL, 0)  # every class is counted, whatever was asked about
_ORDER = {"add": 0, "mod": 1, "del": 2}  # xapi_event.ml, from_inner
_CLASSES = {name.lower(): name for name in CLASSES if name not in tables.WITHOUT_EVENTS}


def _subscriptions(classes):
    """[(class, ref or None for all of it)] of what a client asks for: `*`, `VM`,
    `VM/OpaqueRef:..`."""
    wanted = []
    for text in classes:
        name, _, ref = text.partition("/")
        if not name:
            raise Failure("EVENT_SUBSCRIPTION_PARSE_FAILURE", text)
        wanted += [
            (known, ref or None)
            for lowered, known in _CLASSES.items()
            if name in ("*", known) or name.lower() == lowered
        ]
    return wanted


def _since(token):
    if token == "":
        return 0
    match = re.match(r"^(\d+),(\d+)$", token)
    if not match:
        raise Failure("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
    return int(match.group(1))


@call("event.from", "classes:set(string) token:string timeout:float", is_async=False)
def events_from(context, classes, token, timeout):
    """The changes since `token` to what `classes` name, waiting up to `timeout` seconds for the
    first of them."""
    database = context.database
    wanted, since = set(_subscriptions(classes)), _since(token)
    deadline = time.monotonic() + (
        min(max(timeout, 0.0), _LONGEST) if math.isfinite(timeout) else _LONGEST
    )
    with database.lock:
        while True:
            changes = [
                change
                for change in database.changes_since(since)
                if (change.class_name, None) in wanted or (change.class_name, change.ref) in wanted
            ]
            left = deadline - time.monotonic()
            if changes or left <= 0 or context.pool.stopping.is_set():
                return {
                    "events": [
                        _event(database, change)
                        for change in sorted(changes, key=lambda change: _ORDER[change.operation])
                    ],
                    "valid_ref_counts": {
                        name.lower(): Int32(count)
                        for name, count in dict(_NONE, **database.counts(CLASSES)).items()
                    },
                    "token": _token(database.generation),
                }
            database.changed.wait(left)
            if not database.exists("session", context.session):
                raise Failure("SESSION_INVALID", context.session)


def _token(generation):
    return "%020d,%020d" % (generation, 0)


def _event(database, change):
    event = {
        "id": str(change.generation),
        "timestamp": "0.0",
        "class": change.class_name.lower(),
        "operation": change.operation,
        "ref": change.ref,
    }
    if change.operation != "del":
        event["snapshot"] = database.record(change.class_name, change.ref)
    return event


@call("event.get_current_id", is_async=False)
def get_current_id(context):
    with context.database.lock:
        return context.database.generation


@call("event.inject", "class:string ref:string", is_async=False)
def inject(context, class_name, ref):
    """Have an object appear as modified. Answers a token from which on it does. Raises
    HANDLE_INVALID [class, ref]."""
    with context.database.lock:
        before = context.database.generation
        known = _CLASSES.get(class_name.lower())
        if known is None or not context.database.exists(known, ref):
            raise Failure("HANDLE_INVALID", class_name, ref)
        context.database.touch(known, ref)
        return _token(before)
