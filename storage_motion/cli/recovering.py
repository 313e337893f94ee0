# SPDX-License-Identifier: LGPL-2.1-only
"""Has hosts of a pool bring interrupted migrations to an end, side by side. That may take
long, so each is looked at meanwhile: one of which there is no word is given up."""

import socket
import time
from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence

import XenAPI

from storage_motion.cli import beside
from storage_motion.cli.failures import EXPECTED
from storage_motion.cli.names import Found
from storage_motion.cli.pools import Pool
from storage_motion.errors import Unreachable
from storage_motion.xapi import session as sessions

BOUND = sessions.CALL_TIMEOUT  # seconds for all migrations of one host
LOOK_BOUND = 45.0  # seconds for a host to say that it is there
LOOK_EVERY = 30.0  # seconds of a recovery between two looks
LOST = ("HOST_OFFLINE", "HOST_NOT_LIVE", "CANNOT_CONTACT_HOST")
LOOKS = 3  # of which none was answered, and a host is given up
TOLD_EVERY = 60.0  # seconds after which it is told who is waited for


class Recovered(NamedTuple):
    """What became of it on a host: `answer`, the plugin's, or `error`, one of EXPECTED."""

    host: Found
    answer: Dict[str, Any]
    error: Optional[Exception]


def on(pool: Pool, hosts: Sequence[Found], given: Dict[str, str]) -> Iterator[Optional[Recovered]]:
    """Of each host, in the order in which they end; None after each TOLD_EVERY in which none has
    ended. `given`: arguments of the plugin's `recover`."""
    bounds = beside.Bounds(place=1, all=len(hosts))
    for ended in beside.as_they_end(
        lambda host: _on(pool, host, given), hosts, lambda host: host.ref, bounds, TOLD_EVERY
    ):
        if ended is None:
            yield None
        elif ended.error and not isinstance(ended.error, EXPECTED):
            raise ended.error
        else:
            yield Recovered(hosts[ended.number], ended.answer or {}, ended.error)


class HostSilent(Unreachable):
    """[host, why]: there is no word of it."""


def _on(pool: Pool, host: Found, given: Dict[str, str]) -> Dict[str, Any]:
    """Raises HostSilent, and what a call of the pool does."""
    silent = _why_silent(pool, host)
    if silent:
        raise HostSilent(host.name, "%s; nothing was begun there" % silent)
    began, missed = time.monotonic(), 0
    for ended in beside.as_they_end(
        lambda one: pool.plugin_within(BOUND, one.ref, "recover", **given),
        [host],
        lambda one: one.ref,
        beside.Bounds(place=1, all=1),
        LOOK_EVERY,
    ):
        if ended:
            if ended.error:
                raise ended.error
            answer: Dict[str, Any] = ended.answer
            break
        silent = _why_silent(pool, host)
        missed = missed + 1 if silent else 0
        if missed == LOOKS:
            asked = "it was asked %d s ago; what it has begun goes on there"
            raise HostSilent(host.name, silent, asked % (time.monotonic() - began))
    return answer


def _why_silent(pool: Pool, host: Found) -> str:
    """Why there is no word of it, "" if there is. Raises what else a call of the pool does."""
    try:
        pool.plugin_within(LOOK_BOUND, host.ref, "list", local="true")
    except socket.timeout:
        return "no answer within %g s" % LOOK_BOUND
    except XenAPI.Failure as failure:
        code = str(failure.details[0])
        return code if code in LOST else ""
    return ""
