# SPDX-License-Identifier: LGPL-2.1-only
"""A destination that will never come back, by the word of the administrator: `recover` with
`lost=destination`.

Nobody else can know. Without that word everything waits that needs to see whether the VM is there;
with it the VM is at the source, with its disks as they were when they were locked, and whatever was
made at the destination is written off.
"""

from typing import TYPE_CHECKING, Callable, Dict, List, NoReturn

import XenAPI

from storage_motion import waiting
from storage_motion.errors import BadArguments, TimedOut, Undecided
from storage_motion.xapi import xenops
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Plan

ARGUMENT, DESTINATION = "lost", "destination"
# seconds for a xenopsd to find out that nobody is at the other end of its connection
GIVE_UP_TIMEOUT = 180.0


def said(given: Dict[str, str]) -> bool:
    """Whether the arguments of `recover` say so. Raises BadArguments for anything else, and without
    a migration that is named."""
    text = given.get(ARGUMENT)
    if not text:
        return False
    if text != DESTINATION:
        raise BadArguments("lost: is %r; only `destination` can be said to be lost" % text[:64])
    if not given.get("migration"):
        raise BadArguments("lost: for which migration is not said; name it by `migration`")
    return True


def missing(source: "XenAPI.Session", planned: "Plan") -> List[str]:
    """What the source has not any more of a planned VM: ["VDI <uuid>", "VBD <uuid>", ...]"""
    view = Records(source)
    wanted = (
        [("VM", planned.vm)]
        + [("VDI", disk.key) for disk in planned.sent]
        + [("VM", snapshot.vm) for snapshot in planned.snapshots]
        + [("VBD", disk.vbd) for disk in planned.disks if not disk.is_memory]
    )
    return ["%s %s" % pair for pair in wanted if view.ref(*pair) is None]


def come_back(m: "Migration") -> None:
    """The VM has gone over, and is back by that word: at the source it is halted, with the disks
    that it left. Raises Undecided."""
    if m.plan.live:
        _end_sending(m)
    if not m.entry["committed"]:
        return
    m.note(committed=False)  # what xenopsd and xapi still have of the VM is seen to on the way back


def _end_sending(m: "Migration") -> None:
    """Have the source's xenopsd give the move up. What it still has of the VM under another name it
    shuts down then, and only then: somebody who had started the VM meanwhile would lose it."""
    here = xenops.Xenops.local(m.source, "sxm " + m.id)

    def ended() -> bool:
        sending = [task for task in here.tasks_of_label() if here.task(task)[0] == xenops.PENDING]
        for task in sending:
            here.cancel(task)
        return not sending

    try:
        waiting.until(
            ended, GIVE_UP_TIMEOUT, "xenopsd's move of VM %s to end" % m.plan.vm, tick=1.0
        )
    except TimedOut as error:
        raise Undecided(str(error))


class LostPool:
    """In place of the session of the pool: nothing is there, and nothing has to be taken away."""

    class _Class:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, method: str) -> Callable[..., NoReturn]:
            def call(*arguments: object) -> NoReturn:
                raise XenAPI.Failure(
                    ["UUID_INVALID", self._name] + [str(argument) for argument in arguments[:1]]
                )

            return call

    class _Api:
        def __getattr__(self, name: str) -> "LostPool._Class":
            return LostPool._Class(name)

    xenapi = _Api()
