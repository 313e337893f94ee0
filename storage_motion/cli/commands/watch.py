# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm watch`: how far migrations are, until they end."""

from typing import Annotated, List, Optional

import typer

from storage_motion.cli import exit_codes
from storage_motion.cli.arguments import MIGRATIONS, which
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.failures import NotUnderstood
from storage_motion.cli.following import follow


@command
def watch(
    run: Invocation,
    migrations: Annotated[Optional[List[str]], MIGRATIONS] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that run in the pool now.")
    ] = False,
) -> int:
    """Watch migrations that run, or tell how they ended.

    A line for each disk: how much of it is copied, how fast, what is left, and
    whether it is mirrored, with the time that a write of the guest's waits for
    that. While the pool does not answer, as when its xapi is restarted, it is
    asked again for ten minutes; the migrations go on. Control C ends the
    watching, and nothing else.

    \b
      sxm -s paris watch web
      sxm -s paris watch --all
    """
    if bool(migrations) == everything:
        raise NotUnderstood("which migrations? name some, or say --all")
    if everything:
        listed = run.pool.plugin("list")["migrations"]
        found = [one["migration"] for one in listed if one["state"] == "running"]
    else:
        answers = [run.pool.plugin("status", **which(one)) for one in migrations or []]
        found = list(dict.fromkeys(answer["migration"] for answer in answers))
    if not found:
        run.out.line("no migration runs")
        if run.out.json:
            run.out.document({"migrations": []})
        return exit_codes.DONE
    return follow(run.pool, found, run.out)
