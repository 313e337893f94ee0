# SPDX-License-Identifier: LGPL-2.1-only
"""Commands of MirrorSR that the worker has its own host carry out, with a xapi that may be
restarted under them.

A command has the worker's session, which ends with its xapi, so it cannot go on by itself: it fails
as smapi.AWAY. Each can be repeated (drivers/mirror_lib.py), so it is, once xapi is back: the calls
that lead to it wait for that (xapi/outage.py).
"""

import logging
import time
from typing import TYPE_CHECKING, Any, Optional, Sequence

from storage_motion.errors import SmFault
from storage_motion.sm import smapi
from storage_motion.xapi import repeated

if TYPE_CHECKING:
    import XenAPI

# Begun anew with another target, and not repeated: else the snapshot of the first one would have to
# go, and SM's collector come (migration/snapshots.py).
NOT_REPEATED = ("vdi_mirror_start",)

log = logging.getLogger("sxm")


def ask(
    session: "XenAPI.Session",
    sr_uuid: str,
    command: str,
    vdi_uuid: Optional[str] = None,
    args: Sequence[str] = (),
    timeout: float = smapi.DEFAULT_TIMEOUT,
) -> Any:
    """The answer of a command for a VDI, or, without one, for the SR. `args`: strings; `timeout`:
    seconds for one try. Raises SmFault, XenAPI.Failure."""
    for left in reversed(range(repeated.TRIES)):
        sr = session.xenapi.SR.get_by_uuid(sr_uuid)
        vdi = session.xenapi.VDI.get_by_uuid(vdi_uuid) if vdi_uuid else None
        try:
            return smapi.call(session, sr, command, vdi_ref=vdi, args=args, timeout=timeout)
        except SmFault as fault:
            if fault.fault != smapi.AWAY or not left or command in NOT_REPEATED:
                raise
            log.warning("VDI %s: %s: it is asked again", vdi_uuid or args, fault)
        time.sleep(repeated.PAUSE)
