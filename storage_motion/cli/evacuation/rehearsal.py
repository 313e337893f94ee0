# SPDX-License-Identifier: LGPL-2.1-only
"""The plan of all of it: a dry run of each VM, and the room that all of them take together."""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import XenAPI

from storage_motion.cli.evacuation import codes, order
from storage_motion.cli.evacuation.goals import GIB, Room, To, choose
from storage_motion.cli.evacuation.parts import VM, Disk, Left, Planned, described
from storage_motion.cli.evacuation.run import Pool
from storage_motion.cli.evacuation.selection import Selection
from storage_motion.xapi.records import Records


class Rehearsed(NamedTuple):
    """A VM and its dry run. `error`: why it was refused, [code, detail, ...], or empty;
    `snapshots`: how many disks of snapshots come along."""

    planned: Planned
    error: List[str]
    warnings: List[str]
    snapshots: int = 0

    @property
    def wrong(self) -> bool:
        """Whether something has to be done about it before it moves. That it has to wait for
        others is no such thing."""
        return (
            bool(self.error)
            and codes.of(self.error).again != codes.QUEUE
            and not codes.says_moving(self.error)
        )

    @property
    def why(self) -> str:
        """What was said of it, in one line."""
        return described(self.error)


class Rehearsal(NamedTuple):
    """`rehearsed`: in the order in which they would be begun. `room`: of each SR that something
    goes to, {"sr", "name", "free", "needed", "left"} in bytes."""

    rehearsed: List[Rehearsed]
    left: List[Left]
    room: List[Dict[str, Any]]

    @property
    def refused(self) -> List[Rehearsed]:
        """Those with which something is wrong."""
        return [one for one in self.rehearsed if one.wrong]

    @property
    def short(self) -> List[str]:
        """The SRs that have no room for all that goes there: sentences."""
        return [
            "SR %s has %.2f GiB free, and all that is planned into it takes %.2f GiB: name another "
            "SR beside it (--to-sr), or make room there"
            % (one["name"], one["free"] / GIB, one["needed"] / GIB)
            for one in self.room
            if one["left"] < 0
        ]

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.refused and not self.short


def rehearse(
    pool: Pool,
    source: Records,
    selection: Selection,
    to: To,
    secrets: Mapping[str, str],
    tell: Callable[[int, int, str], None] = lambda done, all_of_them, name: None,
) -> Rehearsal:
    """Plan the smallest first, each with a dry run. `secrets`: arguments that are not kept.
    `tell(done, of, name)`: before each. Raises what the pool's calls do."""
    wanted = sorted(
        selection.wanted,
        key=lambda one: (sum(disk.size for disk in one.disks), one.record["name_label"]),
    )
    estimate, left, planned = Room(to.records), list(selection.left), []
    for one in wanted:
        found = choose(source, one, to, estimate)
        if isinstance(found, Left):
            left.append(found)
        else:
            planned.append(found)
    rehearsed, room = [], Room(to.records)
    for number, each in enumerate(planned):
        tell(number, len(planned), each.name)
        done, disks = _dry_run(pool, each, secrets)
        rehearsed.append(done)
        if not done.wrong:
            for disk in disks:
                room.take(to.records.ref("SR", disk.destination_sr) or "", (disk,))
    first = {one.vm: at for at, one in enumerate(order.smallest_first(planned))}
    rehearsed.sort(key=lambda one: first[one.planned.vm])
    return Rehearsal(rehearsed, left, room.figures())


def without(rehearsal: Rehearsal, refused: Sequence[Rehearsed]) -> Rehearsal:
    """The same, with those left where they are."""
    left = [
        Left(
            VM,
            one.planned.vm,
            one.planned.name,
            len(one.planned.disks),
            one.planned.size,
            one.why,
            codes.of(one.error).do,
            refused=True,
        )
        for one in refused
    ]
    kept = [one for one in rehearsal.rehearsed if one not in refused]
    return rehearsal._replace(rehearsed=kept, left=rehearsal.left + left)


def _dry_run(
    pool: Pool, planned: Planned, secrets: Mapping[str, str]
) -> Tuple[Rehearsed, Tuple[Disk, ...]]:
    """(What came of it, all disks that would move, those of snapshots among them)."""
    arguments: Dict[str, str] = dict(planned.arguments, **secrets)
    arguments["dry-run"] = "true"
    try:
        plan = pool.plugin("migrate", **arguments)["plan"]
    except XenAPI.Failure as failure:
        error = [str(detail) for detail in failure.details]
        return Rehearsed(planned, error, []), planned.disks
    data = {disk["key"]: disk["data"] for disk in plan["disks"]}
    disks = tuple(disk._replace(data=data.get(disk.vdi, disk.data)) for disk in planned.disks)
    history = tuple(_of_snapshot(disk) for disk in plan["history"])
    hosts = tuple(sorted({plan["source_host"], plan["destination_host"]}))
    found = planned._replace(disks=disks, hosts=hosts)
    return Rehearsed(found, [], list(plan["warnings"]), len(history)), disks + history


def _of_snapshot(disk: Dict[str, Any]) -> Disk:
    return Disk(
        vdi=disk["key"],
        name=disk["name_label"],
        device=disk["device"],
        size=disk["size"],
        data=disk["data"],
        source_sr=disk["source_sr"],
        destination_sr=disk["destination_sr"],
    )


def to_json(rehearsal: Rehearsal) -> Dict[str, Any]:
    """As JSON values."""
    moving = [one for one in rehearsal.rehearsed if not one.wrong]
    return {
        "vms": [
            dict(
                one.planned.to_json(),
                refused=one.wrong,
                error=one.error,
                warnings=one.warnings,
                snapshots=one.snapshots,
                bytes=one.planned.size,
                data=one.planned.data,
            )
            for one in rehearsal.rehearsed
        ],
        "not_moved": [one._asdict() for one in rehearsal.left],
        "room": rehearsal.room,
        "short": rehearsal.short,
        "totals": {
            "vms": len(moving),
            "disks": sum(len(one.planned.disks) for one in moving),
            "bytes": sum(one.planned.size for one in moving),
            "data": sum(one.planned.data for one in moving),
            "refused_vms": len(rehearsal.refused),
        },
        "whole": rehearsal.whole,
    }
