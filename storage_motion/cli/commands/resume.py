# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm resume`."""

from storage_motion.cli.arguments import Migration, which
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.following import follow


@command
def resume(run: Invocation, migration: Migration) -> int:
    """Have a broken migration try again at once, and watch it.

    \b
      sxm -s paris resume web
    """
    found = run.pool.plugin("resume", **which(migration))["migration"]
    return follow(run.pool, found, run.out)
