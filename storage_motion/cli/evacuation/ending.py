# SPDX-License-Identifier: LGPL-2.1-only
"""Has an evacuation run to its end, and tells what it came to; or, where it was broken off, what
goes on by itself and how to go on."""

from typing import List, Optional

from storage_motion.cli import exit_codes
from storage_motion.cli.command import Invocation
from storage_motion.cli.evacuation import account as accounts, summary
from storage_motion.cli.evacuation.account import Account
from storage_motion.cli.evacuation.display import Display
from storage_motion.cli.evacuation.parts import count
from storage_motion.cli.evacuation.run import Evacuation, PoolAway
from storage_motion.cli.evacuation.state import StateError
from storage_motion.cli.failures import Interrupted
from storage_motion.cli.report import kept


def go(run: Invocation, evacuation: Evacuation, display: Display, title: Optional[str]) -> int:
    """What `sxm` ends with. `title`: of the report; None for none. Raises Interrupted, PoolAway,
    StateError, all of which tell how to go on."""
    try:
        with display:
            account = evacuation.go()
    except KeyboardInterrupt:
        raise Interrupted(*_how_to_go_on(evacuation.account))
    except (OSError, SystemExit) as error:  # the latter: rich's, for a pipe that nobody reads
        why = error.strerror if isinstance(error, OSError) else "nobody reads it"
        raise Interrupted("its output: %s" % why, *_how_to_go_on(evacuation.account)) from None
    except (PoolAway, StateError) as error:
        error.details += _how_to_go_on(evacuation.account)
        raise
    found = summary.of(account)
    found["report"] = "" if title is None else _report(run, account, title)
    if run.out.json:
        run.out.document(found)
    for line in summary.lines(account):
        run.out.line(line)
    if found["report"]:
        run.out.line("report: %s" % found["report"])
    return exit_codes.DONE if summary.complete(account) else exit_codes.SOME_FAILED


def _report(run: Invocation, account: Account, title: str) -> str:
    """One page of all its migrations: its path, or "". What it came to does not depend on it."""
    migrations = [one for course in account.courses.values() for one in course.migrations]
    try:
        written = kept.keep_all(run.pool, migrations, run.out, "Evacuation of %s" % title)
    except Exception as error:  # whatever it is: all has been moved by now
        run.out.warning("no report is written: %s" % (str(error) or error.__class__.__name__))
        return ""
    return written.html if written else ""


def _how_to_go_on(account: Account) -> List[str]:
    running = account.busy
    return (
        ["nothing further is begun; waiting: %s" % count(len(account.of(accounts.WAITING)), "VM")]
        + [
            "VM %s goes on by itself: migration %s"
            % (course.planned.name, course.migration or "(just begun)")
            for course in running
        ]
        + ["to go on: run the same command again"]
        + (["to take one back: sxm cancel MIGRATION"] if running else [])
    )
