# SPDX-License-Identifier: LGPL-2.1-only
"""The SRs of an evacuation, each scanned once before all dry runs: how much room it has, and how
much its disks hold, xapi knows by its scans only."""

from typing import Callable, Dict, List, NamedTuple, Sequence, Set, Tuple

from storage_motion.cli import beside
from storage_motion.cli.evacuation.parts import Planned
from storage_motion.plan import up_to_date
from storage_motion.xapi.records import Records
from storage_motion.xapi.tasks import TaskFailed

SCANS = beside.Bounds(place=1, all=4)
NOT_SCANNED = "SR %s could not be scanned (%s): its figures are those of its last scan"


class Scanned(NamedTuple):
    """`done`: the UUIDs of those that were scanned, or are not to be tried again; `not_done`: why
    others were not, a sentence each."""

    done: Set[str]
    not_done: List[str]


def of(
    source: Records,
    destination: Records,
    planned: Sequence[Planned],
    tell: Callable[[int, int, str], None],
) -> Scanned:
    """Scan the SRs that disks leave and go to. `source`, `destination`: of the two pools, which
    may be one. One that fails is not `done`: the dry runs try it, and say what is wrong.
    `tell(done, of, doing)`: how far it is."""
    wanted: Dict[str, Tuple[Records, str]] = {}
    for one in planned:
        for disk in one.disks:
            for records, uuid in ((source, disk.source_sr), (destination, disk.destination_sr)):
                wanted[uuid] = (records, str(records.ref("SR", uuid)))
    srs = sorted(wanted)
    found = Scanned(set(), [])

    def scan(uuid: str) -> None:
        records, ref = wanted[uuid]
        up_to_date.scan_one(records.session, ref)

    for number, ended in enumerate(beside.as_they_end(scan, srs, lambda uuid: uuid, SCANS), 1):
        assert ended is not None
        uuid = srs[ended.number]
        name = wanted[uuid][0].of("SR", wanted[uuid][1])["name_label"]
        if isinstance(ended.error, up_to_date.Busy):
            found.not_done.append(NOT_SCANNED % (name, ended.error))
        elif ended.error and not isinstance(ended.error, TaskFailed):
            raise ended.error
        if not isinstance(ended.error, TaskFailed):
            found.done.add(uuid)
        tell(number, len(srs), "scanned SR %s" % name)
    found.not_done.sort()
    return found
