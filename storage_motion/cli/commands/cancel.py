# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm cancel`."""

from storage_motion.cli.arguments import Migration, which
from storage_motion.cli.command import Invocation, command


@command
def cancel(run: Invocation, migration: Migration) -> None:
    """Stop a migration and take it back.

    The VM goes on where it is. Past the point of no return it is refused.

    \b
      sxm -s paris cancel web
    """
    answer = run.pool.plugin("cancel", **which(migration))
    run.out.line(answer["state"])
    if run.out.json:
        run.out.document(answer)
