# SPDX-License-Identifier: LGPL-2.1-only
"""The marks by which xapi's objects are one migration's: operations of VMs that are blocked, and a
key in other_config."""

from typing import Any, Callable

import XenAPI

from storage_motion.plan.checks import CLAIM
from storage_motion.xapi.records import Records

UNKNOWN_OPERATION = ["INTERNAL_ERROR", 'Failure("Unknown tag/contents")']
"""What xapi answers to the name of an operation that it does not know."""


def reason(migration: str) -> str:
    """The text with which xapi refuses a blocked operation."""
    return (
        "Storage XenMotion %s has this VM; wait for it or cancel it: sxm.py fn=cancel "
        "migration=%s" % (migration, migration)
    )


def unmark_vdi(session: "XenAPI.Session", uuid: str, migration: str) -> None:
    """Take our mark off a VDI, if it still is there and has it."""
    vdi = Records(session).ref("VDI", uuid)
    if vdi and session.xenapi.VDI.get_other_config(vdi).get(CLAIM) == migration:
        session.xenapi.VDI.remove_from_other_config(vdi, CLAIM)


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
