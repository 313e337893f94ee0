# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm report`: a page that shows how migrations went."""

from typing import Annotated, List, Optional

import typer

from storage_motion.cli.arguments import MIGRATIONS, which
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.report import answers, kept


@command
def report(
    run: Invocation,
    migrations: Annotated[List[str], MIGRATIONS],
    output: Annotated[
        Optional[str],
        typer.Option("-o", "--output", metavar="FILE", help="The page (VM and id, .html, here)."),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="The heading, of several.")] = "",
) -> None:
    """Write a page that shows how migrations went, and its JSON beside it.

    The page needs nothing beside it, and is to be printed as well: the plan and
    what became of it, what happened when, the speed of copy and mirror, the
    pause, what was verified, and all warnings. A JSON beside it that is of no
    report is not replaced.

    \b
      sxm -s paris report web
      sxm -s paris report web db -o move.html --title "To the new array"
    """
    if output:
        kept.spare_others(output)
    reports = [answers.of(run.pool, **which(one)) for one in migrations]
    written = kept.write(reports, output or kept.file_name(reports), title)
    run.out.line("%s and %s" % written)
    if run.out.json:
        run.out.document(dict(written._asdict()))
