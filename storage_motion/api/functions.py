# SPDX-License-Identifier: LGPL-2.1-only
"""The plugin's functions: one table of what each does and what it takes, by which they are called,
checked and explained.

Those that begin with `receive`, and the ones that are for a driver, the source or either side, are
for the product itself, and not for people.
"""

import difflib
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple

import storage_motion
from storage_motion.api import (
    arguments,
    commands,
    host_facts,
    log,
    lookup,
    migrate,
    ports,
    selftest,
)
from storage_motion.api.arguments import Argument, Problems, Takes
from storage_motion.dom0 import state_db
from storage_motion.errors import BadArguments
from storage_motion.migration import at_destination, received_history
from storage_motion.plan import installed
from storage_motion.sm import sr_master
from storage_motion.switch import pool_lock
from storage_motion.xapi import database, database_fields

if TYPE_CHECKING:
    import XenAPI

MIGRATION = Argument("migration", "the migration's id")
VM = Argument(
    "vm", "its VM instead, by UUID or name: the migration of it that runs, else the latest"
)
LOCAL = Argument("local", "true: ask no other host")
FOR_VM = Argument("vm", "the UUID of the VM that the disks are for")
DISKS = Argument("disks", "a JSON list of the disks")
DISK = Argument("vdi", "the disk's UUID")
SELFTEST = Argument("selftest", "the selftest's id")
ADDRESS = Argument("address", "where the receiver listens")
SOURCES = Argument("sources", "a JSON list of the VDIs that the VM has: never taken away")
PORT = Argument("port", "one of those that receivers get")
EXPECT = Argument("expect", "how many will call")
WORD = Argument("word", "what they say: 32 hexadecimal digits")
TARGETS = Argument("targets", "a JSON list of [address, port]")
TURN = Argument("turn", "a number, higher than that of what the migration asked for before")

ONE = Takes((MIGRATION, VM, LOCAL), (("migration", "vm"),))
THIS = Takes((MIGRATION,), (("migration",),))


class Function(NamedTuple):
    """`run(session, {name: string})` answers a dict. `itself`: it checks the names with the values,
    to name all at once."""

    does: str
    takes: Takes
    run: Callable[["XenAPI.Session", Dict[str, str]], Dict[str, Any]]
    itself: bool = False


def explain(_: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """All functions with their arguments, or the one of `function`."""
    wanted = given.get("function")
    if wanted and wanted not in FUNCTIONS:
        near = difflib.get_close_matches(wanted[:64], FUNCTIONS, 1, 0.6)
        raise BadArguments(
            "function: there is no %r; %s"
            % (
                wanted[:64],
                "did you mean %s?" % near[0]
                if near
                else "one of %s" % ", ".join(sorted(FUNCTIONS)),
            )
        )
    return {
        "functions": {
            name: _explained(FUNCTIONS[name]) for name in ([wanted] if wanted else FUNCTIONS)
        }
    }


def _explained(function: Function) -> Dict[str, Any]:
    groups = {name: group for group in function.takes.required for name in group}
    return {
        "does": function.does,
        "arguments": [
            {
                "name": one.name,
                "means": one.means,
                "required": " or ".join(groups[one.name]) if one.name in groups else "no",
            }
            for one in function.takes.arguments
        ],
    }


FUNCTIONS: Dict[str, Function] = {
    "help": Function("tells this", Takes((Argument("function", "only this one"),)), explain),
    "migrate": Function(
        "moves a VM with its disks, or copies it", arguments.MIGRATE, migrate.migrate, itself=True
    ),
    "status": Function("tells how far a migration is, or how it ended", ONE, commands.status_of),
    "report": Function(
        "tells all that a report of a migration needs: plan, timeline, samples, outcome",
        ONE,
        commands.report_of,
    ),
    "list": Function(
        "lists the migrations of the pool, the newest first", Takes((LOCAL,)), lookup.list_all
    ),
    "cancel": Function("stops a migration, and takes it back", ONE, commands.cancel),
    "resume": Function("has a broken migration try again at once", ONE, commands.resume_now),
    "log": Function("tells what this host's log has of a migration", THIS, log.of),
    "limit": Function(
        "changes how much a migration that runs may send",
        Takes(
            ONE.arguments + (Argument("bandwidth", arguments.BANDWIDTH_MEANS),),
            ONE.required + (("bandwidth",),),
        ),
        commands.limit,
    ),
    "recover": Function(
        "brings interrupted migrations of this host to an end: all of them, unless one is named",
        Takes(
            (
                MIGRATION,
                VM,
                Argument(
                    "remote-username",
                    "the name of an administrator of the other pool, where it is not known any "
                    "more",
                ),
                Argument("remote-password", "that administrator's password"),
                Argument("lost", "destination: that pool will never come back"),
            )
        ),
        commands.recover,
    ),
    host_facts.FUNCTION: Function(
        "for sxm doctor: what only this host knows of itself", Takes(()), host_facts.facts
    ),
    ports.LISTENS: Function(
        "for sxm doctor: listens for a moment, as a receiver does",
        Takes((PORT, EXPECT, WORD), (("port",), ("expect",), ("word",))),
        ports.listen,
    ),
    ports.REACHES: Function(
        "for sxm doctor: tries to connect to such listeners, and to xapi",
        Takes((TARGETS, WORD), (("targets",), ("word",))),
        ports.reach,
    ),
    "receive": Function(
        "for the source: makes the new disks and receives them",
        Takes(
            (
                MIGRATION,
                FOR_VM,
                DISKS,
                ADDRESS,
                SOURCES,
                Argument("again", "true: after a call whose answer was lost"),
            ),
            (("migration",), ("vm",), ("disks",)),
        ),
        at_destination.receive,
    ),
    "receive-add": Function(
        "for the source: receives more disks, those of snapshots before those of the VM",
        Takes(
            (
                MIGRATION,
                FOR_VM,
                DISKS,
                ADDRESS,
                SOURCES,
                Argument("kept", "a JSON list of the disks that are kept here already"),
            ),
            (("migration",), ("vm",), ("disks",)),
        ),
        received_history.receive_add,
    ),
    "receive-keep": Function(
        "for the source: disks of snapshots are whole",
        Takes((MIGRATION, DISKS), (("migration",), ("disks",))),
        received_history.receive_keep,
    ),
    "receive-renew": Function(
        "for the source: receives broken disks anew",
        Takes((MIGRATION, DISKS, ADDRESS), (("migration",), ("disks",))),
        at_destination.receive_renew,
    ),
    "receive-stop": Function(
        "for the source: no gate opens any more",
        Takes((MIGRATION, FOR_VM), (("migration",), ("vm",))),
        at_destination.receive_stop,
    ),
    "receive-give": Function(
        "for the source: the new disks are the VM's, and managed by xapi again",
        THIS,
        at_destination.receive_give,
    ),
    "receive-owed": Function(
        "for the source: what the VM is to get back in the end, should the source never come back",
        Takes(
            (
                MIGRATION,
                Argument("ha-restart-priority", "what it had in HA: restart, best-effort or none"),
                Argument("vdis", "a JSON list of the disks whose changed blocks were tracked"),
            ),
            (("migration",), ("vdis",)),
        ),
        at_destination.receive_owed,
    ),
    "receive-status": Function(
        "for the source: the new disks and their gates", THIS, at_destination.receive_status
    ),
    "receive-abort": Function(
        "for the source: takes the new disks away",
        Takes((MIGRATION, Argument("force", "true: also if a gate was opened")), (("migration",),)),
        at_destination.receive_abort,
    ),
    "lock": Function(
        "for the source: other hosts of its pool note what is handed over",
        Takes(
            (
                MIGRATION,
                FOR_VM,
                Argument("host", "the UUID of the host that has the journal"),
                Argument("host-name", "its name"),
                Argument("disks", "a JSON list of locators"),
            ),
            (("migration",), ("vm",), ("host",), ("disks",)),
        ),
        pool_lock.lock,
    ),
    "unlock": Function("for the source: they forget it", THIS, pool_lock.unlock),
    "handed-over": Function(
        "for the hooks of other hosts: the disks that this host's journal says are handed over",
        THIS,
        pool_lock.told,
    ),
    "receive-track": Function(
        "for the source: the new disks' changed blocks are tracked",
        Takes(
            (MIGRATION, Argument("vdis", "a JSON list of the disks' UUIDs")),
            (("migration",), ("vdis",)),
        ),
        at_destination.receive_track,
    ),
    "receive-end": Function("for the source: the VM has arrived", THIS, at_destination.receive_end),
    installed.FUNCTION: Function(
        "for the source: whether it is whole here", Takes(()), installed.here
    ),
    "end-pause": Function(
        "for the driver on a member: whether nobody is at a disk, of which the storage manager may "
        "have left a pause",
        Takes(
            (DISK, Argument("host-key", "that member's key in its sm_config")),
            (("vdi",), ("host-key",)),
        ),
        sr_master.end_pause,
    ),
    sr_master.FUNCTION: Function(
        "for the source on a member: the snapshots that a xapi which ended has not noted",
        Takes(
            (DISK, Argument("since", "when it was begun, in seconds since the epoch")),
            (("vdi",), ("since",)),
        ),
        sr_master.find_lost,
    ),
    sr_master.RELINKING: Function(
        "for the source on a member: whether SM has left its mark of relinking on a disk",
        Takes((DISK,), (("vdi",),)),
        sr_master.look_at_relinking,
    ),
    sr_master.END_RELINKING: Function(
        "for the source on a member: takes away a mark of relinking that SM has left on a disk",
        Takes((DISK,), (("vdi",),)),
        sr_master.end_what_relinking_left,
    ),
    "selftest-digest": Function(
        "for sxm selftest: the digest of a disk of its halted VM",
        Takes((SELFTEST, DISK), (("selftest",), ("vdi",))),
        selftest.digest,
    ),
    "selftest-fill": Function(
        "for sxm selftest: writes a pattern to a disk that it made",
        Takes((SELFTEST, DISK), (("selftest",), ("vdi",))),
        selftest.fill,
    ),
    "selftest-release": Function(
        "for sxm selftest: closes a disk of its halted VM that it has left open",
        Takes((SELFTEST, DISK), (("selftest",), ("vdi",))),
        selftest.release,
    ),
    "selftest-kill": Function(
        "for sxm selftest: ends the worker of a migration of its VM",
        Takes((SELFTEST, MIGRATION, LOCAL), (("selftest",), ("migration",))),
        selftest.kill,
    ),
    database.FUNCTION: Function(
        "for either side: how much of xapi's database is on this host's disk",
        Takes(()),
        lambda session, given: {"generation": state_db.generation()},
    ),
    database_fields.FUNCTION: Function(
        "for the source: what a suspended VM, or a checkpoint, has for a disk or for its memory",
        Takes(
            (
                Argument("class", "VBD: a disk; VM: the memory"),
                Argument("uuid", "the UUID of that VBD, or VM"),
                DISK,
                MIGRATION,
                TURN,
            ),
            (("class",), ("uuid",), ("vdi",), ("migration",), ("turn",)),
        ),
        database_fields.write_here,
    ),
    database_fields.BEGIN: Function(
        "for the source: nothing of that is done any more that was asked for in an earlier turn",
        Takes((MIGRATION, TURN), (("migration",), ("turn",))),
        database_fields.begin_here,
    ),
}


def call(name: str, session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """What the function `name` answers, with the version of this product. Raises BadArguments
    before it does anything."""
    function = FUNCTIONS[name]
    if not function.itself:
        problems = Problems()
        arguments.check_names(name, function.takes, given, problems)
        problems.raise_any()
    return dict(function.run(session, given), version=storage_motion.__version__)
