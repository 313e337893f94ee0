"""event.from: what has changed since a token."""
import math
import re
import time

from lab.xapi import tables
from lab.xapi.calls import call
from lab.xapi.failures import Failure
from lab.xapi.schema import CLASSES

_LONGEST = 24 * 3600.0                          # seconds
_CLASSES = {name.lower(): name for name in CLASSES if name not in tables.WITHOUT_EVENTS}


def _subscriptions(classes):
    """[(class, ref or None for all of it)] of what a client asks for: `*`, `VM`, `VM/OpaqueRef:..`."""
    wanted = []
    for text in classes:
        name, _, ref = text.partition("/")
        if not name:
            raise Failure("EVENT_SUBSCRIPTION_PARSE_FAILURE", text)
        wanted += [(known, ref or None) for lowered, known in _CLASSES.items() if name in ("*", known) or name.lower() == lowered]
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
    """The changes since `token` to what `classes` name, waiting up to `timeout` seconds for the first of them."""
    database = context.database
    wanted, since = set(_subscriptions(classes)), _since(token)
    deadline = time.monotonic() + (min(max(timeout, 0.0), _LONGEST) if math.isfinite(timeout) else _LONGEST)
    with database.lock:
        while True:
            changes = [change for change in database.changes_since(since)
                       if (change.class_name, None) in wanted or (change.class_name, change.ref) in wanted]
            left = deadline - time.monotonic()
            if changes or left <= 0 or context.pool.stopping.is_set():
                return {"events": [_event(database, change) for change in changes],
                        "valid_ref_counts": {name.lower(): count for name, count in
                                             database.counts(sorted({name for name, _ in wanted})).items()},
                        "token": "%020d,%020d" % (database.generation, 0)}
            database.changed.wait(left)
            if not database.exists("session", context.session):
                raise Failure("SESSION_INVALID", context.session)


def _event(database, change):
    event = {"id": change.generation, "timestamp": "0.0", "class": change.class_name.lower(),
             "operation": change.operation, "ref": change.ref}
    if change.operation != "del":
        event["snapshot"] = database.record(change.class_name, change.ref)
    return event


@call("event.get_current_id", is_async=False)
def get_current_id(context):
    with context.database.lock:
        return context.database.generation
