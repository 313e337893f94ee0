# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm watch`: how far a migration is, until it ends."""

from storage_motion.cli.arguments import Migration, which
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.following import follow


@command
def watch(run: Invocation, migration: Migration) -> int:
    """Watch a migration that runs, or tell how one ended.

    \b
      sxm -s paris watch web
    """
    found = run.pool.plugin("status", **which(migration))["migration"]
    return follow(run.pool, found, run.out)
