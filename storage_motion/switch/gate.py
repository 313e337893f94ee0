# SPDX-License-Identifier: LGPL-2.1-only
"""The keys in a VDI's sm_config that keep SM from activating it: the gate of a disk at the
destination, and at the source its lock.

`paused` is SM's own. SM's activation looks at it, writes `activating` and its `host_` key, and
looks again, and takes both away if it is there now (docs/facts/tapdisk-and-sm.md, 8); so whoever
writes `paused` first and then sees neither key knows that nobody gets past it any more.

SM clears every `paused` of an SR when the SR's master plugs it, as after a reboot of that host. So
at either end there is a second key, `relinking`, that SM does not clear: of the gate it is written
with the first; of the source's lock it is there before (switch/source_lock.py).
"""

from typing import Any, Dict, Mapping

import XenAPI

from storage_motion import waiting
from storage_motion.errors import GateOpen, TimedOut
from storage_motion.sm import marks

SETTLE_TIMEOUT = 30.0  # for an activation that was under way, or a deactivation


def active(sm_config: Mapping[str, str]) -> bool:
    """Whether some host has the disk activated."""
    return any(key.startswith(marks.HOST) for key in sm_config)


def is_shut(sm_config: Mapping[str, str]) -> bool:
    """Whether a gate at the destination is shut: by `relinking`, which `finish` takes away first.
    If only `paused` is there the disk was to be opened, and SM may do the rest itself at any
    time."""
    return sm_config.get(marks.RELINKING) == marks.SHUT


def is_free(sm_config: Mapping[str, str]) -> bool:
    """Whether no host has the disk active, or is about to."""
    return marks.ACTIVATING not in sm_config and not active(sm_config)


def shut(session: "XenAPI.Session", vdi: str, uuid: str) -> None:
    """Shut the gate of a VDI at the destination, if it was open, and make it whole, if half of it
    is gone.

    Raises GateOpen if the disk is in use, or in the hands of SM; then its gate is as it was."""
    api = session.xenapi.VDI
    was_shut = is_shut(api.get_sm_config(vdi))
    try:
        for key in (marks.PAUSED, marks.RELINKING):
            if not put(api, vdi, key, marks.SHUT):
                raise GateOpen("destination", uuid)
        try:
            waiting.until(
                lambda: is_free(api.get_sm_config(vdi)), SETTLE_TIMEOUT, "deactivation of %s" % uuid
            )
        except TimedOut:
            raise GateOpen("destination", uuid)
    except GateOpen:
        if not was_shut:
            # who has it active could not be rid of it: SM lets nobody deactivate what is paused
            open_again(session, vdi)
        raise


def mend(session: "XenAPI.Session", vdi: str) -> None:
    """Put `paused` back where SM has cleared it while the gate was shut. Nothing of a `finish` may
    be under way."""
    if is_shut(session.xenapi.VDI.get_sm_config(vdi)):
        put(session.xenapi.VDI, vdi, marks.PAUSED, marks.SHUT)


def open_again(session: "XenAPI.Session", vdi: str) -> None:
    """Take our marks off a VDI at the destination."""
    for key in (marks.RELINKING, marks.PAUSED):
        remove(session, vdi, marks.SHUT, key)


def remove(session: "XenAPI.Session", vdi: str, mark: str, key: str = marks.PAUSED) -> None:
    """Take a mark of ours off a VDI, if it is there."""
    if session.xenapi.VDI.get_sm_config(vdi).get(key) == mark:
        session.xenapi.VDI.remove_from_sm_config(vdi, key)


def put(api: Any, vdi: str, key: str, value: str) -> bool:
    """Write a key of sm_config. Whether it is there with this value now: False if somebody else's
    is."""
    try:
        api.add_to_sm_config(vdi, key, value)
    except XenAPI.Failure as failure:
        if failure.details[0] != "MAP_DUPLICATE_KEY":
            raise
        config: Dict[str, str] = api.get_sm_config(vdi)
        return config.get(key) == value
    return True
