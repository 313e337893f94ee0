# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm recover`."""

from typing import Annotated, Any, Dict, List, Optional

import typer
import XenAPI

from storage_motion.cli import exit_codes, names, passwords
from storage_motion.cli.arguments import RemotePasswordFile
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.failures import EXPECTED, NotUnderstood, failure_of
from storage_motion.errors import MotionError

OPEN = ("waiting", "undecided", "unfinished", "running")  # outcomes that are no end


@command
def recover(
    run: Invocation,
    migration: Annotated[
        Optional[str],
        typer.Argument(
            metavar="MIGRATION",
            help="Its id or how that begins, or its VM's name or UUID; else all.",
        ),
    ] = None,
    host: Annotated[
        Optional[List[str]],
        typer.Option("--host", metavar="HOST", help="Only on this host. Again for others."),
    ] = None,
    remote_user: Annotated[
        Optional[str],
        typer.Option(
            "--remote-user",
            metavar="NAME",
            help="Who logs in to the other pool, where that is not known any more.",
        ),
    ] = None,
    remote_password_file: RemotePasswordFile = None,
    lost_destination: Annotated[
        bool, typer.Option("--lost-destination", help="The other pool will never come back.")
    ] = False,
) -> int:
    """Bring interrupted migrations to an end: to the destination, or taken back.

    On all hosts of the pool, unless a migration or hosts are named. Exit status 0: all are at an
    end; 4: some are not, or a host does not answer within half an hour, and it is told why.

    \b
      sxm -s paris recover
      sxm -s paris recover web
    """
    given: Dict[str, str] = {}
    if remote_user:
        given["remote-username"] = remote_user
        given["remote-password"] = passwords.find(
            remote_user,
            "the other pool",
            remote_password_file,
            passwords.REMOTE_VARIABLE,
            None,
            run.out.note,
        )
    if lost_destination:
        if not migration:
            raise NotUnderstood("--lost-destination wants a migration to be named")
        given["lost"] = "destination"
    hosts = [names.host(run.pool, one) for one in host or []]
    if migration:
        one = names.migration(run.pool, migration)
        given["migration"] = one["migration"]
        hosts = hosts or [names.host(run.pool, one["source_host_uuid"])]
    failed: Dict[str, List[str]] = {}
    found: List[Dict[str, Any]] = []
    for there in hosts or names.hosts(run.pool):
        try:
            answer = run.pool.plugin_for_long(there.ref, "recover", **given)
        except EXPECTED as error:
            if migration and isinstance(error, (MotionError, XenAPI.Failure)):
                raise
            # A host that is slow, or lost, keeps nobody from the others.
            failed[there.name] = failure_of(error)
            run.out.warning("host %s: %s" % (there.name, ": ".join(failed[there.name])))
            continue
        for one in answer["migrations"]:
            one = dict(one, host=there.name)
            found.append(one)
            run.out.line("%(migration)s on %(host)s (%(side)s): %(outcome)s" % one)
            run.out.paragraph(one["why"], 4)
    if run.out.json:
        run.out.document({"migrations": found, "hosts that failed": failed})
    if not found and not failed:
        run.out.line("nothing to recover")
    unfinished = [one for one in found if one["outcome"] in OPEN]
    return exit_codes.SOME_FAILED if failed or unfinished else exit_codes.DONE
