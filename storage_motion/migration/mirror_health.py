# SPDX-License-Identifier: LGPL-2.1-only
"""How the mirrors are, as their movers say it: whether one is broken, or so slow that it may be."""

import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from storage_motion.errors import MirrorBroken, MoverFailed
from storage_motion.migration.mover_handle import STALL_BOUND
from storage_motion.wire.mover_status import BROKEN, ENDED, MIRRORING, READY, fault_of

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

POLL = 0.1
PROMPT = 0.5  # seconds: a destination that takes longer to answer one write may have fallen silent


def watch(m: "Migration") -> Dict[str, Dict[str, Any]]:
    """Look at all movers. Raises MirrorBroken for the first that is broken, or has died, or that
    the guest is about to end. Returns {key: status}."""
    found: Dict[str, Dict[str, Any]] = {}
    closes = m.guest_closes()
    used = {disk.key for disk in m.plan.disks if m.plan.uses(disk)}
    mirrored = {disk.key for disk in m.plan.disks if m.plan.mirrors(disk)}
    for key in _with_movers(m):
        if closes and key in used:  # one of a snapshot it cannot close
            raise MirrorBroken(key, "the guest closes the disk (%s)" % closes)
        try:
            status = m.mover(key).status()
        except MoverFailed as error:
            m.note(key, state="broken")
            raise MirrorBroken(key, str(error))
        m.progress.take(key, status)
        found[key] = status
        why = _fault(status, key in mirrored)
        if why:
            m.note(key, state="broken")
            raise fault_of(key, status, why)
    return found


def await_answers(m: "Migration") -> None:
    """Wait until every write that is mirrored just now is answered promptly. Raises MirrorBroken or
    Cancelled.

    For just before the VM is moved: a destination that has fallen silent is found out by the stall
    bound, which must not strike when the guest is suspended already. One that is merely slow all
    the time is moved to all the same, after twice that bound."""
    end = time.monotonic() + 2 * STALL_BOUND
    while (
        any(status.get("oldest_wait", 0.0) > PROMPT for status in watch(m).values())
        and time.monotonic() < end
    ):
        m.pulse()
        time.sleep(POLL)


def _fault(status: Dict[str, Any], mirrored: bool) -> Optional[str]:
    """What is wrong with a mover while the VM is not on its way, or None. That of a disk that is
    not mirrored ends when it has handed it over."""
    if status["state"] == BROKEN:
        return str(status.get("error"))
    if status["state"] == ENDED and mirrored:
        return "the guest's tapdisk has closed the disk, as it does when the guest reboots"
    return None


def is_sound(m: "Migration", disk: "Disk") -> bool:
    """Whether a disk's mirror stands, and its copy is under way or done: then there is nothing to
    make anew."""
    entry = m.disk(disk.key)
    if entry["state"] not in ("copying", "in-sync") or not entry.get("mover"):
        return False
    try:
        status = m.mover(disk.key).status()
    except MoverFailed:
        return False
    stands: bool = status["state"] == (MIRRORING if m.plan.mirrors(disk) else READY)
    return stands and status["copy"]["state"] in ("running", "done")


def _is_mirroring(m: "Migration", key: str) -> bool:
    try:
        return bool(m.mover(key).status()["state"] == MIRRORING)
    except MoverFailed:
        return False


def _with_movers(m: "Migration") -> List[str]:
    return [key for key, entry in m.entry["disks"].items() if entry.get("mover")]


def any_mirrors(m: "Migration") -> bool:
    """Whether a mover still mirrors, be it for the last time."""
    return any(_is_mirroring(m, key) for key in _with_movers(m))
