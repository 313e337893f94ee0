"""A destination that will never come back, by the word of the administrator: `recover` with `lost=destination`.

Nobody else can know. Without that word everything waits that needs to see whether the VM is there; with it the VM is at the source,
with its disks as they were when they were sealed, and whatever was made at the destination is written off.
"""
import XenAPI

from storage_motion.control import waiting
from storage_motion.errors import BadArguments, MotionError, TimedOut, Undecided
from storage_motion.xapi import xenops
from storage_motion.xapi.records import Records

ARGUMENT, DESTINATION = "lost", "destination"
GIVE_UP_TIMEOUT = 180.0    # seconds for a xenopsd to find out that nobody is at the other end of its connection


class DestinationLost(MotionError):
    """[VM]: it is at the source. What it has written since it went over, if it did, is lost with the destination."""
    code = "SXM_DESTINATION_LOST"


def said(given):
    """Whether the arguments of `recover` say so. Raises BadArguments for anything else, and without a migration that is named."""
    text = given.get(ARGUMENT)
    if not text:
        return False
    if text != DESTINATION:
        raise BadArguments("lost: is %r; only `destination` can be said to be lost" % text[:64])
    if not given.get("migration"):
        raise BadArguments("lost: for which migration is not said; name it by `migration`")
    return True


def missing(source, planned):
    """What the source has not any more of a planned VM: ["VDI <uuid>", "VBD <uuid>", ...]"""
    view = Records(source)
    wanted = [("VM", planned.vm)] + [("VDI", disk.key) for disk in planned.disks] + [("VBD", disk.vbd) for disk in planned.disks]
    return ["%s %s" % pair for pair in wanted if view.ref(*pair) is None]


def come_back(m):
    """The VM has gone over, and is back by that word: at the source it is halted, with the disks that it left. Raises Undecided."""
    if m.plan.live:
        _end_sending(m)
    if not m.entry["committed"]:
        return
    m.note(committed=False)     # what xenopsd and xapi still have of the VM is seen to on the way back


def _end_sending(m):
    """Have the source's xenopsd give the move up. What it still has of the VM under another name it shuts down then, and only then:
    somebody who had started the VM meanwhile would lose it."""
    here = xenops.Xenops.local(m.source, "sxm " + m.id)

    def ended():
        sending = [task for task in here.tasks_of_label() if here.task(task)[0] == xenops.PENDING]
        for task in sending:
            here.cancel(task)
        return not sending
    try:
        waiting.until(ended, GIVE_UP_TIMEOUT, "xenopsd's move of VM %s to end" % m.plan.vm, tick=1.0)
    except TimedOut as error:
        raise Undecided(str(error))


class LostPool:
    """In place of the session of the pool: nothing is there, and nothing has to be taken away."""

    class _Class:
        def __init__(self, name):
            self._name = name

        def __getattr__(self, method):
            def call(*arguments):
                raise XenAPI.Failure(["UUID_INVALID", self._name] + [str(argument) for argument in arguments[:1]])
            return call

    class _Api:
        def __getattr__(self, name):
            return LostPool._Class(name)

    xenapi = _Api()
