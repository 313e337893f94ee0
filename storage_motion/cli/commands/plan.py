# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm plan`."""

from storage_motion.cli import planned
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.moves import Wish, arguments_of


@command
def plan(run: Invocation, wish: Wish) -> int:
    """Show all that a move would do, and all that is wrong.

    Nothing is changed. Exit status 0: nothing is wrong; 5: something is.

    \b
      sxm -s paris plan --vm web --to-sr fast
      sxm -s paris plan --vm web --to-pool lyon --network lan=dmz
    """
    answer = planned.ask(run.pool, arguments_of(run, wish))
    if run.out.json:
        run.out.document(answer)
    planned.show(run.out, answer)
    return planned.status(answer)
