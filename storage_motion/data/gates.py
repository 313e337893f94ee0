"""The gates of the disks that a receiver fills: SM's driver opens them, and is asked over this host's xapi.

A xapi that is restarted costs them a wait, and comes back with an older database, in which a gate that has been opened is shut. Nobody but
this host can open that one again: until SM has the disk, which waits for the gate, xapi serves nobody over the network (facts: dbsync, at its start).
"""
import logging
import time

from storage_motion.dom0 import smapi
from storage_motion.errors import SmFault
from storage_motion.xapi import session as sessions

PATIENCE = 120.0    # seconds from the begin after which no opening is tried anew; the mover gives up after 300

log = logging.getLogger(__name__)


class Gates(object):
    """Those of this host."""

    def __init__(self):
        self._session = None    # of the thread that holds gates open

    def open(self, sr_uuid, vdi_uuid):
        """Close the tapdisk of that VDI and take its marks away. Once more if xapi was restarted meanwhile: SM's driver asks it by our
        session, which ends with it. Raises MotionError, XenAPI.Failure, OSError."""
        end = time.monotonic() + PATIENCE
        while True:
            session = sessions.patiently(sessions.local)
            try:
                _have_sm(session, "vdi_receive_finish", sr_uuid, vdi_uuid)
                return
            except SmFault as fault:
                if time.monotonic() > end or not _is_another(session):
                    raise
                log.warning("VDI %s: its gate is opened once more, as xapi was restarted meanwhile: %s", vdi_uuid, fault)
            finally:
                sessions.logout(session)

    def hold_open(self, sr_uuid, vdi_uuid):
        """Open the gate of that VDI, which has been opened before, if xapi has it shut again and SM waits there to
        activate it. Waits for nobody. Raises as `open`."""
        if self._session is None:
            self._session = sessions.local()
        api = sessions.at_once(self._session).xenapi
        if smapi.GATE_SHUT in api.VDI.get_sm_config(api.VDI.get_by_uuid(vdi_uuid)).values():
            if _have_sm(self._session, "vdi_receive_open_again", sr_uuid, vdi_uuid) == "opened":
                log.warning("VDI %s: its gate was shut again, and is opened", vdi_uuid)

    def close(self):
        """No gate is held open any more."""
        if self._session is not None:
            sessions.logout(sessions.at_once(self._session))


def _have_sm(session, command, sr_uuid, vdi_uuid):
    return smapi.call(session, session.xenapi.SR.get_by_uuid(sr_uuid), command, session.xenapi.VDI.get_by_uuid(vdi_uuid))


def _is_another(session):
    """Whether the session has ended: then a xapi that was restarted is asked by now by a new one, which XenAPI.Session begins."""
    former = session._session
    session.xenapi.pool.get_all()
    return session._session != former
