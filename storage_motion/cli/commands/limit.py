# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm limit`."""

from typing import Annotated

import typer

from storage_motion.cli import output
from storage_motion.cli.arguments import Migration, which
from storage_motion.cli.command import Invocation, command


@command
def limit(
    run: Invocation,
    migration: Migration,
    bandwidth: Annotated[
        str, typer.Argument(metavar="RATE", help="Bytes a second, or as 100MiB; 0: no limit.")
    ],
) -> None:
    """Change how much a migration that runs may send.

    \b
      sxm -s paris limit web 100MiB
    """
    answer = run.pool.plugin("limit", bandwidth=bandwidth, **which(migration))
    if run.out.json:
        run.out.document(answer)
    rate = answer["bandwidth"]
    run.out.line("%s a second" % output.size(rate) if rate else "no limit")
