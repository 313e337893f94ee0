# SPDX-License-Identifier: LGPL-2.1-only
"""Shows a migration until it has ended, whoever drives it."""

import time
from typing import Any

from storage_motion.api.dead_worker import DeadWorkerWatch
from storage_motion.cli import exit_codes
from storage_motion.cli.bars import Bars
from storage_motion.cli.output import Output
from storage_motion.errors import MotionError

POLL = 1.0  # seconds between two looks


class MigrationFailed(MotionError):
    """[code, detail, ...] of what ended it."""

    def __init__(self, state: str, *failure: object) -> None:
        super().__init__(*failure[1:])
        self.code = str(failure[0])
        self.state = state


def follow(pool: Any, migration: str, out: Output) -> int:
    """Draw a migration of this pool until it has ended. What `sxm` ends with; raises
    MigrationFailed, WorkerDied."""
    worker_watch = DeadWorkerWatch()
    with Bars(out.errors if out.json else out.console) as bars:
        while True:
            status = pool.plugin("status", migration=migration)
            bars.update(status)
            if status["state"] != "running":
                break
            worker_watch.look(status["alive"], migration, status["doing"])
            time.sleep(POLL)
    for warning in status.get("warnings", []):  # a plugin of before has none
        out.warning(warning)
    if status["error"]:
        raise MigrationFailed(status["state"], *status["error"])
    if out.json:
        out.document(status)
    out.line(status["state"])
    if status.get("copy"):
        out.line("the copy is VM %s" % status["new_vm"])
    return exit_codes.DONE
