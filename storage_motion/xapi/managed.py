# SPDX-License-Identifier: LGPL-2.1-only
"""Whether xapi manages a VDI. Of one that it does not, it refuses everybody to copy, snapshot,
clone, resize or destroy it, to plug it, and to start a VM that has it (VDI_NOT_MANAGED:
xapi_vdi_helpers.ml, xapi_vbd_helpers.ml). SM and xenopsd use it as any other. It may have a VBD,
and be forgotten (VDI.forget); a scan of its SR leaves this as it is (xapi_sr.ml, update_vdis).

That is for SM's drivers to say: for root in dom0, by a session that has the SR in its other_config
(sm.ml, assert_session_has_internal_sr_access).
"""

import contextlib
from typing import TYPE_CHECKING, Iterator

from storage_motion.xapi import session as sessions

if TYPE_CHECKING:
    import XenAPI

FOR_SR = "_sm_session"  # key of a session's other_config (xapi_globs.ml)


@contextlib.contextmanager
def as_driver(sr: str) -> Iterator["XenAPI.Session"]:
    """A session that may say of the VDIs of an SR (a ref in the pool of this host) what only SM's
    drivers may: one of its own, since a session is one SR's."""
    session = sessions.local()
    try:
        session.xenapi.session.add_to_other_config(session._session, FOR_SR, sr)
        yield session
    finally:
        sessions.logout(session)


def set_managed(sr: str, vdi: str, value: bool) -> None:
    """Have xapi manage a VDI, or not. `sr`, `vdi`: refs in the pool of this host."""
    with as_driver(sr) as session:
        session.xenapi.VDI.set_managed(vdi, value)
