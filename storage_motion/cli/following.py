# SPDX-License-Identifier: LGPL-2.1-only
"""Shows migrations until they have ended, whoever drives them. A xapi that is away meanwhile, as
while it is restarted, is waited for."""

import json
import time
from typing import Any, Dict, List, Optional, Sequence, Union

import XenAPI

from storage_motion.api.dead_worker import DeadWorkerWatch
from storage_motion.cli import exit_codes, quantities
from storage_motion.cli.output import Output
from storage_motion.cli.pools import PLUGIN
from storage_motion.cli.screen import Screen
from storage_motion.cli.watched import Watched
from storage_motion.errors import MotionError, Unreachable, WorkerDied
from storage_motion.xapi import outage, session as sessions

POLL = 1.0  # seconds between two looks
AWAY_BOUND = 600.0  # seconds for which a xapi that does not answer is waited for
NO_SUCH = "SXM_NO_SUCH_MIGRATION"
# What a pool says whose xapi, or that of the host that has the migration, is just starting.
AWAY = (outage.BOOTING, "SESSION_INVALID", "HOST_OFFLINE", "CANNOT_CONTACT_HOST", "HOST_NOT_LIVE")


class MigrationFailed(MotionError):
    """[code, detail, ...] of what ended it. `migration`: its id; `state`: in which it ended."""

    def __init__(self, migration: str, state: str, *failure: object) -> None:
        super().__init__(*failure[1:])
        self.code = str(failure[0])
        self.migration, self.state = migration, state


class _Away:
    """A pool that is asked again and again, and may not answer for a while."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._since: Optional[float] = None
        self._why = ""

    def ask(self, function: str, known: bool, **arguments: str) -> Optional[Dict[str, Any]]:
        """What the plugin answers, or None if the pool is away. `known`: the migration was seen
        before, so who says there is none has lost sight of its host. Raises Unreachable after
        AWAY_BOUND of that, and XenAPI.Failure."""
        try:
            calls = sessions.at_once(self._pool.session).xenapi
            answer = calls.host.call_plugin(self._pool.master, PLUGIN, function, arguments)
        except XenAPI.Failure as failure:
            code = failure.details[0]
            if code not in AWAY and not (known and code == NO_SUCH):
                raise
            self._is_away(str(code))
            return None
        except Unreachable as error:
            self._is_away(str(error))
            return None
        except (OSError,) + sessions.NOT_XAPI as error:
            self._is_away(sessions.reason(error))
            return None
        self._since = None
        found: Dict[str, Any] = json.loads(answer)
        return found

    def _is_away(self, why: str) -> None:
        now = time.monotonic()
        self._since, self._why = self._since or now, why
        if now - self._since > AWAY_BOUND:
            raise Unreachable(self._pool.address, "no answer for %d s: %s" % (AWAY_BOUND, why))

    @property
    def notice(self) -> str:
        """What to tell of it just now."""
        if self._since is None:
            return ""
        left = AWAY_BOUND - (time.monotonic() - self._since)
        return "The pool does not answer (%s). It is asked for %s more; the migrations go on." % (
            self._why,
            quantities.seconds(max(0.0, left)),
        )


def follow(pool: Any, migrations: Union[str, Sequence[str]], out: Output) -> int:
    """Draw migrations of this pool until they have ended: one, by its id, or several. What `sxm`
    ends with. Of one alone it raises MigrationFailed, WorkerDied; Unreachable in any case."""
    return _end(_watch(pool, [migrations] if isinstance(migrations, str) else migrations, out), out)


def awaited(pool: Any, migration: str, out: Output) -> Dict[str, Any]:
    """Draw one as `follow` does; what `status` says of it at its end, however that was. Raises
    WorkerDied, XenAPI.Failure, Unreachable."""
    (one,) = _watch(pool, [migration], out)
    if one.error is not None:
        raise one.error
    _warn([one], out)
    return one.status


def _watch(pool: Any, ids: Sequence[str], out: Output) -> List[Watched]:
    watched = [Watched(one) for one in ids]
    looks = {one.id: DeadWorkerWatch() for one in watched}
    away = _Away(pool)
    with Screen(out.errors if out.json else out.console) as screen:
        while True:
            for one in watched:
                if one.running:
                    _look(one, away, looks[one.id])
            screen.draw(watched, away.notice)
            if not any(one.running for one in watched):
                break
            time.sleep(POLL)
    return watched


def _look(one: Watched, away: _Away, worker: DeadWorkerWatch) -> None:
    try:
        status = away.ask("status", bool(one.status), migration=one.id)
        if status is None:
            return
        one.see(time.monotonic(), status)
        if status["state"] == "running":
            worker.look(status["alive"], one.id, status["doing"])
    except (WorkerDied, XenAPI.Failure) as error:
        one.error = error


def _warn(watched: List[Watched], out: Output) -> None:
    for one in watched:
        for warning in one.status.get("warnings", []):  # a plugin of before has none
            out.warning(warning if len(watched) == 1 else "%s: %s" % (one.name, warning))


def _end(watched: List[Watched], out: Output) -> int:
    _warn(watched, out)
    failed = [one for one in watched if _failure(one)]
    if len(watched) == 1 and failed:
        (one,) = failed
        raise one.error or MigrationFailed(one.id, one.status["state"], *one.status["error"])
    for one in failed:
        failure = _failure(one)
        out.error_line("sxm: %s: %s" % (one.name, ": ".join(failure[:2])))
    if out.json:
        found = [one.status for one in watched]
        out.document(found[0] if len(watched) == 1 else {"migrations": found})
    for one in watched:
        if not _failure(one):
            # Otherwise the screen has said it. The bottom of a low terminal lacks those that ended.
            if len(watched) > 1 and out.console.is_terminal:
                out.line("%s: succeeded" % one.name)
            if one.status.get("copy"):
                out.line("the copy is VM %s" % one.status["new_vm"])
    if not failed:
        return exit_codes.DONE
    return exit_codes.FAILED if len(failed) == len(watched) else exit_codes.SOME_FAILED


def _failure(one: Watched) -> List[str]:
    """[code, detail, ...], or []."""
    if isinstance(one.error, XenAPI.Failure):
        return [str(detail) for detail in one.error.details]
    if isinstance(one.error, MotionError):
        return one.error.failure()
    return one.status.get("error") or []
