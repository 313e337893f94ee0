# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm evacuate`: many VMs with one command."""

import difflib
from typing import Annotated, Any, Dict, List, NamedTuple, Optional, Tuple

import typer

from storage_motion.cli import exit_codes, names, passwords, pools
from storage_motion.cli.arguments import named
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.evacuation import (
    account as accounts,
    goals,
    naming,
    plan_shown,
    rehearsal as rehearsals,
    selection as selections,
    summary,
)
from storage_motion.cli.evacuation.account import Account
from storage_motion.cli.evacuation.display import Display
from storage_motion.cli.evacuation.order import Limits
from storage_motion.cli.evacuation.parts import count
from storage_motion.cli.evacuation.rehearsal import Rehearsal
from storage_motion.cli.evacuation.run import Evacuation, PoolAway
from storage_motion.cli.evacuation.selection import What
from storage_motion.cli.evacuation.state import StateError, StateFile
from storage_motion.cli.failures import Interrupted, NotUnderstood, UnknownName
from storage_motion.cli.report import kept
from storage_motion.xapi.records import Records

USUAL = Limits()
RETRIES = 2
OURS = (
    "vm",
    "uuid",
    "host",
    "host-uuid",
    "destination-sr-uuid",
    "wait",
    "dry-run",
    "problems",
    "copy",
)
"""Arguments of the plugin that this command, or its options, say."""


class _Goal(NamedTuple):
    """Where to. `request`: what it is known again by; `secrets`: not written down."""

    to: goals.To
    request: Dict[str, Any]
    secrets: Dict[str, str]


@command
def evacuate(
    run: Invocation,
    sr: Annotated[
        Optional[str], typer.Option(metavar="SR", help="Move all disks of this SR.")
    ] = None,
    host: Annotated[
        Optional[str], typer.Option(metavar="HOST", help="Move all VMs of this host.")
    ] = None,
    pool: Annotated[bool, typer.Option("--pool", help="Move all VMs of the pool.")] = False,
    tag: Annotated[
        Optional[str], typer.Option(metavar="TAG", help="Move all VMs with this tag.")
    ] = None,
    vm: Annotated[
        Optional[List[str]], typer.Option(metavar="VM", help="Move this VM; may be repeated.")
    ] = None,
    to_sr: Annotated[
        Optional[List[str]],
        typer.Option(
            metavar="SR",
            help="To this SR; may be repeated: each VM goes to the one with most room left. "
            "Without it, to those that the destination sees.",
        ),
    ] = None,
    to_host: Annotated[Optional[str], typer.Option(metavar="HOST", help="To this host.")] = None,
    to_pool: Annotated[
        Optional[str],
        typer.Option(metavar="POOL", help="To another pool: its name, or its master's address."),
    ] = None,
    network: Annotated[
        Optional[List[str]],
        typer.Option(
            metavar="[FROM=]TO",
            help="Network of the other pool, for the interfaces in FROM or all others; without "
            "it the one that is called as theirs is. May be repeated.",
        ),
    ] = None,
    remote_password_file: Annotated[
        Optional[str],
        typer.Option("--remote-password-file", metavar="FILE", help="That of the other pool."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, metavar="N", help="So many VMs at a time.")
    ] = USUAL.concurrency,
    per_host: Annotated[
        int, typer.Option(min=1, metavar="N", help="So many at any one host.")
    ] = USUAL.per_host,
    per_sr: Annotated[
        int, typer.Option(min=1, metavar="N", help="So many at any one SR.")
    ] = USUAL.per_sr,
    retries: Annotated[
        int, typer.Option(min=0, metavar="N", help="Try one that failed so often again.")
    ] = RETRIES,
    argument: Annotated[
        Optional[List[str]],
        typer.Option(
            metavar="NAME=VALUE", help="For each VM, as `migrate` has it: bandwidth=100MiB."
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Keep a report of all on this machine.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan of all of it; change nothing.")
    ] = False,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Leave those that are refused, move the others.")
    ] = False,
    name: Annotated[
        Optional[str], typer.Option(metavar="NAME", help="Of its state file, by which it goes on.")
    ] = None,
) -> int:
    """Move all disks of an SR, all VMs of a host, of the pool or with a tag, or several VMs.

    Run again, it goes on with what it has begun: it may be interrupted, or its machine may die. The
    migrations themselves run in the pool and go on without it.

    \b
      sxm evacuate --sr old-array --to-sr new1 --to-sr new2 --dry-run
      sxm evacuate --sr old-array --to-sr new1 --to-sr new2
      sxm -s paris evacuate --host paris3 --to-host paris4
      sxm evacuate --tag web --to-pool lyon --to-sr fast --network dmz=dmz2
    """
    _require_one(
        {"--sr": sr, "--host": host, "--pool": pool, "--tag": tag, "--vm": vm},
        {"--to-sr": to_sr, "--to-host": to_host, "--to-pool": to_pool},
        network,
    )
    what, asked, title = _what(run.pool, sr, host, tag, vm or [])
    goal = _goal(run, what, to_sr or [], to_host, to_pool, network or [], remote_password_file)
    goal = goal._replace(to=goal.to._replace(further=_further(argument or [])))
    request = dict(goal.request, what=asked, arguments=goal.to.further)
    if dry_run:
        plan = _rehearse(run, what, goal)
        _show(run, plan, goal)
        return exit_codes.DONE if plan.whole else exit_codes.REFUSED
    file = StateFile.open(name or naming.default(title, request))
    try:
        display = Display(run.out.errors if run.out.json else run.out.console)
        limits = Limits(concurrency, per_host, per_sr)

        def evacuation() -> Evacuation:
            return Evacuation(run.pool, file, limits, retries, display, goal.secrets)

        one = evacuation()
        if one.account.begun and not one.account.finished:
            _require_same(one.account, request, file.path)
            display.say("going on with %s" % file.path)
        else:
            plan = _rehearse(run, what, goal)
            if skip_refused:
                plan = rehearsals.without(plan, plan.refused)
            if not plan.whole:
                _show(run, plan, goal)
                run.out.note("nothing has been begun; --skip-refused leaves those out")
                return exit_codes.REFUSED
            file.put_away()
            one = evacuation()
            _note(one, request, plan)
            display.say("the state of this evacuation is in %s" % file.path)
        return _go(run, one, display, title if report else None)
    finally:
        file.close()


def _go(run: Invocation, evacuation: Evacuation, display: Display, title: Optional[str]) -> int:
    """`title`: of the report; None for none."""
    try:
        with display:
            account = evacuation.go()
    except KeyboardInterrupt:
        raise Interrupted(*_how_to_go_on(evacuation.account))
    except (PoolAway, StateError) as error:
        error.details += _how_to_go_on(evacuation.account)
        raise
    found = summary.of(account)
    found["report"] = "" if title is None else _report(run, account, title)
    if run.out.json:
        run.out.document(found)
    for line in summary.lines(account):
        run.out.line(line)
    if found["report"]:
        run.out.line("report: %s" % found["report"])
    return exit_codes.DONE if summary.complete(account) else exit_codes.SOME_FAILED


def _report(run: Invocation, account: Account, title: str) -> str:
    """One page of all its migrations: its path, or "". What it came to does not depend on it."""
    migrations = [one for course in account.courses.values() for one in course.migrations]
    try:
        written = kept.keep_all(run.pool, migrations, run.out, "Evacuation of %s" % title)
    except Exception as error:  # whatever it is: all has been moved by now
        run.out.warning("no report is written: %s" % (str(error) or error.__class__.__name__))
        return ""
    return written.html if written else ""


def _how_to_go_on(account: Account) -> List[str]:
    running = account.busy
    return (
        ["nothing further is begun; waiting: %s" % count(len(account.of(accounts.WAITING)), "VM")]
        + [
            "VM %s goes on by itself: migration %s"
            % (course.planned.name, course.migration or "(just begun)")
            for course in running
        ]
        + ["to go on: run the same command again"]
        + (["to take one back: sxm cancel MIGRATION"] if running else [])
    )


def _note(evacuation: Evacuation, request: Dict[str, Any], plan: Rehearsal) -> None:
    evacuation.note(accounts.ASKED, request=request)
    for one in plan.rehearsed:
        evacuation.note(accounts.PLANNED, planned=one.planned.to_json())
    for left in plan.left:
        evacuation.note(accounts.LEFT, left=left._asdict())
    evacuation.note(accounts.BEGUN)


def _require_same(account: Account, request: Dict[str, Any], path: str) -> None:
    if account.request != request:
        raise NotUnderstood(
            "%s is of another evacuation, which has not ended" % path,
            "give another --name, or say the same as then",
        )


def _rehearse(run: Invocation, what: What, goal: _Goal) -> Rehearsal:
    def tell(done: int, of: int, name: str) -> None:
        if run.out.errors.is_terminal:
            run.out.error_line("planning %d of %d: %s" % (done + 1, of, name))

    source = run.pool.records(anew=True)
    if what.kind == selections.TAG:
        _require_tag(source, what.tag)
    selection = selections.select(source, what, all_disks=goal.to.cross_pool)
    return rehearsals.rehearse(run.pool, source, selection, goal.to, goal.secrets, tell)


def _show(run: Invocation, plan: Rehearsal, goal: _Goal) -> None:
    if run.out.json:
        run.out.document(rehearsals.to_json(plan))
    plan_shown.show(
        plan, run.out, lambda uuid: goal.to.records.by_uuid("SR", uuid)[1]["name_label"]
    )


def _require_one(what: Dict[str, Any], where: Dict[str, Any], networks: Any) -> None:
    """Of `what`, {option: its value}, one has to be given, and of `where` at least one. Raises
    NotUnderstood, with all that is wrong."""
    given, wrong = [option for option, value in what.items() if value], []
    if len(given) != 1:
        wrong.append(
            "what is to move? give one of %s%s"
            % (", ".join(what), ", not %s" % " and ".join(given) if given else "")
        )
    if not any(where.values()):
        wrong.append("where to? give %s" % " or ".join(where))
    if networks and not where["--to-pool"]:
        wrong.append("--network is for --to-pool: within the pool the networks stay")
    if wrong:
        raise NotUnderstood(*wrong)


def _what(
    pool: pools.Pool, sr: Optional[str], host: Optional[str], tag: Optional[str], vms: List[str]
) -> Tuple[What, Dict[str, Any], str]:
    """(What is asked for, the same to be known again by, a title)."""
    pool_uuid = pool.records().pool()["uuid"]
    if sr:
        found = [names.sr(pool, sr)]
        kind, title = selections.SR, found[0].name
    elif host:
        found = [names.host(pool, host)]
        kind, title = selections.HOST, found[0].name
    elif vms:
        found = [names.vm(pool, text) for text in vms]
        kind, title = selections.VMS, found[0].name
    else:
        found = []
        kind, title = (selections.TAG, tag or "") if tag else (selections.POOL, "pool")
    what = What(kind, tuple(one.ref for one in found), tag or "")
    asked = {
        "pool": pool_uuid,
        "kind": kind,
        "uuids": sorted(one.uuid for one in found),
        "tag": tag or "",
    }
    return what, asked, title


def _require_tag(source: Records, tag: str) -> None:
    """Raises UnknownName. Not of an evacuation that goes on: its VMs may all have left the pool."""
    known = {one for vm in source.all("VM").values() for one in vm["tags"]}
    if tag not in known:
        near = difflib.get_close_matches(tag, sorted(known), n=5)
        raise UnknownName(
            "there is no VM with tag %r%s" % (tag, "; did you mean" if near else ""), *near
        )


def _goal(
    run: Invocation,
    what: What,
    srs: List[str],
    host: Optional[str],
    to_pool: Optional[str],
    networks: List[str],
    password_file: Optional[str],
) -> _Goal:
    there, secrets = run.pool, {}
    if to_pool:
        there = run.connect(pools.known(to_pool), password_file, passwords.REMOTE_VARIABLE)
        secrets = {
            "remote-master": there.address,
            "remote-username": there.known.user,
            "remote-password": there.password,
        }
    chosen_host = names.host(there, host) if host else None
    chosen = [names.sr(there, text, chosen_host) for text in srs]
    pairs, default = _networks(run.pool, there, networks)
    to = goals.To(
        records=there.records(),
        cross_pool=bool(to_pool),
        srs=tuple(one.ref for one in chosen),
        host=chosen_host.ref if chosen_host else "",
        networks={here.ref: uuid for here, uuid in pairs},
        network=default,
        leave=what.refs if what.kind == selections.SR else (),
    )
    request = {
        "to_pool": there.records().pool()["uuid"],
        "srs": sorted(one.uuid for one in chosen),
        "host": chosen_host.uuid if chosen_host else "",
        "networks": {here.uuid: uuid for here, uuid in pairs},
        "network": default,
    }
    return _Goal(to, request, secrets)


def _networks(
    here: pools.Pool, there: pools.Pool, given: List[str]
) -> Tuple[List[Tuple[names.Found, str]], str]:
    """([(network here, the UUID of one there)], that of all others or "")."""
    pairs: List[Tuple[names.Found, str]] = []
    default = ""
    for text in given:
        before, equals, after = text.rpartition("=")
        if equals:
            pairs.append((names.network(here, before), names.network(there, after).uuid))
        elif default:
            raise NotUnderstood("--network: two for all others; say FROM=TO")
        else:
            default = names.network(there, after).uuid
    return pairs, default


def _further(given: List[str]) -> Dict[str, str]:
    """Arguments of the plugin for each VM."""
    found = named(given)
    wrong = [name for name in found if name in OURS or name.startswith(("remote-master", "vdi:"))]
    wrong += [name for name in found if name in ("remote-username", "remote-password")]
    if wrong:
        raise NotUnderstood(
            "--argument: %s is said by this command, or by options of its own" % ", ".join(wrong)
        )
    return found
