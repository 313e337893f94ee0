# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm doctor`."""

from typing import Annotated, Any, Callable, List, Optional

import typer

from storage_motion.cli import exit_codes, pools
from storage_motion.cli.arguments import RemotePasswordFile, require_beside
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.doctor import findings, looking, reachability, table
from storage_motion.cli.doctor.findings import OK, PROBLEM, Finding
from storage_motion.cli.failures import EXPECTED, CertificateChanged, NotUnderstood, failure_of
from storage_motion.cli.pools import Pool
from storage_motion.errors import BadCredentials, CertificateMismatch, HostIsSlave, Unreachable

# what keeps us from a pool, and is a finding
NO_WAY = (BadCredentials, CertificateChanged, CertificateMismatch, HostIsSlave, Unreachable)


@command
def doctor(
    run: Invocation,
    to_pool: Annotated[
        Optional[str],
        typer.Option(
            "--to-pool",
            metavar="POOL",
            help="Look at this pool as well, and whether the hosts of the first reach its hosts.",
        ),
    ] = None,
    remote_password_file: RemotePasswordFile = None,
) -> int:
    """Look whether a pool, or two, are ready for moves.

    Nothing is changed, but that each host listens for a moment on a port as a receiver does, with
    its firewall open for that. Exit status 0: all is well; 4: there are warnings; 1: there are
    problems; 3: no pool could be reached.

    \b
      sxm -s paris doctor
      sxm -s paris doctor --to-pool lyon
    """
    require_beside("--remote-password-file", remote_password_file, ("--to-pool", to_pool))
    found: List[Finding] = []
    first = _seen(found, run.settings.server or "the default pool", lambda: run.pool)
    second = None
    if to_pool:
        one = pools.known(to_pool)
        second = _seen(found, one.name, lambda: run.connect_other(one, remote_password_file))
    looked = [one for one in (first, second) if one]
    seen = [one[1] for one in looked]
    if len({one.view.pool()["uuid"] for one in seen}) < len(seen):
        raise NotUnderstood("--to-pool: that is the same pool")
    found += table.judged(seen, _tries(looked))
    if run.out.json:
        run.out.document(findings.document(found))
    findings.show(run.out, found)
    return findings.STATUSES[findings.worst(found)] if seen else exit_codes.NO_CONNECTION


def _seen(found: List[Finding], name: str, connect: Callable[[], Pool]) -> Any:
    """(the pool, what was seen of it), or None; `found` has how it went."""
    try:
        pool = connect()
    except NO_WAY as error:
        failure = error.failure()
        found.append(_away(name, failure, exit_codes.of(failure).remedy))
        return None
    try:
        seen = looking.look(pool)
    except EXPECTED as error:
        found.append(
            _away(
                pool.name,
                failure_of(error),
                "look in /var/log/xensource.log of its master; xe-toolstack-restart there may help",
            )
        )
        return None
    found.append(
        Finding(
            OK,
            "its toolstack answers, with the certificate that is trusted here; hosts: %s"
            % ", ".join(host["name_label"] for _, host in seen.hosts),
            "pool %s" % pool.name,
            check="toolstack",
        )
    )
    return pool, seen


def _away(name: str, failure: List[str], remedy: str) -> Finding:
    what = "cannot be looked at: %s" % ": ".join(failure)
    return Finding(PROBLEM, what, "pool %s" % name, remedy or failure[-1], check="toolstack")


def _tries(looked: List[Any]) -> List[reachability.Try]:
    nodes = [reachability.nodes(pool, seen) for pool, seen in looked]
    if not nodes:
        return []
    return reachability.tried(nodes[0], nodes[1] if len(nodes) > 1 else [])
