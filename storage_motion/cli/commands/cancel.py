# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm cancel`."""

import socket
from typing import Any, Dict

import XenAPI

from storage_motion.cli.arguments import Migration, which
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.following import awaited
from storage_motion.errors import TimedOut, TooLate

SUCCEEDED = "succeeded"


@command
def cancel(run: Invocation, migration: Migration) -> None:
    """Stop a migration and take it back.

    The VM goes on where it is. Past the point of no return it is refused. Where the way back takes
    longer, it is watched until its end.

    \b
      sxm -s paris cancel web
    """
    found = which(migration)
    try:
        answer = run.pool.plugin("cancel", **found)
    except socket.timeout:
        answer = _awaited(run, found)
    except XenAPI.Failure as failure:
        if failure.details[0] != TimedOut.code:
            raise
        answer = _awaited(run, found)
    run.out.line(answer["state"])
    if run.out.json:
        run.out.document(answer)


def _awaited(run: Invocation, found: Dict[str, str]) -> Dict[str, Any]:
    """As the plugin answers, which has been asked to cancel it and did not wait for the end."""
    migration: str = run.pool.plugin("status", **found)["migration"]
    run.out.note("it is being taken back, which is watched until its end")
    state = awaited(run.pool, migration, run.out)["state"]
    if state == SUCCEEDED:
        raise TooLate(migration, "end")
    return {"migration": migration, "state": state}
