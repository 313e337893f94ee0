# SPDX-License-Identifier: LGPL-2.1-only
"""What the plugin's calls at the destination have in common: the journal of the migration that is
meant, who is busy with it, and what they are given."""

import os
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from storage_motion import waiting
from storage_motion.dom0 import inventory
from storage_motion.dom0.launch import Process
from storage_motion.errors import BadArguments, NoSuchMigration
from storage_motion.journal import journal
from storage_motion.journal.journal import RECEIVING, Journal
from storage_motion.uuids import UUID

if TYPE_CHECKING:
    import XenAPI

RECEIVE_TIMEOUT = 1800.0  # seconds that making and opening a hundred disks may take


def known(given: Dict[str, str]) -> Optional[Journal]:
    """The journal of the migration that is meant; None if there is none, or none any more."""
    found = journal.check_id(given.get("migration", ""))
    try:
        entry = Journal.load(found, RECEIVING)
    except NoSuchMigration:
        return None
    return None if refused(entry) else entry


def idle(entry: Journal) -> Optional[Journal]:
    """Wait until a `receive` that is under way has answered, or failed: the journal then, or None.
    Raises TimedOut."""
    migration = entry.entry["migration"]

    def settled() -> Optional[List[Optional[Journal]]]:
        latest = known({"migration": migration})
        busy = latest and Process.from_json(latest.entry.get("busy"))
        return None if busy and busy.alive() else [latest]

    return waiting.until(settled, RECEIVE_TIMEOUT, "receive of %s" % migration)[0]


def refused(entry: Journal) -> bool:
    """Whether a receiving journal only says that nothing of this migration is to begin here."""
    return bool(entry.entry["state"] == journal.CANCELLED)


def vm_of(given: Dict[str, str]) -> str:
    if not UUID.match(given.get("vm", "")):
        raise BadArguments("vm: %r is not the UUID of a VM" % given.get("vm", ""))
    return given["vm"]


def myself() -> Dict[str, Any]:
    process = Process.of(os.getpid())
    assert process is not None
    return process.to_json()


def own_address(session: "XenAPI.Session") -> str:
    address: str = session.xenapi.host.get_address(
        session.xenapi.host.get_by_uuid(inventory.host_uuid())
    )
    return address
