# SPDX-License-Identifier: LGPL-2.1-only
"""The marks by which xapi's objects are one migration's: operations of VMs that are blocked, and
keys in other_config."""

from typing import Any, Callable, Dict

import XenAPI

from storage_motion.xapi.records import CLAIM, RECEIVES, Records

MARKS = (RECEIVES, CLAIM)

UNKNOWN_OPERATION = ["INTERNAL_ERROR", 'Failure("Unknown tag/contents")']
"""What xapi answers to the name of an operation that it does not know."""


def reason(migration: str) -> str:
    """The text with which xapi refuses a blocked operation."""
    return (
        "Storage XenMotion %s has this VM; wait for it or cancel it: sxm.py fn=cancel "
        "migration=%s" % (migration, migration)
    )


def of_received(other_config: Dict[str, str], migration: str) -> Dict[str, str]:
    """What a VDI that the destination makes has in its other_config: this, and the marks by which
    it is known for one that was made, and not for a source's."""
    return dict(without_marks(other_config), **dict.fromkeys(MARKS, migration))


def without_marks(other_config: Dict[str, str]) -> Dict[str, str]:
    """The same other_config without marks of any migration."""
    return {key: value for key, value in other_config.items() if key not in MARKS}


def is_marked(other_config: Dict[str, str], migration: str) -> bool:
    """Whether a VDI with this other_config has a mark of this migration."""
    return migration in [other_config.get(key) for key in MARKS]


def unmark_vdi(session: "XenAPI.Session", uuid: str, migration: str) -> None:
    """Take our marks off a VDI, if it still is there and has them."""
    vdi = Records(session).ref("VDI", uuid)
    config = session.xenapi.VDI.get_other_config(vdi) if vdi else {}
    for key in MARKS:
        if config.get(key) == migration:
            session.xenapi.VDI.remove_from_other_config(vdi, key)


def block(api: Any, vm: str, operation: str, text: str) -> None:
    """Block it. What a xapi is too old to know (sysprep came with 25.24), nobody can do there."""
    try:
        add(api.add_to_blocked_operations, vm, operation, text)
    except XenAPI.Failure as failure:
        if failure.details != UNKNOWN_OPERATION:
            raise


def add(call: Callable[[str, str, str], object], ref: str, key: str, value: str) -> bool:
    """Add to a map of xapi's. False when the key is there already."""
    try:
        call(ref, key, value)
    except XenAPI.Failure as failure:
        if failure.details[0] != "MAP_DUPLICATE_KEY":
            raise
        return False
    return True


def unblock(api: Any, vm: str, text: str) -> None:
    """Let all operations of a VM (a ref) go ahead again that are blocked with that text."""
    for operation, present in api.get_blocked_operations(vm).items():
        if present == text:
            api.remove_from_blocked_operations(vm, operation)
