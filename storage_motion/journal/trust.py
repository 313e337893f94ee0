# SPDX-License-Identifier: LGPL-2.1-only
"""What has to hold of a journal before anything is done by it: it may be torn, of another version,
or somebody's edit.

Everybody who loads one goes by its fields unasked, so one that lacks any would end him with an
error that explains nothing, and a `recover` at boot with it, which has other migrations to see to.
"""

from typing import Any, Dict, Iterable, Mapping, NamedTuple, Tuple

from storage_motion.plan.plan import Plan

Kinds = Tuple[type, ...]  # for isinstance

NUMBER: Kinds = (int, float)
TEXT: Kinds = (str,)
MAYBE_TEXT: Kinds = (str, type(None))
MAYBE_DICT: Kinds = (dict, type(None))

COMMON: Dict[str, Kinds] = {"started": NUMBER, "updated": NUMBER, "disks": (dict,)}
AT_SOURCE: Dict[str, Kinds] = {
    "plan": (dict,),
    "phase": MAYBE_TEXT,
    "begun": (list,),
    "error": (list, type(None)),
    "left": (list,),
    "worker": MAYBE_DICT,
    "task": MAYBE_TEXT,
    "committed": (bool,),
    "downtime": NUMBER + (type(None),),
}
# What is there only when it is known, and what it is to be like.
MAY_LACK: Dict[str, Any] = {
    "warnings": [],
    "ha_restart_priority": "",
    "cbt_disabled": [],
    "new_vm": "",
    "blobs_moved": {},
    "blobs_kept": [],
}
SOURCE_DISK: Dict[str, Kinds] = {"state": TEXT}
AT_DESTINATION: Dict[str, Kinds] = {"srs": (list,), "receivers": (list,), "sources": (list,)}
OWED: Dict[str, Kinds] = {"ha_restart_priority": TEXT, "tracked": (list,)}
RECEIVED_DISK: Dict[str, Kinds] = {
    "vdi": MAYBE_TEXT,
    "sr": TEXT,
    "created": (bool,),
    "shut": (bool,),
}
RECEIVER: Dict[str, Kinds] = {"number": (int,), "process": (dict,), "keys": (list,)}
PROCESS: Dict[str, Kinds] = {"pid": (int,), "started": (int,)}
# Of the plan: the type of each field of it, of a disk, of a CD, of an interface. What is not named
# is a string.
PLAN: Dict[str, type] = {
    "live": bool,
    "check_cpu": bool,
    "compress": bool,
    "disks": list,
    "staying": list,
    "cds": list,
    "vifs": list,
    "warnings": tuple,
    "notes": tuple,
    "history": list,
    "snapshots": list,
    "snapshot_vifs": list,
    "dropped": list,
    "copy": bool,
    "vgpus": list,
}
DISK: Dict[str, type] = {
    "size": int,
    "data": int,
    "sharable": bool,
    "other_config": dict,
    "xenstore_data": dict,
    "tags": tuple,
    "allow_caching": bool,
    "tracked": bool,
    "read_only": bool,
    "unplugged": bool,
}
CD: Dict[str, type] = {"eject": bool}
SNAPSHOT: Dict[str, type] = {"kept": bool}


def doubt(entry: Dict[str, Any], receiving: bool) -> str:
    """What is wrong with a journal's content (a dict), or "". `receiving`: whether it is a
    destination's."""
    return _lacking(entry, COMMON) or (_receiving(entry) if receiving else _source(entry))


def _source(entry: Dict[str, Any]) -> str:
    wrong = (
        _lacking(entry, AT_SOURCE)
        or _each("begun", entry["begun"], str)
        or _each("left", entry["left"], str)
        or _lacking(dict(MAY_LACK, **entry), {name: (type(MAY_LACK[name]),) for name in MAY_LACK})
        or _each("warnings", entry.get("warnings", []), str)
        or _each("cbt_disabled", entry.get("cbt_disabled", []), str)
        or _each("error", entry["error"] or [], str)
        or entry["error"] == []
        and "an empty error"
        or _process(entry["worker"])
    )
    if wrong:
        return wrong
    try:
        plan = Plan.from_json(entry["plan"])
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        return "its plan: %s" % error
    wrong = _typed("the plan", plan, PLAN)
    for name, entries, types in (
        ("a disk", plan.disks, DISK),
        ("a CD", plan.cds, CD),
        ("an interface", plan.vifs, {}),
        ("a disk of a snapshot", plan.history, DISK),
        ("a snapshot", plan.snapshots, SNAPSHOT),
        ("an interface of a snapshot", plan.snapshot_vifs, {}),
        ("a virtual GPU", plan.vgpus, {}),
    ):
        for one in entries:
            wrong = wrong or _typed(name, one, types)
    wrong = wrong or _each("dropped", plan.dropped, str)
    if wrong:
        return wrong
    for disk in plan.sent:
        wrong = wrong or _lacking(entry["disks"].get(disk.key), SOURCE_DISK)
    return wrong


def _receiving(entry: Dict[str, Any]) -> str:
    wrong = (
        _lacking(dict({"sources": []}, **entry), AT_DESTINATION)
        or _each("srs", entry["srs"], str)
        or _each("sources", entry.get("sources", []), str)
        or _process(entry.get("busy"))
        or "owed" in entry
        and (_lacking(entry["owed"], OWED) or _each("tracked", entry["owed"]["tracked"], str))
        or ""
    )
    for disk in entry["disks"].values() if not wrong else ():
        wrong = wrong or _lacking(disk, RECEIVED_DISK)
    for one in entry["receivers"] if not wrong else ():
        wrong = (
            wrong
            or _lacking(one, RECEIVER)
            or _process(one["process"])
            or _each("keys", one["keys"], str)
        )
    return wrong


def _lacking(value: Any, fields: Mapping[str, Kinds]) -> str:
    if not isinstance(value, dict):
        return "a part of it is no object"
    for name, kinds in sorted(fields.items()):
        # A bool is an int to Python, and not to us.
        if (
            name not in value
            or not isinstance(value[name], kinds)
            or isinstance(value[name], bool)
            and bool not in kinds
        ):
            return "%s is missing, or not what it should be" % name
    return ""


def _typed(what: str, record: NamedTuple, types: Mapping[str, type]) -> str:
    for name, value in record._asdict().items():
        if type(value) is not types.get(name, str):
            return "%s of %s is not what it should be" % (name, what)
    return ""


def _each(name: str, values: Iterable[Any], kind: type) -> str:
    return (
        ""
        if all(isinstance(value, kind) for value in values)
        else "%s is not what it should be" % name
    )


def _process(value: Any) -> str:
    return _lacking(value, PROCESS) if value is not None else ""
