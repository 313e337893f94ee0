# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm migrate`."""

from typing import Annotated

import typer

from storage_motion.booleans import BOOLEANS
from storage_motion.cli import exit_codes, planned
from storage_motion.cli.arguments import Report
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.following import MigrationFailed, follow
from storage_motion.cli.moves import Wish, arguments_of
from storage_motion.cli.report import kept


@command
def migrate(
    run: Invocation,
    wish: Wish,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: as sxm plan.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Tell the migration's id, and do not watch it.")
    ] = False,
    report: Report = True,
) -> int:
    """Move a VM and its disks, or copy it, and watch.

    If this command is interrupted, the migration goes on: sxm watch shows it again, sxm cancel
    takes it back.

    \b
      sxm -s paris migrate --vm web --to-sr fast
      sxm -s paris migrate --vm web --disk xvdb=fast --to-host p2
      sxm -s paris migrate --vm web --to-pool lyon --to-sr fast
      sxm -s paris migrate vm=web destination-sr-uuid=UUID
    """
    given = arguments_of(run, wish)
    if dry_run or BOOLEANS.get(given.get("dry-run", "").lower(), False):
        answer = planned.ask(run.pool, given)
        if run.out.json:
            run.out.document(answer)
        planned.show(run.out, answer)
        return planned.status(answer)
    no_wait = no_wait or not BOOLEANS.get(given.get("wait", "").lower(), True)
    started = run.pool.plugin("migrate", **dict(given, wait="false"))
    if run.out.json:
        if no_wait:
            run.out.document(started)
        else:  # the document comes with its end, which whoever interrupts this does not see
            run.out.note("migration %s" % started["migration"])
    copied = BOOLEANS.get(given.get("copy", "").lower(), False)
    run.out.line("%s %s" % ("copy" if copied else "migration", started["migration"]))
    if no_wait:
        return exit_codes.DONE
    try:
        ended = follow(run.pool, started["migration"], run.out)
    except MigrationFailed:
        _keep(run, started["migration"], report)
        raise
    _keep(run, started["migration"], report)
    return ended


def _keep(run: Invocation, migration: str, wanted: bool) -> None:
    if wanted:
        kept.keep(run.pool, [migration], run.out)
