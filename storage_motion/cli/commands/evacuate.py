# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm evacuate`: many VMs with one command."""

from typing import Annotated, Any, Dict, Optional

import typer

from storage_motion.cli import estimates, exit_codes
from storage_motion.cli.arguments import Report
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.evacuation import (
    account as accounts,
    duration,
    ending,
    naming,
    options,
    plan_shown,
    rehearsal as rehearsals,
    selection as selections,
)
from storage_motion.cli.evacuation.account import Account
from storage_motion.cli.evacuation.display import Display
from storage_motion.cli.evacuation.options import Asked, Moving, Towards
from storage_motion.cli.evacuation.order import Limits
from storage_motion.cli.evacuation.rehearsal import Rehearsal
from storage_motion.cli.evacuation.run import Evacuation
from storage_motion.cli.evacuation.state import NAME, NAME_IS, StateFile
from storage_motion.cli.failures import NotUnderstood

USUAL = Limits()
RETRIES = 2


@command
def evacuate(
    run: Invocation,
    moving: Moving,
    towards: Towards,
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
    report: Report = True,
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
    if name and not NAME.match(name):
        raise NotUnderstood("--name: %r; %s" % (name, NAME_IS))
    goal = options.understood(run, moving, towards)
    limits = Limits(concurrency, per_host, per_sr)
    if dry_run:
        plan = _rehearse(run, goal)
        _show(run, plan, goal, limits)
        return exit_codes.DONE if plan.whole else exit_codes.REFUSED
    file = StateFile.open(name or naming.default(goal.title, goal.request))
    try:
        display = Display(run.out.errors if run.out.json else run.out.console)

        def evacuation() -> Evacuation:
            return Evacuation(run.pool, file, limits, retries, display, goal.secrets)

        one = evacuation()
        if one.account.begun and not one.account.finished:
            _require_same(one.account, goal.request, file.path)
            display.say("going on with %s" % file.path)
        else:
            plan = _rehearse(run, goal)
            if skip_refused:
                plan = rehearsals.without(plan, plan.refused)
            if not plan.whole:
                _show(run, plan, goal, limits)
                run.out.note("nothing has been begun; --skip-refused leaves those out")
                return exit_codes.REFUSED
            file.put_away()
            one = evacuation()
            _note(one, goal.request, plan)
            display.say("the state of this evacuation is in %s" % file.path)
        return ending.go(run, one, display, goal.title if report else None)
    finally:
        file.close()


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


def _rehearse(run: Invocation, goal: Asked) -> Rehearsal:
    if goal.what.kind == selections.TAG:
        options.require_tag(run.pool.records(), goal.what.tag)
    with run.out.progress() as tell:
        return rehearsals.rehearse(run.pool, goal.read, goal.what, goal.secrets, tell)


def _show(run: Invocation, plan: Rehearsal, goal: Asked, limits: Limits) -> None:
    earlier = estimates.Earlier(run.pool)
    estimate = duration.of(plan.moves, limits, earlier, len(plan.waiting))
    if run.out.json:
        run.out.document(rehearsals.to_json(plan, estimate))
    plan_shown.show(
        plan,
        run.out,
        goal.what,
        goal.title,
        lambda uuid: goal.to.records.by_uuid("SR", uuid)[1]["name_label"],
        estimate,
    )
