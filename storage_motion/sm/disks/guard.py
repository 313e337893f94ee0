# SPDX-License-Identifier: LGPL-2.1-only
"""Keeps from a VM's disk, whose gate is open or about to be, a command of SM that would activate it
only to be read.

A xapi that was restarted has forgotten which disks are to be written to until it has looked at all,
and does once more before that what it was having SM activate (storage_smapiv1.ml, vdi_read_write).
The VM could not write then. Its start waits for that, too. What fails is the answer to a xapi that
is dead; xenopsd's own request comes again afterwards, and has the disk activated to be written to.

Not for a disk that the VM has read-only: who would only read it is the VM.
"""

import logging
import os
from typing import Any, Dict, Mapping, Optional, Set

from storage_motion.errors import LaunchFailed
from storage_motion.sm import active, smapi, stock_sm

ACTIVATE = "vdi_activate"
LOCKS = "/proc/locks"  # the kernel's, and behind each who waits for it: proc(5)
# argument of our commands that open a gate: the VM has the disk read-only, so this is not for it
READ_ONLY = "read-only"

log = logging.getLogger(__name__)


class Guard(object):
    """It holds SM's lock of a VDI for as long as that is not active and no command of SM's, but one
    that would read, is there for it. So such a one comes too late, however fast it is."""

    def __init__(self) -> None:
        self._held: Dict[str, Any] = {}  # a VDI's UUID -> SM's lock
        self._seen: Set[str] = set()  # who waited for one of these at the last look

    def look(self, places: Mapping[str, str]) -> None:
        """`places`: {a VDI's UUID: its SR's}, those whose gates have been opened, or are opened
        once more. To be called again and again, at least every tenth of a second. Waits for no
        lock."""
        self._seen = self._waiting()
        commands = smapi.commands(places)
        for vdi_uuid, sr_uuid in places.items():
            found = [
                would_read(command, args) for one, _, command, args in commands if one == vdi_uuid
            ]
            keep = all(found) and not active.is_served(sr_uuid, vdi_uuid)
            # A look at all processes for each disk would keep SM's activations, which wait for
            # these locks, for as long. Who has come since waits for the lock until the next look.
            if (keep or any(found)) and self._take(vdi_uuid) and any(found):
                end_readers(vdi_uuid)
            if not keep:
                self._let_go(vdi_uuid)

    def holds(self) -> bool:
        """Whether it holds the lock of some VDI."""
        return bool(self._held)

    def is_waited_for(self) -> bool:
        """Whether somebody waits for a lock that it holds, who was not there at the last look: then
        one is due. This costs a hundredth of it."""
        return not self._waiting() <= self._seen

    def _waiting(self) -> Set[str]:
        """The pids of those who wait."""
        waiting: Set[str] = set()
        if not self._held:
            return waiting
        ours, pid = set(), str(os.getpid())
        with open(LOCKS) as locks:
            for number, *words in map(str.split, locks):
                # "7: POSIX ADVISORY WRITE <pid> ...", then "7: -> POSIX ADVISORY WRITE <pid> ..."
                if words[0] != "->" and words[3] == pid:
                    ours.add(number)
                elif words[0] == "->" and number in ours:
                    waiting.add(words[4])
        return waiting

    def close(self) -> None:
        """Hold nothing any more."""
        for vdi_uuid in list(self._held):
            self._let_go(vdi_uuid)

    def _take(self, vdi_uuid: str) -> bool:
        if vdi_uuid not in self._held:
            lock = stock_sm.module("core.lock").Lock("vdi", vdi_uuid)
            if not lock.acquireNoblock():
                return False
            self._held[vdi_uuid] = lock
        return True

    def _let_go(self, vdi_uuid: str) -> None:
        lock = self._held.pop(vdi_uuid, None)
        if lock is not None:
            lock.release()


def would_read(command: Optional[str], args: Any) -> bool:
    """Whether a command of SM's would activate a VDI only to be read."""
    return command == ACTIVATE and args != ["true"]


def would_have(command: Optional[str], args: Any, read_only: bool) -> bool:
    """Whether it would activate it as the VM has it: to be written to, or `read_only`."""
    return command == ACTIVATE and (args != ["true"]) == read_only


def end_readers(vdi_uuid: str) -> None:
    """End the commands that would only read a VDI, for who holds SM's lock of it: none of them is
    at its tags, each sleeps, or waits for the lock. One that does not end at once, as its storage
    hangs, runs no more code of its own."""
    for _, process, command, args in smapi.commands([vdi_uuid]):
        if would_read(command, args):
            told = "VDI %s: process %d, which would have it only to read, is ended%s"
            try:
                process.kill()
                log.warning(told, vdi_uuid, process.pid, "")
            except LaunchFailed as error:
                log.warning(told, vdi_uuid, process.pid, ", and hangs: %s" % error)
