# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm recover`."""

import time
from typing import Annotated, Dict, Iterable, List, Optional

import typer
import XenAPI

from storage_motion.cli import exit_codes, names, output, passwords, recovering
from storage_motion.cli.arguments import RemotePasswordFile, require_beside
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.failures import Interrupted, NotUnderstood, failure_of
from storage_motion.cli.names import Found
from storage_motion.cli.recovering import Recovered
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

    On all hosts of the pool at once, unless a migration or hosts are named. A host of which there
    is no word is given up after 45 seconds, or in mid-recovery after some four minutes, and named.
    Exit status 0: all are at an end; 4: some are not, or a host does not answer.

    \b
      sxm -s paris recover
      sxm -s paris recover web
    """
    given: Dict[str, str] = {}
    require_beside("--remote-password-file", remote_password_file, ("--remote-user", remote_user))
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
    with names.given_by("--host", run.pool):
        hosts = [names.host(run.pool, one) for one in host or []]
    if migration:
        one = names.migration(run.pool, migration)
        given["migration"] = one["migration"]
        hosts = hosts or [names.host(run.pool, one["source_host_uuid"])]
    ended = _ended(run, hosts or names.hosts(run.pool), given, bool(migration))
    failed = {one.host.name: failure_of(one.error) for one in ended if one.error}
    found = [
        dict(found, host=one.host.name)
        for one in ended
        for found in one.answer.get("migrations", ())
    ]
    if run.out.json:
        run.out.document({"migrations": found, "hosts that failed": failed})
    if not found and not failed:
        run.out.line("nothing to recover")
    unfinished = [one for one in found if one["outcome"] in OPEN]
    return exit_codes.SOME_FAILED if failed or unfinished else exit_codes.DONE


def _ended(
    run: Invocation, hosts: List[Found], given: Dict[str, str], alone: bool
) -> List[Recovered]:
    """In the order of the hosts; each is told of as it ends. `alone`: of one migration a failure is
    that of the command."""
    waiting, ended = {host.ref: host.name for host in hosts}, []
    began = time.monotonic()
    try:
        for one in recovering.on(run.pool, hosts, given):
            if one is None:
                took = output.duration(time.monotonic() - began)
                run.out.note("waiting for %s (%s)" % (_hosts(waiting.values()), took))
                continue
            del waiting[one.host.ref]
            ended.append(one)
            if alone and isinstance(one.error, (MotionError, XenAPI.Failure)):
                if not isinstance(one.error, recovering.HostSilent):
                    raise one.error
            _tell(run, one)
    except KeyboardInterrupt:
        raise Interrupted(
            "by you; %s not answered yet: what was begun there goes on"
            % (_hosts(waiting.values()) + (" have" if len(waiting) > 1 else " has"))
        )
    order = [host.ref for host in hosts]
    return sorted(ended, key=lambda one: order.index(one.host.ref))


def _tell(run: Invocation, one: Recovered) -> None:
    if one.error:
        # Of one that is silent its own words say which host it is.
        silent = isinstance(one.error, recovering.HostSilent)
        said = failure_of(one.error)[2:] if silent else failure_of(one.error)
        run.out.warning(
            "host %s %s%s"
            % (one.host.name, "does not answer: " if silent else "failed: ", ": ".join(said))
        )
    for found in one.answer.get("migrations", ()):
        run.out.line(
            "%s on %s (%s): %s"
            % (found["migration"], one.host.name, found["side"], found["outcome"])
        )
        run.out.paragraph(found["why"], 4)


def _hosts(named: Iterable[str]) -> str:
    found = sorted(named)
    return "%s %s" % ("host" if len(found) == 1 else "hosts", ", ".join(found))
