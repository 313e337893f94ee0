# SPDX-License-Identifier: LGPL-2.1-only
"""What a source asks its destination for: disks, as JSON. It is another pool's word, and checked
before anything is made."""

import re
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from storage_motion import strict_json
from storage_motion.errors import BadArguments
from storage_motion.plan import formats
from storage_motion.plan.checks import MAX_DISKS
from storage_motion.uuids import UUID

if TYPE_CHECKING:
    from storage_motion.journal.journal import Journal

MAX_ARGUMENT = 4 * 1024 * 1024
SECTOR = 512
# Of each disk that is asked for: the field, and what type of JSON value it has.
FIELDS: Tuple[Tuple[str, type], ...] = (
    ("key", str),
    ("sr", str),
    ("size", int),
    ("name_label", str),
    ("name_description", str),
    ("type", str),
    ("sharable", bool),
    ("other_config", dict),
    ("xenstore_data", dict),
    ("target", str),
    ("image_format", str),
    ("tags", list),
    ("allow_caching", bool),
    ("read_only", bool),
    ("unplugged", bool),
    # the key of the disk of this migration that it shall be a clone of, or ""
    ("base", str),
    # a VDI that is there, which it shall be a clone of if it can, or ""
    ("base_there", str),
    # whether it is the disk of a snapshot; of which disk (a key), or ""; and when that was taken
    ("frozen", bool),
    ("snapshot_of", str),
    ("snapshot_time", str),
)

OPTIONAL: Dict[str, Any] = {
    "target": "",
    "xenstore_data": {},
    "image_format": "",
    "tags": [],
    "allow_caching": False,
    "read_only": False,
    "unplugged": False,
    "base": "",
    "base_there": "",
    "frozen": False,
    "snapshot_of": "",
    "snapshot_time": "",
}
TIME = re.compile(r"[0-9]{8}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")  # as xapi writes them


def uuids(text: str, name: str = "vdis") -> List[str]:
    """The argument `name`, a JSON list of UUIDs of VDIs. Raises BadArguments."""
    try:
        found = strict_json.loads(text) if len(text) <= MAX_ARGUMENT else None
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(
        isinstance(uuid, str) and UUID.match(uuid) for uuid in found
    ):
        raise BadArguments("%s: is not a list of UUIDs" % name)
    return found


def read(text: str) -> List[Dict[str, Any]]:
    """The disks that are asked for, checked. Raises BadArguments."""
    right = "a list of %s" % ", ".join(name for name, _ in FIELDS)
    try:
        disks = strict_json.loads(text) if len(text) <= MAX_ARGUMENT else None
    except ValueError:
        disks = None
    if not isinstance(disks, list) or not 0 < len(disks) <= MAX_DISKS:
        raise BadArguments("disks: is not such a list; %s" % right)
    problems: List[str] = []
    for index, disk in enumerate(disks):
        if isinstance(disk, dict):
            disk = disks[index] = dict(OPTIONAL, **disk)
        for name, kind in FIELDS:
            if not isinstance(disk, dict) or type(disk.get(name)) is not kind:
                problems.append(
                    "disks[%d]: %s is not a %s; %s" % (index, name, kind.__name__, right)
                )
        if problems:
            continue
        named = [disk["key"], disk["sr"]]
        named += [
            disk[name] for name in ("target", "base", "base_there", "snapshot_of") if disk[name]
        ]
        if not all(UUID.match(uuid) for uuid in named):
            problems.append(
                "disks[%d]: key, sr, target, base, base_there and snapshot_of are UUIDs; %s"
                % (index, right)
            )
        if disk["target"] and (disk["base"] or disk["base_there"] or disk["frozen"]):
            problems.append("disks[%d]: a target is filled, and is no clone or snapshot" % index)
        if disk["base"] and disk["base_there"]:
            problems.append("disks[%d]: base and base_there are both given" % index)
        if disk["frozen"] and not TIME.match(disk["snapshot_time"]):
            problems.append("disks[%d]: snapshot_time is %r" % (index, disk["snapshot_time"][:64]))
        if disk["size"] <= 0 or disk["size"] % SECTOR:
            problems.append(
                "disks[%d]: size is %d bytes; a positive multiple of %d"
                % (index, disk["size"], SECTOR)
            )
        if disk["image_format"] not in ("",) + formats.ASKED:
            problems.append(
                "disks[%d]: image_format is %r; %s"
                % (index, disk["image_format"], " or ".join(formats.ASKED))
            )
        for name in ("other_config", "xenstore_data"):
            if not all(isinstance(value, str) for value in disk[name].values()):
                problems.append("disks[%d]: %s is not a map of strings" % (index, name))
        if not all(isinstance(tag, str) for tag in disk["tags"]):
            problems.append("disks[%d]: tags is not a list of strings" % index)
    if not problems and len({disk["key"] for disk in disks}) != len(disks):
        problems.append("disks: a key is there twice")
    if problems:
        raise BadArguments(*problems)
    return disks


def known_keys(entry: "Journal", text: str) -> List[str]:
    """The keys that are asked for, checked. Raises BadArguments."""
    try:
        keys = strict_json.loads(text) if len(text) <= MAX_ARGUMENT else None
    except ValueError:
        keys = None
    known = {key for key, disk in entry.entry["disks"].items() if disk["vdi"]}
    if (
        not isinstance(keys, list)
        or not keys
        or not all(isinstance(key, str) and key in known for key in keys)
    ):
        raise BadArguments("disks: is not a list of keys of disks of this migration")
    return sorted(set(keys))
