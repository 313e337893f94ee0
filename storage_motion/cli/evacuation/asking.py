# SPDX-License-Identifier: LGPL-2.1-only
"""Asks the pool of an evacuation. One that does not answer is told from one that says no, and a
host whose plugin fails at a question from the others, which are gone on with."""

from typing import Any, Dict, List, Protocol, Union

import XenAPI

from storage_motion.cli.evacuation.parts import Planned
from storage_motion.errors import MotionError
from storage_motion.xapi import session as sessions

AWAY = (OSError, MotionError) + sessions.NOT_XAPI
"""What a call raises when the pool does not answer, as while its xapi is restarted."""
NO_PLUGIN = "XENAPI_MISSING_PLUGIN"


class Pool(Protocol):
    """What is needed of the pool that the VMs are in."""

    @property
    def master(self) -> str:
        """The ref of its master."""

    def plugin_on(self, _host: str, _function: str, **arguments: str) -> Dict[str, Any]:
        """Call sxm.py on a host (a ref). Raises XenAPI.Failure, or one of AWAY."""

    def plugin(self, _function: str, **arguments: str) -> Dict[str, Any]:
        """Call sxm.py on its master. Raises XenAPI.Failure, or one of AWAY."""

    def plugin_everywhere(
        self, _function: str, **arguments: str
    ) -> Dict[str, Union[Dict[str, Any], XenAPI.Failure]]:
        """Call it on each host: {host's UUID: what it answers, or its failure}. Raises one of
        AWAY; XenAPI.Failure if the hosts are not to be had."""


class NoAnswer(MotionError):
    """[why]: the pool does not answer."""

    code = "SXM_POOL_AWAY"


class HostSilent(MotionError):
    """[code, detail, ...] of what a question has failed with at the host that has, or may have, a
    migration of one VM. The others are not concerned."""

    code = "SXM_UNREACHABLE"

    def failure(self) -> List[str]:
        """As the host has it."""
        return [str(detail) for detail in self.details]


class Asking:
    """The questions of an evacuation. Each raises NoAnswer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def migrate(self, arguments: Dict[str, str]) -> str:
        """Begin a migration: its id. Raises XenAPI.Failure too."""
        return str(self._plugin("migrate", arguments)["migration"])

    def status(self, migration: str) -> Dict[str, Any]:
        """How far one is. Raises XenAPI.Failure too, if no host answers for it."""
        try:
            return self._plugin("status", {"migration": migration})
        except XenAPI.Failure:
            # The master asks one after the other, and stops at the first that fails
            # (storage_motion/api/lookup.py).
            answers = self._everywhere("status", {"migration": migration, "local": "true"})
            for answer in answers.values():
                if not isinstance(answer, XenAPI.Failure):
                    return answer
            raise

    def migrations(self, planned: Planned) -> List[Dict[str, Any]]:
        """Those of a VM that the pool knows, the newest first. Raises HostSilent if one of the
        VM's hosts does not tell."""
        try:
            found = self._plugin("list", {})["migrations"]
        except XenAPI.Failure as failure:
            found = self._of_those_that_answer(planned, failure)
        return [one for one in found if one["vm"] == planned.vm]

    def _of_those_that_answer(
        self, planned: Planned, failure: XenAPI.Failure
    ) -> List[Dict[str, Any]]:
        try:
            self._plugin("list", {"local": "true"})
        except XenAPI.Failure:  # the master, by which all are begun
            raise NoAnswer(_told(failure))
        found: List[Dict[str, Any]] = []
        silent: Dict[str, XenAPI.Failure] = {}
        answers = self._everywhere("list", {"local": "true"})
        for host, answer in answers.items():
            if not isinstance(answer, XenAPI.Failure):
                found += answer["migrations"]
            elif answer.details[0] != NO_PLUGIN:  # which has no migration
                silent[host] = answer
        for host in planned.hosts or silent:
            if host in silent:
                raise HostSilent(*silent[host].details)
        return sorted(found, key=lambda one: one["started"], reverse=True)

    def _plugin(self, function: str, arguments: Dict[str, str]) -> Dict[str, Any]:
        try:
            return self._pool.plugin(function, **arguments)
        except AWAY as error:
            raise NoAnswer(_why(error))

    def _everywhere(
        self, function: str, arguments: Dict[str, str]
    ) -> Dict[str, Union[Dict[str, Any], XenAPI.Failure]]:
        try:
            return self._pool.plugin_everywhere(function, **arguments)
        except AWAY as error:
            raise NoAnswer(_why(error))
        except XenAPI.Failure as failure:
            raise NoAnswer(_told(failure))


def _told(failure: XenAPI.Failure) -> str:
    return " ".join(str(detail) for detail in failure.details)


def _why(error: BaseException) -> str:
    if isinstance(error, (OSError, MotionError)):
        return str(error) or error.__class__.__name__
    return sessions.reason(error)
