# SPDX-License-Identifier: LGPL-2.1-only
"""The lock on what is handed over, on the other hosts of the source's pool: they see the same SRs,
and not the journal.

Before a disk is handed over each of them that sees its SR notes which disks are in question and
whose journal knows, in a file of its own: /var/lib/sxm/lock-<id>.json. Should the VM be about to
start there from one of these, its hook asks that host, and refuses it if the journal says so, or if
nobody answers. A note that stays behind hinders nobody whose journal can be asked, so it need not
be taken away at any price; each recovery of its host asks, too. A host that is off when the note is
made has none: there the marks in xapi's database are the only lock.
"""

import json
import logging
from typing import TYPE_CHECKING, Any, Dict, List, Set

import XenAPI

from storage_motion import strict_json, waiting
from storage_motion.dom0 import root
from storage_motion.errors import BadArguments, JournalError, MotionError, NoSuchMigration, NotNoted
from storage_motion.journal import handed_over, journal
from storage_motion.journal.journal import Journal
from storage_motion.journal.noting import noting
from storage_motion.plan import checks
from storage_motion.uuids import UUID
from storage_motion.xapi import session as sessions
from storage_motion.xapi.records import Records
from storage_motion.xapi.session import NOT_XAPI

if TYPE_CHECKING:
    from storage_motion.switch.protocols import Migration

# seconds for another host to note it; the guest still runs, and waits for nothing
TELL_TIMEOUT = 10.0
ASK_TIMEOUT = 30.0  # seconds for the journal's host to answer
MAX_ARGUMENT = 1024 * 1024
MAX_BYTES = 4 * MAX_ARGUMENT
NOTED = ("migration", "vm", "host", "host_name")

log = logging.getLogger("sxm")


# The worker's part.


def put(m: "Migration") -> None:
    """Have the other hosts that see a source disk's SR note it. One that does not is logged, and
    hinders no move. Idempotent."""
    hosts = m.entry.get("locked") or _others(m)
    m.note(locked=hosts)
    disks = ["%s/%s" % (disk.source_sr, disk.location) for disk in m.plan.disks]
    _tell(
        m,
        hosts,
        "lock",
        vm=m.plan.vm,
        host=m.plan.source_host,
        disks=json.dumps(disks),
        **{"host-name": m.plan.source_host_name},
    )


def lift(m: "Migration") -> None:
    """Have them forget it: nothing is handed over any more, or the disks are gone. Idempotent."""
    if m.entry.get("locked"):
        _tell(m, m.entry["locked"], "unlock")
        m.note(locked=[])


def _others(m: "Migration") -> List[str]:
    view = Records(m.source)
    srs = [
        view.by_uuid("SR", uuid)[1] for uuid in sorted({disk.source_sr for disk in m.plan.disks})
    ]
    return sorted(
        host["uuid"]
        for ref, host in view.all("host").items()
        if host["uuid"] != m.plan.source_host
        and any(sr and checks.plugged(view, sr, ref) for sr in srs)
    )


def _tell(m: "Migration", hosts: List[str], function: str, **arguments: str) -> None:
    def tell(uuid: str) -> None:
        try:
            _call(uuid, function, dict(arguments, migration=m.id), TELL_TIMEOUT)
        except (MotionError, XenAPI.Failure, OSError) + NOT_XAPI as error:
            log.warning(
                "%s: host %s does not %s: %s", m.id, uuid, function, " ".join(m.describe(error))
            )

    waiting.at_once(tell, hosts)


def _call(host: str, function: str, given: Dict[str, str], timeout: float) -> Any:
    """Our plugin's answer on the host with that UUID. Raises Unreachable, XenAPI.Failure, OSError,
    ValueError."""
    session = sessions.local(timeout)
    try:
        return json.loads(
            session.xenapi.host.call_plugin(
                session.xenapi.host.get_by_uuid(host), "sxm.py", function, given
            )
        )
    finally:
        sessions.logout(session)


# The plugin's, on those hosts, and on that of the journal.


def lock(_: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Note it here. Raises NotNoted: this host then has no lock."""
    disks = _disks(given.get("disks", ""))
    if not UUID.match(given.get("vm", "")) or not UUID.match(given.get("host", "")):
        raise BadArguments("vm, host: are not UUIDs")
    note: Dict[str, Any] = {
        "migration": journal.check_id(given.get("migration", "")),
        "vm": given["vm"],
        "host": given["host"],
        "host_name": given.get("host-name", "")[:256],
        "disks": disks,
    }
    with noting(_name(note["migration"])):
        journal.replace(_path(note["migration"]), json.dumps(note, sort_keys=True))
    return {}


def unlock(_: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """Forget it here."""
    forget(journal.check_id(given.get("migration", "")))
    return {}


def told(_: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """{"disks": the locators that this host's journal says have been handed over, "ended": whether
    there is nothing more to come}"""
    try:
        entry = Journal.load(journal.check_id(given.get("migration", ""))).entry
    except NoSuchMigration:
        return {"disks": [], "ended": True}
    return {
        "disks": sorted(handed_over.locators(entry)),
        "ended": entry["state"] != journal.RUNNING and not entry["left"],
    }


def _disks(text: str) -> List[str]:
    try:
        disks = strict_json.loads(text) if len(text) <= MAX_ARGUMENT else None
    except ValueError:
        disks = None
    if not isinstance(disks, list) or not disks or not all(isinstance(disk, str) for disk in disks):
        raise BadArguments("disks: is not a list of locators")
    return disks


# The hook's.


def read(migration: str) -> Dict[str, Any]:
    """The note of this host: {"migration", "vm", "host", "host_name", "disks"}. Raises
    NoSuchMigration, JournalError."""
    path = _name(migration)
    try:
        with open(_path(migration), "rb") as source:
            note = strict_json.loads(source.read(MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise NoSuchMigration(migration)
    except (OSError, ValueError) as error:
        raise JournalError(path, str(error))
    if (
        not isinstance(note, dict)
        or not all(isinstance(note.get(name), str) for name in NOTED)
        or not isinstance(note.get("disks"), list)
    ):
        raise JournalError(path, "not the note of a lock")
    return note


def ask(note: Dict[str, Any]) -> Set[str]:
    """The locators that the host of the journal says have been handed over, a set; a note of what
    has ended is forgotten.

    Raises what keeps it from being asked."""
    answer = _call(note["host"], "handed-over", {"migration": note["migration"]}, ASK_TIMEOUT)
    if answer["ended"] and not answer["disks"]:
        try:
            forget(note["migration"])
        except NotNoted as error:  # the answer is what counts, and the next one comes to the same
            log.warning("%s", error)
    return set(answer["disks"])


def tidy() -> None:
    """Ask about all notes of this host, so that those of what has ended go. What cannot be asked,
    or read, stays as it is."""

    def look(migration: str) -> None:
        try:
            ask(read(migration))
        except NoSuchMigration:
            pass  # forgotten meanwhile
        except (MotionError, XenAPI.Failure, OSError, LookupError, TypeError) + NOT_XAPI as error:
            log.info("%s: its lock stays on this host: %s", migration, error)

    waiting.at_once(look, journal.all_ids(journal.LOCK))


def forget(migration: str) -> None:
    """Remove the note, if there is one. Raises NotNoted."""
    with noting(_name(migration)):
        journal.forget_file(_path(migration))


def _name(migration: str) -> str:
    """The file, as dom0 names it."""
    return "%s/%s%s.json" % (journal.DIRECTORY, journal.LOCK, journal.check_id(migration))


def _path(migration: str) -> str:
    root.private_directory(journal.DIRECTORY)
    return root.path(_name(migration))
