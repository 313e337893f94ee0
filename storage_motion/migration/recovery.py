# SPDX-License-Identifier: LGPL-2.1-only
"""Recovery: every migration that was interrupted goes to one of its two ends (docs/design.md, 3).

    what the journal says                         what is done
    committed                                     forward, from the phase that it was in
    xenopsd was asked to move the VM              the move is taken up: the gates are led on while xenopsd is at it; if it
                                                  is not, where the VM is decides between forward and back
    anything before                               back

recovery_decision.py reads that in the journal, recovery_source.py does it, and
recovery_destination.py takes away what no source comes for any more. Whatever waits, or has been
left undone, can be recovered again.

    python3 -m storage_motion.migration.recovery

is what sxm-recover.service runs at boot. A worker that dies is started again, and recovers its
migration by `until_ended`.
"""  # noqa: E501

import logging
import sys
import time
from typing import Any, Callable, Dict, List, Optional

import XenAPI

from storage_motion import log_lines
from storage_motion.dom0 import launch, root
from storage_motion.errors import JournalError, MotionError, NoSuchMigration, Unreachable, Waits
from storage_motion.journal import journal
from storage_motion.journal.journal import RECEIVING, SOURCE, Journal
from storage_motion.migration import (
    lost_destination,
    recovery_decision,
    recovery_destination,
    recovery_source,
)
from storage_motion.switch import pool_lock
from storage_motion.xapi import session as sessions

AGAIN = 240  # times, for four hours, that what waits is looked at by itself
FIRST_PAUSE, LONGEST_PAUSE = 4.0, 60.0  # seconds between two of them, doubled each time

log = logging.getLogger("sxm")


def recover(session: "XenAPI.Session", given: Dict[str, str]) -> Dict[str, Any]:
    """All interrupted migrations of this host, or the one of `migration`; `remote-username` and
    `remote-password` where those that were given at first are gone; `lost`: "destination", if that
    pool will never come back. {"migrations": [{"migration", "side", "outcome", "why", ...}]}"""
    wanted = given.get("migration")
    lost_destination.said(given)
    if wanted:
        journal.check_id(wanted)
    _log_to_file()
    found = []
    for side, one in ((SOURCE, recovery_source.recover), (RECEIVING, recovery_destination.recover)):
        for migration in journal.all_ids(side):
            if wanted in (None, "", migration):
                answer = _safely(one, session, migration, given)
                if answer and (wanted or answer["outcome"] != recovery_decision.ENDED):
                    found.append(
                        dict(
                            answer,
                            migration=migration,
                            side="destination" if side == RECEIVING else "source",
                        )
                    )
    if wanted and not found:
        raise NoSuchMigration(wanted)
    if not wanted:
        pool_lock.tidy()
    for answer in found:
        log.info("recovery of %(migration)s (%(side)s): %(outcome)s: %(why)s", answer)
    return {"migrations": found}


def _safely(
    one: Callable[["XenAPI.Session", str, Dict[str, str]], Optional[Dict[str, Any]]],
    session: "XenAPI.Session",
    migration: str,
    given: Dict[str, str],
) -> Optional[Dict[str, Any]]:
    """One migration that cannot be recovered hinders no other."""
    try:
        return one(session, migration, given)
    except NoSuchMigration:
        return None  # it has ended meanwhile
    except Waits as error:
        return {"outcome": recovery_decision.WAITING, "why": error.details[0]}
    except JournalError as error:
        return {
            "outcome": recovery_decision.WAITING,
            "why": "its journal cannot be trusted: %s" % error,
        }
    except (MotionError, XenAPI.Failure, OSError) + sessions.NOT_XAPI as error:
        log.exception("recovery of %s", migration)
        return {"outcome": recovery_decision.WAITING, "why": str(error)}


def _log_to_file() -> None:
    if not log.hasHandlers():
        handler = logging.FileHandler(root.private_file(launch.LOG), encoding="utf-8")
        handler.setFormatter(log_lines.Formatter("recovery"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def until_ended(migration: Optional[str] = None) -> int:
    """Recover until nothing waits any more, or nobody drives `migration` and it is at an end. The
    exit status: 0 then, 1 if something still waits after hours. A xapi that is away is waited for,
    as are the other pool and whoever else drives it."""
    pause, told = FIRST_PAUSE, None
    for _ in range(AGAIN):
        try:
            if migration and _has_ended(migration):
                return 0
            waits = _waiting(migration)
            if not waits:
                return 0
        except NoSuchMigration:
            return 0
        except (Unreachable, XenAPI.Failure) as error:
            waits = ["xapi: %s" % error]  # it is still starting
        except OSError as error:
            waits = [str(error)]  # as where nothing can be logged
        if waits != told:
            print("\n".join(waits), flush=True)
        told = waits
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return 1


def _has_ended(migration: str) -> bool:
    try:
        entry = Journal.load(migration).entry
    except JournalError:
        return False  # its recovery says so
    return (
        entry["state"] != journal.RUNNING
        and not recovery_decision.interrupted(entry)
        and not recovery_decision.driven(entry)
    )


def _waiting(migration: Optional[str]) -> List[str]:
    """Recover, and tell what has not come to an end, in words without the time that it has still to
    wait."""
    again = (
        recovery_decision.WAITING,
        recovery_decision.UNDECIDED,
        recovery_decision.UNFINISHED,
    ) + ((recovery_decision.RUNNING,) if migration else ())
    session = sessions.local()
    try:
        found = recover(session, {"migration": migration} if migration else {})["migrations"]
    finally:
        sessions.logout(session)
    return [
        "%(migration)s (%(side)s): %(outcome)s" % answer
        for answer in found
        if answer["outcome"] in again
    ]


if __name__ == "__main__":
    sys.exit(until_ended())
