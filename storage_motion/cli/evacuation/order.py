# SPDX-License-Identifier: LGPL-2.1-only
"""Which VM is next: the smallest one that keeps within the limits."""

from typing import Callable, Iterable, List, NamedTuple, Optional, TypeVar

from storage_motion.cli.evacuation.parts import Planned


class Limits(NamedTuple):
    """How many migrations may run: in all, at any one host, and at any one SR. A migration counts
    at the hosts and at the SRs of both its ends, once at each.

    Three at a host, as xapi itself has it (xapi_vm_migrate.ml, with_migrate)."""

    concurrency: int = 4
    per_host: int = 3
    per_sr: int = 4


Item = TypeVar("Item")


def smallest_first(planned: Iterable[Planned]) -> List[Planned]:
    """In the order in which they are begun: a failure shows early, and few bytes late."""
    return sorted(planned, key=lambda one: (one.size, one.data, one.name, one.vm))


def fits(one: Planned, running: List[Planned], limits: Limits) -> bool:
    """Whether `one` may be begun beside those that run."""
    return (
        len(running) < limits.concurrency
        and all(
            sum(host in other.hosts for other in running) < limits.per_host for host in one.hosts
        )
        and all(sum(sr in other.srs for other in running) < limits.per_sr for sr in one.srs)
    )


def next_of(
    waiting: Iterable[Item],
    running: List[Planned],
    limits: Limits,
    planned: Callable[[Item], Planned],
) -> Optional[Item]:
    """The first of `waiting` that may be begun now. One whose host or SR is busy keeps nobody
    else waiting. `planned(item)`: what is planned with one."""
    return next((one for one in waiting if fits(planned(one), running, limits)), None)
