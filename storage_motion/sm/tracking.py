# SPDX-License-Identifier: LGPL-2.1-only
"""Changed block tracking of a disk of a VM of this host, begun and ended by xapi (VDI.enable_cbt,
disable_cbt).

Both are idempotent by xapi's record alone: what an older database says falsely `end` puts right.
SM pauses the disk for either: its tapdisk is poked meanwhile, which SM does not do. And SM leaves
it so if its xapi ends just then; so afterwards the guest is made to go on, whatever has come of it.
"""

import contextlib
from typing import Iterator, List, Optional, Union

import XenAPI

from storage_motion.dom0 import tapctl
from storage_motion.errors import MotionError, TaskFailed, TimedOut
from storage_motion.sm import active, marks, repeated_commands
from storage_motion.xapi import repeated, tasks

TIMEOUT = 300.0  # seconds: xapi waits for whatever else is done with the VDI, or with its SR
TRIES = 2  # the second one where SM had left the disk paused, which has ended by then
OF_SM = "SR_BACKEND_FAILURE"  # how the codes of its refusals begin
NOT_KNOWN_TO_BE_OPEN = (
    "SM does not know that it is open, since xapi's database has gone back: restart the VM first"
)


def end(session: "XenAPI.Session", vdi_uuid: str) -> None:
    """Have it tracked no more. Raises TaskFailed, TimedOut, SmFault, XenAPI.Failure."""
    _change(session, vdi_uuid, False)


def renew(session: "XenAPI.Session", vdi_uuid: str) -> Optional[str]:
    """Have it tracked from now on, whatever xapi believes. None, or why it is not, in words."""
    try:
        end(session, vdi_uuid)
    except (MotionError, XenAPI.Failure) as error:
        return _refusal(error)
    return begin(session, vdi_uuid)


def begin(session: "XenAPI.Session", vdi_uuid: str) -> Optional[str]:
    """Have it tracked. None, or why it is not, in words."""
    try:
        config = session.xenapi.VDI.get_sm_config(session.xenapi.VDI.get_by_uuid(vdi_uuid))
        sr_uuid = _sr_of(session, vdi_uuid)
        # Else SM pauses no tapdisk, so none is told of the log, and a backup lacks what is written.
        if active.is_served(sr_uuid, vdi_uuid) and not any(
            key.startswith(marks.HOST) for key in config
        ):
            return NOT_KNOWN_TO_BE_OPEN
        _change(session, vdi_uuid, True)
    except (MotionError, XenAPI.Failure) as error:
        return _refusal(error)
    return None


def _refusal(error: Union[MotionError, "XenAPI.Failure"]) -> str:
    """In words. Raises it again where a xapi is only away: it is asked once more then."""
    if repeated.is_away(error):
        raise error
    return " ".join(str(detail) for detail in error.details)


def _change(session: "XenAPI.Session", vdi_uuid: str, tracked: bool) -> None:
    sr_uuid = _sr_of(session, vdi_uuid)
    for left in reversed(range(TRIES)):
        try:
            with _poked(sr_uuid, vdi_uuid):
                _ask(session, vdi_uuid, tracked)
        except TaskFailed as failed:
            if not left or not failed.details[0].startswith(OF_SM):
                raise
        else:
            return
        finally:
            repeated_commands.ask(session, sr_uuid, "vdi_go_on", vdi_uuid)


@contextlib.contextmanager
def _poked(sr_uuid: str, vdi_uuid: str) -> Iterator[None]:
    pid = active.tapdisk_of(sr_uuid, vdi_uuid)
    with contextlib.ExitStack() as meanwhile:
        if pid is not None:
            meanwhile.enter_context(tapctl.poked(pid))
        yield


def _sr_of(session: "XenAPI.Session", vdi_uuid: str) -> str:
    sr = session.xenapi.VDI.get_SR(session.xenapi.VDI.get_by_uuid(vdi_uuid))
    uuid: str = session.xenapi.SR.get_uuid(sr)
    return uuid


def _ask(session: "XenAPI.Session", vdi_uuid: str, tracked: bool) -> None:
    begun: List[str] = []

    def ask() -> str:
        vdi = session.xenapi.VDI.get_by_uuid(vdi_uuid)
        begun.append(
            session.xenapi.Async.VDI.enable_cbt(vdi)
            if tracked
            else session.xenapi.Async.VDI.disable_cbt(vdi)
        )
        return begun[-1]

    try:
        tasks.run(session, ask, TIMEOUT)
    except TimedOut:
        # One that waits for others is not begun any more.
        with contextlib.suppress(XenAPI.Failure):
            session.xenapi.task.cancel(begun[-1])
        raise
