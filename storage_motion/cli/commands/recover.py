# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm recover`."""

from typing import Annotated, Optional

import typer

from storage_motion.cli.arguments import which
from storage_motion.cli.command import Invocation, command


@command
def recover(
    run: Invocation,
    migration: Annotated[
        Optional[str],
        typer.Argument(metavar="MIGRATION", help="Its id, or vm=UUID or vm=NAME; else all."),
    ] = None,
) -> None:
    """Bring interrupted migrations to an end.

    \b
      sxm -s paris recover
    """
    answer = run.pool.plugin("recover", **(which(migration) if migration else {}))
    run.out.document(answer)
