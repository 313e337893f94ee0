# SPDX-License-Identifier: LGPL-2.1-only
"""The migrations that the hosts of this pool know: all of them, and the one that is meant."""

from typing import TYPE_CHECKING, Any, Callable, Dict, List

from storage_motion.api import other_hosts, status
from storage_motion.api.other_hosts import RemoteFailure
from storage_motion.errors import BadArguments, JournalError, NoSuchMigration
from storage_motion.journal import journal
from storage_motion.journal.journal import Journal

if TYPE_CHECKING:
    import XenAPI


def list_all(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """All migrations of this pool, newest first. `unreadable`: failures, one for each journal that
    cannot be trusted."""
    found: List[Dict[str, Any]] = []
    unreadable: List[List[str]] = []
    for known in journal.all_ids():
        try:
            found.append(status.brief(Journal.load(known).entry))
        except NoSuchMigration:
            pass  # forgotten meanwhile
        except JournalError as error:
            unreadable.append(error.failure())
    if not given.get("local"):
        for host in other_hosts.alive(session):
            try:
                there = other_hosts.call(session, host, "list", {"local": "true"})
                found.extend(there["migrations"])
                unreadable.extend(there.get("unreadable", []))
            except RemoteFailure as failure:
                if failure.code != "XENAPI_MISSING_PLUGIN":
                    raise
    return {
        "migrations": sorted(found, key=lambda entry: entry["started"], reverse=True),
        "unreadable": unreadable,
    }


def where_known(
    session: "XenAPI.Session",
    given: Dict[str, str],
    function: str,
    answer: Callable[[Journal], Dict[str, Any]],
    **more: str,
) -> Dict[str, Any]:
    """`answer(journal)` on the host that has the journal of the migration that is meant. `more`:
    what the function takes besides."""
    found = meant(session, given)
    try:
        return answer(Journal.load(found))
    except NoSuchMigration:
        if given.get("local"):
            raise
    for host in other_hosts.alive(session):
        try:
            return other_hosts.call(
                session, host, function, dict(more, migration=found, local="true")
            )
        except RemoteFailure as failure:
            if failure.code not in (NoSuchMigration.code, "XENAPI_MISSING_PLUGIN"):
                raise
    raise NoSuchMigration(found)


def meant(session: "XenAPI.Session", given: Dict[str, str]) -> str:
    """The id of the migration that `migration` names, or of the one of `vm` that runs, else of the
    latest.

    Raises BadArguments if both are given, or more than one VM is called so; NoSuchMigration."""
    wanted = given.get("vm")
    if not wanted:
        return journal.check_id(given.get("migration", ""))
    if given.get("migration"):
        raise BadArguments("vm: is given beside migration; give one of them")
    answer = list_all(session, given)
    called = session.xenapi.VM.get_by_name_label(wanted)
    uuids = {wanted.lower()} | {session.xenapi.VM.get_uuid(ref) for ref in called}
    found = [one for one in answer["migrations"] if one["vm"] in uuids or one["vm_name"] == wanted]
    vms = {one["vm"] for one in found}
    if len(vms) > 1:
        raise BadArguments(
            "vm: %d VMs that were migrated are called %r; the UUID of one of %s"
            % (len(vms), wanted[:64], ", ".join(sorted(vms)))
        )
    running = [one for one in found if one["state"] == journal.RUNNING]
    if not running and answer["unreadable"]:
        raise RemoteFailure(answer["unreadable"][0])  # it may be just the one that is meant
    if not found:
        raise NoSuchMigration("of VM %s" % wanted[:64])
    return (running or found)[0]["migration"]
