# SPDX-License-Identifier: LGPL-2.1-only
"""The gates of the disks that a receiver fills: SM's driver opens them, and is asked over this
host's xapi.

A xapi that is restarted costs them a wait, and comes back with an older database, in which a gate
that has been opened is shut. Nobody but this host can open that one again: until SM has the disk,
which waits for the gate, xapi serves nobody over the network (dbsync_slave.ml, at its start).
"""

import logging
import time
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Set, Tuple

from storage_motion.dom0 import gate_notes
from storage_motion.errors import SmFault
from storage_motion.sm import marks, smapi, standby
from storage_motion.sm.disks.guard import ACTIVATE, READ_ONLY, Guard
from storage_motion.sm.standby import Standby
from storage_motion.switch import gate
from storage_motion.xapi import session as sessions

if TYPE_CHECKING:
    import XenAPI

# seconds from the begin after which no opening is tried anew; the mover gives up after 300
PATIENCE = 120.0
FINISH = "vdi_receive_finish"
# seconds for a call of xapi: nobody waits for what only makes the opening quicker
STAND_BY_TIMEOUT = 5.0

log = logging.getLogger(__name__)


class Gates(object):
    """Those of this host."""

    def __init__(self) -> None:
        self._session: "Optional[XenAPI.Session]" = None  # of the thread that holds gates open
        self._readers: Set[str] = set()  # the VDIs that the VM will have read-only
        # the VDIs that SM was at when that thread looked last, and whether xapi was away then
        self._activating: Dict[str, bool] = {}
        self._guard = Guard()  # of the thread that keeps readers out
        # VDI's UUID -> SR's, of the gates that are opened once more, or have been
        self._tried_again: Dict[str, str] = {}
        # a VDI's UUID -> what will open its gate, and the session that it has
        self._standing_by: "Dict[str, Tuple[Standby, XenAPI.Session]]" = {}
        self._unused: "List[XenAPI.Session]" = []  # of those that have opened their gates

    def expect_reader(self, vdi_uuid: str) -> None:
        """The VM will have that VDI read-only: who would activate it so is the VM."""
        self._readers.add(vdi_uuid)

    def _how(self, vdi_uuid: str) -> List[str]:
        return [READ_ONLY] if vdi_uuid in self._readers else []

    def stand_by(self, sr_uuid: str, vdi_uuid: str) -> None:
        """Have a command of SM's stand by that will open the gate of that VDI: it need not begin
        while the guest is suspended. Without it `open` begins one. Raises as `open`."""
        self.stand_down(vdi_uuid)
        session = sessions.local(STAND_BY_TIMEOUT, patient=False)
        try:
            command = Standby(
                session,
                session.xenapi.SR.get_by_uuid(sr_uuid),
                FINISH,
                session.xenapi.VDI.get_by_uuid(vdi_uuid),
                [standby.WHEN_TOLD] + self._how(vdi_uuid),
            )
        except Exception:
            sessions.logout(session)
            raise
        self._standing_by[vdi_uuid] = command, session

    def close_disk(self, vdi_uuid: str) -> None:
        """Nothing more comes for that VDI: the command that stands by, if one does, closes its
        tapdisk, takes SM's lock, and waits for `open`. Waits for nobody."""
        command, _ = self._standing_by.get(vdi_uuid, (None, None))
        if command is not None:
            try:
                command.close_disk()
            except SmFault as fault:  # `open` begins another one
                log.warning("VDI %s: what stood by to open its gate: %s", vdi_uuid, fault)

    def stand_down(self, vdi_uuid: str) -> None:
        """Nobody will ask for that gate to be opened: no command stands by any more."""
        command, session = self._standing_by.pop(vdi_uuid, (None, None))
        if command is not None and session is not None:
            command.end()
            sessions.logout(session)

    def _opened_by_standby(self, vdi_uuid: str) -> bool:
        """Whether the command that stood by has opened the gate. Where it has not, one that begins
        now can: it does over again what may have been done."""
        command, session = self._standing_by.pop(vdi_uuid, (None, None))
        if command is None or session is None:
            return False
        try:
            command.open()
            return True
        except SmFault as fault:
            log.warning("VDI %s: what stood by has not opened its gate: %s", vdi_uuid, fault)
            return False
        finally:
            self._unused.append(session)  # a call of xapi less while the guest is suspended

    def open(self, sr_uuid: str, vdi_uuid: str) -> None:
        """Close the tapdisk of that VDI and take its marks away. Once more if xapi was restarted
        meanwhile: SM's driver asks it by our session, which ends with it. That xapi has SM activate
        the disk to be read, just when the gate opens. Raises MotionError, XenAPI.Failure,
        OSError."""
        if vdi_uuid in self._standing_by:
            if self._opened_by_standby(vdi_uuid):
                return
            self._tried_again[vdi_uuid] = sr_uuid
        try:
            self._open(sr_uuid, vdi_uuid)
        except Exception:
            if not gate_notes.noted(vdi_uuid):  # else it may be open
                self._tried_again.pop(vdi_uuid, None)
            raise

    def _open(self, sr_uuid: str, vdi_uuid: str) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            session = sessions.patiently(sessions.local)
            try:
                _have_sm(session, FINISH, sr_uuid, vdi_uuid, self._how(vdi_uuid))
                return
            except SmFault as fault:
                if time.monotonic() > end or not _is_another(session):
                    raise
                log.warning(
                    "VDI %s: its gate is opened once more, as xapi was restarted meanwhile: %s",
                    vdi_uuid,
                    fault,
                )
                self._tried_again[vdi_uuid] = sr_uuid
            finally:
                sessions.logout(session)

    def hold_open(self, sr_uuid: str, vdi_uuid: str) -> None:
        """Open the gate of that VDI, which has been opened before, if xapi has it shut again and SM
        waits there to activate it; and have an activation forgotten that has died. Waits for
        nobody. Raises as `open`."""
        try:
            if self._session is None:
                self._session = sessions.local()
            api = sessions.at_once(self._session).xenapi
            config = api.VDI.get_sm_config(api.VDI.get_by_uuid(vdi_uuid))
        except Exception:
            self._activating[vdi_uuid] = True  # what is under way dies with its xapi
            raise
        if self._unused and gate.active(config):
            sessions.logout(self._unused.pop())  # no guest is suspended for it any more
        away = self._activating.pop(vdi_uuid, None)
        stuck = False
        if marks.ACTIVATING in config:
            self._activating[vdi_uuid] = False
            # One that takes its time, as with many disks on a busy host, is no dead one: a command
            # of ours for each of them would make the guest wait still longer.
            stuck = away is not None and (away or not _is_activated(vdi_uuid))
        if stuck or marks.SHUT in config.values():
            command, how = "vdi_receive_open_again", self._how(vdi_uuid)
            if _have_sm(self._session, command, sr_uuid, vdi_uuid, how) == "opened":
                log.warning("VDI %s: its gate was shut again, and is opened", vdi_uuid)

    def keep_writable(self, places: Mapping[str, str]) -> None:
        """Keep commands of SM out that would activate one of these VDIs, whose gates have been
        opened, only to be read: {VDI's UUID: SR's}; and those which are opened once more, from then
        on. Asks no xapi; nothing else holds such a command up at an open gate."""
        wanted = dict(self._tried_again, **places)
        self._guard.look({vdi: sr for vdi, sr in wanted.items() if vdi not in self._readers})

    def keeps_out(self) -> bool:
        """Whether `keep_writable` holds a lock, for which others have to wait."""
        return self._guard.holds()

    def is_waited_for(self) -> bool:
        """Whether somebody does: it is to be called at once."""
        return self._guard.is_waited_for()

    def end_guard(self) -> None:
        """No VDI is kept from anybody any more."""
        self._guard.close()

    def close(self) -> None:
        """No gate is held open any more, and nothing stands by."""
        for vdi_uuid in list(self._standing_by):
            self.stand_down(vdi_uuid)
        while self._unused:
            sessions.logout(self._unused.pop())
        if self._session is not None:
            sessions.logout(sessions.at_once(self._session))


def _is_activated(vdi_uuid: str) -> bool:
    """Whether a command of SM's is at that."""
    return any(command == ACTIVATE for _, _, command, _ in smapi.commands([vdi_uuid]))


def _have_sm(
    session: "XenAPI.Session", command: str, sr_uuid: str, vdi_uuid: str, how: List[str]
) -> Any:
    return smapi.call(
        session,
        session.xenapi.SR.get_by_uuid(sr_uuid),
        command,
        session.xenapi.VDI.get_by_uuid(vdi_uuid),
        how,
    )


def _is_another(session: "XenAPI.Session") -> bool:
    """Whether the session has ended: then a xapi that was restarted is asked by now by a new one,
    which XenAPI.Session begins."""
    former: str = session._session
    session.xenapi.pool.get_all()
    now: str = session._session
    return now != former
