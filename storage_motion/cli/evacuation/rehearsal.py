# SPDX-License-Identifier: LGPL-2.1-only
"""The plan of all of it: a dry run of each VM, and the room that all of them take together."""

import socket
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import XenAPI

from storage_motion.cli import beside
from storage_motion.cli.evacuation import codes, order, scans
from storage_motion.cli.evacuation.asking import Pool
from storage_motion.cli.evacuation.duration import Estimate, Move
from storage_motion.cli.evacuation.goals import GIB, Room, To, choose, stay
from storage_motion.cli.evacuation.parts import VM, Left, Planned, described
from storage_motion.cli.evacuation.selection import Selection, What, select
from storage_motion.errors import Unreachable
from storage_motion.xapi import session as sessions
from storage_motion.xapi.records import NULL, Records

TOLD = ("format", "sr", "destination")
"""Of a disk, by its dry run: None of one without."""
DRY_RUNS = beside.Bounds(place=4, all=16)
"""How many at a time, at one host and in all. Each is a process in dom0 of its VM's host; of a VM
that does not run, in the master's."""


class Rehearsed(NamedTuple):
    """A VM and its dry run. `error`: why it was refused, [code, detail, ...], or empty;
    `snapshots`: how many disks of snapshots come along; `notes`: what nobody has named for it;
    `move`: None as long as the dry run has no plan. `disks`, `vifs`: as the plugin tells them, of
    those that move (storage_motion/api/dry_run.py)."""

    planned: Planned
    error: List[str]
    warnings: List[str]
    snapshots: int = 0
    notes: Sequence[str] = ()
    move: Optional[Move] = None
    disks: Sequence[Dict[str, Any]] = ()
    vifs: Sequence[Dict[str, Any]] = ()

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
    goes to, {"sr", "name", "free", "needed", "left"} in bytes. `unscanned`: why the figures of an
    SR are old, a sentence each."""

    rehearsed: List[Rehearsed]
    left: List[Left]
    room: List[Dict[str, Any]]
    unscanned: Sequence[str] = ()

    @property
    def notes(self) -> List[str]:
        """What nobody has named, once for all that it is said of."""
        return list(dict.fromkeys(text for one in self.rehearsed for text in one.notes))

    @property
    def moves(self) -> List[Move]:
        """Those that would move, as far as they have a plan: one that waits has none yet."""
        return [one.move for one in self.rehearsed if one.move]

    @property
    def waiting(self) -> List[Rehearsed]:
        """Those that have to wait for others."""
        return [one for one in self.rehearsed if one.error and not one.wrong]

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
        """Whether nothing is wrong, and nothing stays behind."""
        return not (self.refused or self.short or any(left.stays for left in self.left))


class Draft(NamedTuple):
    """What is planned by the pools' records alone, in the order of the dry runs."""

    planned: List[Planned]
    left: List[Left]


def draft(source: Records, selection: Selection, to: To) -> Draft:
    """The smallest first, so that these have the choice of the SRs."""
    wanted = sorted(
        selection.wanted,
        key=lambda one: (sum(disk.size for disk in one.disks), one.record["name_label"]),
    )
    estimate = Room(to.records)
    found = Draft(
        [],
        [
            stay(one, source.by_uuid("VM", one.uuid)[1], to)
            if one.kind == VM and not one.disks
            else one
            for one in selection.left
        ],
    )
    for one in wanted:
        chosen = choose(source, one, to, estimate)
        if isinstance(chosen, Left):
            found.left.append(chosen)
        else:
            found.planned.append(chosen)
    return found


def rehearse(
    pool: Pool,
    read: Callable[[], Tuple[Records, To]],
    what: What,
    secrets: Mapping[str, str],
    tell: Callable[[int, int, str], None] = lambda done, of, doing: None,
) -> Rehearsal:
    """Scan each SR that is in it once, and plan each VM with a dry run, which tells what it takes
    of each SR (storage_motion/plan/room.py). `read()`: the pools' records, read anew; `secrets`:
    arguments that are not kept. `tell(done, of, doing)`: how far it is.

    One whose dry run fails fails no other: its error is what it was refused with. Raises what
    other calls of the pools do."""
    source, to = read()
    drafted = draft(source, select(source, what, to.cross_pool), to)
    scanned = scans.of(source, to.records, drafted.planned, tell)
    source, to = read()  # which the scans have brought up to date
    planned, left = draft(source, select(source, what, to.cross_pool), to)
    asked = [(_home(source, pool, one), one) for one in planned]
    runs: Dict[int, Rehearsed] = {}
    room = _Room()

    def run(one: Tuple[str, Planned]) -> Tuple[Rehearsed, List[Dict[str, Any]]]:
        return _dry_run(pool, *one, secrets, scanned.done)

    for ended in beside.as_they_end(run, asked, lambda one: one[0], DRY_RUNS):
        assert ended is not None
        if ended.error:
            raise ended.error
        runs[ended.number], found_there = ended.answer
        room.take(found_there)
        tell(len(runs), len(planned), "planned %s" % planned[ended.number].name)
    first = {one.vm: at for at, one in enumerate(order.smallest_first(planned))}
    rehearsed = sorted(runs.values(), key=lambda one: first[one.planned.vm])
    return Rehearsal(rehearsed, left, room.figures(), scanned.not_done)


def _home(source: Records, pool: Pool, planned: Planned) -> str:
    """The host (a ref) that is asked: that of the VM, which would be asked by the master else."""
    home: str = source.by_uuid("VM", planned.vm)[1]["resident_on"]
    return home if home != NULL else pool.master


def without(rehearsal: Rehearsal, refused: Sequence[Rehearsed]) -> Rehearsal:
    """The same, with those left where they are, and whatever stays."""
    stays = [one._replace(stays=False, refused=one.stays) for one in rehearsal.left]
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
    return rehearsal._replace(rehearsed=kept, left=stays + left)


class _Room:
    """What the SRs of the destination have, and all of them take."""

    def __init__(self) -> None:
        self._found: Dict[str, Dict[str, Any]] = {}
        self._more: Dict[str, int] = {}  # that one of them takes only while it moves

    def take(self, rooms: Iterable[Dict[str, Any]]) -> None:
        """The room of a dry run: what stays is summed up; of what it takes for a time besides the
        most counts, once."""
        for one in rooms:
            if one["destination"]:
                sr = one["sr"]
                known = self._found.setdefault(sr, dict(sr=sr, name=one["name"], needed=0))
                known["free"] = min(one["free"], known.get("free", one["free"]))
                known["needed"] += one["stays"]
                self._more[sr] = max(self._more.get(sr, 0), one["needed"] - one["stays"])

    def figures(self) -> List[Dict[str, Any]]:
        """As Rehearsal has it."""
        found = []
        for sr, one in sorted(self._found.items()):
            needed = one["needed"] + self._more[sr]
            found.append(dict(one, needed=needed, left=one["free"] - needed))
        return found


def _dry_run(
    pool: Pool, home: str, planned: Planned, secrets: Mapping[str, str], scanned: Set[str]
) -> Tuple[Rehearsed, List[Dict[str, Any]]]:
    """(What came of it, the room that it found). `scanned`: the SRs (UUIDs) that need no scan."""
    arguments: Dict[str, str] = dict(planned.arguments, **secrets)
    arguments["dry-run"] = "true"
    if scanned.issuperset(planned.srs):
        arguments["scan"] = "false"
    try:
        answer = pool.plugin_on(home, "migrate", **arguments)
    except XenAPI.Failure as failure:
        return Rehearsed(planned, [str(detail) for detail in failure.details], []), []
    except (socket.timeout, ValueError) as error:  # of others the connection to the pool is gone
        return Rehearsed(planned, [Unreachable.code, "its host", sessions.reason(error)], []), []
    plan = answer["plan"]
    data = {disk["key"]: disk["data"] for disk in plan["disks"]}
    disks = tuple(disk._replace(data=data.get(disk.vdi, disk.data)) for disk in planned.disks)
    hosts = tuple(sorted({plan["source_host"], plan["destination_host"]}))
    found = planned._replace(disks=disks, hosts=hosts)
    sent = sum(disk["data"] for disk in plan["disks"] + plan["history"])
    move = Move(found, plan["source_host_name"], plan["destination_host_name"], sent)
    return (
        Rehearsed(
            found,
            [],
            list(plan["warnings"]),
            len(plan["history"]),
            plan.get("notes", []),
            move,
            [disk for disk in answer["disks"] if disk["moves"]],
            answer["vifs"],
        ),
        answer["room"],
    )


def to_json(rehearsal: Rehearsal, estimate: Optional[Estimate] = None) -> Dict[str, Any]:
    """As JSON values."""
    moving = [one for one in rehearsal.rehearsed if not one.wrong]
    return {
        "vms": [
            dict(
                one.planned.to_json(),
                disks=_disks(one),
                vifs=list(one.vifs),
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
        "unscanned": list(rehearsal.unscanned),
        "notes": rehearsal.notes,
        "totals": {
            "vms": len(moving),
            "disks": sum(len(one.planned.disks) for one in moving),
            "bytes": sum(one.planned.size for one in moving),
            "data": sum(one.planned.data for one in moving),
            "refused_vms": len(rehearsal.refused),
        },
        "estimates": estimate.to_json() if estimate else None,
        "whole": rehearsal.whole,
    }


def _disks(one: Rehearsed) -> List[Dict[str, Any]]:
    """What is planned for each, with what the dry run tells of where it is and goes to."""
    told = {disk["vdi"]: disk for disk in one.disks}
    return [
        dict(disk._asdict(), **{name: told.get(disk.vdi, {}).get(name) for name in TOLD})
        for disk in one.planned.disks
    ]
