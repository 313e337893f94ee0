# SPDX-License-Identifier: LGPL-2.1-only
"""What `sxm evacuate` is asked for: its options that say what moves, and where to, and what these
mean in the pools."""

import difflib
from typing import Annotated, Any, Dict, List, NamedTuple, Optional, Tuple

import typer

from storage_motion.cli import names, pools
from storage_motion.cli.arguments import RemotePasswordFile, ToHost, ToPool, named, require_beside
from storage_motion.cli.command import Invocation
from storage_motion.cli.evacuation import goals, selection as selections
from storage_motion.cli.evacuation.selection import What
from storage_motion.cli.failures import NotUnderstood, UnknownName
from storage_motion.cli.pools import Pool
from storage_motion.xapi.records import Records

OURS = (
    "vm",
    "uuid",
    "host",
    "host-uuid",
    "destination-sr-uuid",
    "remote-username",
    "remote-password",
    "wait",
    "dry-run",
    "problems",
    "scan",
    "copy",
)
"""Arguments of the plugin that this command, or its options, say; those that begin with one of
OURS_WITH, too."""
OURS_WITH = ("remote-master", "vdi:")


class Moving(NamedTuple):
    """The options that say what is to move: one of them."""

    sr: Annotated[
        Optional[str], typer.Option("--sr", metavar="SR", help="Move all disks of this SR.")
    ] = None
    host: Annotated[
        Optional[str], typer.Option("--host", metavar="HOST", help="Move all VMs of this host.")
    ] = None
    pool: Annotated[bool, typer.Option("--pool", help="Move all VMs of the pool.")] = False
    tag: Annotated[
        Optional[str], typer.Option("--tag", metavar="TAG", help="Move all VMs with this tag.")
    ] = None
    vm: Annotated[
        Optional[List[str]],
        typer.Option("--vm", metavar="VM", help="Move this VM; may be repeated."),
    ] = None


class Towards(NamedTuple):
    """The options that say where to: one of the first three at least."""

    to_sr: Annotated[
        Optional[List[str]],
        typer.Option(
            "--to-sr",
            metavar="SR",
            help="To this SR; may be repeated: each VM goes to the one with most room left. "
            "Without it, to those that the destination sees.",
        ),
    ] = None
    to_host: ToHost = None
    to_pool: ToPool = None
    network: Annotated[
        Optional[List[str]],
        typer.Option(
            "--network",
            metavar="[FROM=]TO",
            help="Network of the other pool, for the interfaces in FROM or all others; without "
            "it the one that is called as theirs is. May be repeated.",
        ),
    ] = None
    remote_password_file: RemotePasswordFile = None
    argument: Annotated[
        Optional[List[str]],
        typer.Option(
            "--argument",
            metavar="NAME=VALUE",
            help="For each VM, as `migrate` has it: bandwidth=100MiB.",
        ),
    ] = None


class Asked(NamedTuple):
    """It, looked up. `here`, `there`: the pools, which may be one; `request`: what it is known
    again by, as JSON values; `title`: in words; `secrets`: arguments of the plugin that are not
    written down."""

    here: Pool
    there: Pool
    what: What
    to: goals.To
    request: Dict[str, Any]
    title: str
    secrets: Dict[str, str]

    def read(self) -> Tuple[Records, goals.To]:
        """The records of the VMs' pool, and where to by those of the other one, both read anew."""
        source = self.here.records(anew=True)
        there = source if self.there is self.here else self.there.records(anew=True)
        return source, self.to._replace(records=there)


def understood(run: Invocation, moving: Moving, towards: Towards) -> Asked:
    """Raises NotUnderstood, with all that is wrong with the words; UnknownName, AmbiguousName, and
    what connecting to the pools does."""
    _check(moving, towards)
    further = _further(towards.argument or [])
    what, asked, title = _what(run.pool, moving)
    there, secrets = run.pool, {}
    if towards.to_pool:
        there = run.connect_other(pools.known(towards.to_pool), towards.remote_password_file)
        secrets = there.as_remote()
    host = None
    if towards.to_host:
        with names.given_by("--to-host", there):
            host = names.host(there, towards.to_host)
    with names.given_by("--to-sr", there):
        chosen = [names.sr(there, text, host) for text in towards.to_sr or []]
    if any(one.ref in what.refs for one in chosen) and not towards.to_pool:
        raise NotUnderstood("--to-sr: %s is the SR that is to be emptied" % moving.sr)
    pairs, default = _networks(run.pool, there, towards.network or [])
    to = goals.To(
        records=there.records(),
        cross_pool=bool(towards.to_pool),
        srs=tuple(one.ref for one in chosen),
        host=host.ref if host else "",
        networks={here.ref: uuid for here, uuid in pairs},
        network=default,
        leave=what.refs if what.kind == selections.SR else (),
        further=further,
    )
    request = {
        "to_pool": there.records().pool()["uuid"],
        "srs": sorted(one.uuid for one in chosen),
        "host": host.uuid if host else "",
        "networks": {here.uuid: uuid for here, uuid in pairs},
        "network": default,
        "what": asked,
        "arguments": further,
    }
    return Asked(run.pool, there, what, to, request, title, secrets)


def require_tag(source: Records, tag: str) -> None:
    """Raises UnknownName. Not of an evacuation that goes on: its VMs may all have left the pool."""
    known = {one for vm in source.all("VM").values() for one in vm["tags"]}
    if tag not in known:
        near = difflib.get_close_matches(tag, sorted(known), n=5)
        raise UnknownName(
            "--tag: there is no VM with tag %r%s" % (tag, "; did you mean" if near else ""), *near
        )


def _check(moving: Moving, towards: Towards) -> None:
    """What is wrong with the words alone."""
    wrong = []
    given = [option for option, value in _options(moving) if value]
    if len(given) != 1:
        wrong.append(
            "what is to move? give one of %s%s"
            % (
                ", ".join(option for option, _ in _options(moving)),
                ", not %s" % " and ".join(given) if given else "",
            )
        )
    if not (towards.to_sr or towards.to_host or towards.to_pool):
        wrong.append("where to? give --to-sr or --to-host or --to-pool")
    if towards.network and not towards.to_pool:
        wrong.append("--network is for --to-pool: within the pool the networks stay")
    if wrong:
        raise NotUnderstood(*wrong)
    require_beside(
        "--remote-password-file", towards.remote_password_file, ("--to-pool", towards.to_pool)
    )


def _options(moving: Moving) -> List[Tuple[str, Any]]:
    return [("--" + name, value) for name, value in moving._asdict().items()]


def _what(pool: Pool, moving: Moving) -> Tuple[What, Dict[str, Any], str]:
    """(What is asked for, the same to be known again by, a title)."""
    pool_uuid, tag = pool.records().pool()["uuid"], moving.tag or ""
    if moving.sr:
        with names.given_by("--sr", pool):
            found = [names.sr(pool, moving.sr)]
        kind, title = selections.SR, found[0].name
    elif moving.host:
        with names.given_by("--host", pool):
            found = [names.host(pool, moving.host)]
        kind, title = selections.HOST, found[0].name
    elif moving.vm:
        with names.given_by("--vm", pool):
            found = [names.vm(pool, text) for text in moving.vm]
        kind, title = selections.VMS, found[0].name
    else:
        found = []
        kind, title = (selections.TAG, tag) if tag else (selections.POOL, "pool")
    what = What(kind, tuple(one.ref for one in found), tag)
    asked = {
        "pool": pool_uuid,
        "kind": kind,
        "uuids": sorted(one.uuid for one in found),
        "tag": tag,
    }
    return what, asked, title


def _networks(
    here: Pool, there: Pool, given: List[str]
) -> Tuple[List[Tuple[names.Found, str]], str]:
    """([(network here, the UUID of one there)], that of all others or "")."""
    pairs: List[Tuple[names.Found, str]] = []
    default = ""
    for text in given:
        before, equals, after = text.rpartition("=")
        if default and not equals:
            raise NotUnderstood("--network: two for all others; say FROM=TO")
        with names.given_by("--network", there):
            goal = names.network(there, after).uuid
        if equals:
            with names.given_by("--network", here):
                pairs.append((names.network(here, before), goal))
        else:
            default = goal
    return pairs, default


def _further(given: List[str]) -> Dict[str, str]:
    """Arguments of the plugin for each VM."""
    found = named(given)
    wrong = [name for name in found if name in OURS or name.startswith(OURS_WITH)]
    if wrong:
        raise NotUnderstood(
            "--argument: %s is said by this command, or by options of its own" % ", ".join(wrong)
        )
    return found
