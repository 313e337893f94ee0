# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm show`."""

from storage_motion.cli.arguments import Migration, which
from storage_motion.cli.command import Invocation, command


@command
def show(run: Invocation, migration: Migration) -> None:
    """Show a migration: how far it is, or how it ended.

    \b
      sxm -s paris show vm=web
    """
    answer = run.pool.plugin("status", **which(migration))
    if run.out.json:
        run.out.document(answer)
    run.out.pairs(
        [
            ("Migration", answer["migration"]),
            ("VM", "%s (%s)" % (answer["vm_name"], answer["vm"])),
            ("State", answer["state"]),
            ("Phase", str(answer["doing"])),
        ]
    )
