# SPDX-License-Identifier: LGPL-2.1-only
"""How long a move may take: by what earlier ones between the same two hosts took, or not at all."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from storage_motion.cli.failures import EXPECTED, NO_ANSWER, failure_of
from storage_motion.cli.pools import Pool

LOOKED_AT, COUNTED = 20, 5  # of the latest migrations at most, those with too little among them
SCANNED = "what is allocated in the images, by a scan of their SRs just now"
NOT_SCANNED = "what was allocated in the images at the last scan of their SRs, which is not new"
VOLUMES = "; of a volume on LVM that no mirror is for, all of it"
LEAST = 1 << 20  # bytes: with less than this, no rate is measured


class Measured(NamedTuple):
    """How fast moves between two hosts go. `per_second`: bytes of an earlier one, all of its phases
    counted; None where nobody knows. `basis`: what that goes by, or why it is not known."""

    per_second: Optional[float]
    basis: str


class Earlier:
    """The migrations that have succeeded in a pool. It is asked for them once, and once for those
    between two hosts. That it cannot tell of them is no error, but a basis as well."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._listed: Optional[List[Dict[str, Any]]] = None
        self._why = ""  # there is no list
        self._measured: Dict[Tuple[str, str], Measured] = {}

    def measured(self, source_host: str, destination_host: str) -> Measured:
        """By the latest between two hosts, by their names."""
        pair = source_host, destination_host
        if pair not in self._measured:
            self._measured[pair] = self._measure(pair)
        return self._measured[pair]

    def _succeeded(self) -> List[Dict[str, Any]]:
        """The latest first."""
        if self._listed is None:
            self._listed = []
            try:
                found = self._pool.plugin("list")["migrations"]
                self._listed = [one for one in found if one["state"] == "succeeded"]
            except EXPECTED as error:
                self._why = _said(error)
        return self._listed

    def _measure(self, pair: Tuple[str, str]) -> Measured:
        ended = [
            one["migration"]
            for one in self._succeeded()
            if (one["source_host"], one["destination_host"]) == pair
        ]
        found: List[Dict[str, Any]] = []
        why = self._why
        for migration in ended[:LOOKED_AT]:
            if len(found) == COUNTED:
                break
            try:
                status = self._pool.plugin("status", migration=migration)
            except EXPECTED as error:
                why = _said(error)
                break  # each of the next may take as long
            found += [status] if _tells_rate(status) else []
        between = "from %s to %s" % pair
        if found:
            moved, seconds = sum(one["bytes_moved"] for one in found), sum(map(_seconds, found))
            told = (len(found), between, moved >> 20, seconds)
            return Measured(
                moved / seconds, "measured: %d earlier %s, %d MiB in %d s, all phases" % told
            )
        if why:
            why = "earlier ones %s cannot be looked at: %s" % (between, why)
        return Measured(None, "unknown: %s" % (why or _without_rate(len(ended), between)))


def _said(error: Exception) -> str:
    found = failure_of(error)
    return found[1] if found[0] == NO_ANSWER else ": ".join(found[:2])


def _without_rate(succeeded: int, between: str) -> str:
    if not succeeded:
        return "none has succeeded %s yet" % between
    if succeeded == 1:
        return "one has succeeded %s, and moved too little to measure by" % between
    looked_at = "the latest %d" % LOOKED_AT if succeeded > LOOKED_AT else "them"
    return "%d have succeeded %s, and none of %s moved enough to measure by" % (
        succeeded,
        between,
        looked_at,
    )


def basis_of_data(answer: Dict[str, Any]) -> str:
    """What the dry run's figure of the data goes by."""
    # a plugin of before says nothing of it, and has them scanned
    basis = SCANNED if answer.get("scanned", True) else NOT_SCANNED
    volumes = [
        disk for disk in answer["disks"] if disk["moves"] and disk["sr"]["allocation"] == "thick"
    ]
    return basis + (VOLUMES if volumes and not answer["plan"]["live"] else "")


def _tells_rate(ended: Dict[str, Any]) -> bool:
    return bool(ended["bytes_moved"] >= LEAST and _seconds(ended) > 0)


def _seconds(ended: Dict[str, Any]) -> float:
    seconds: float = ended["updated"] - ended["started"]
    return seconds


def of(pool: Pool, answer: Dict[str, Any]) -> Dict[str, Any]:
    """{"bytes", "bytes_basis", "seconds", "seconds_basis"} of what the plugin answers to a dry run,
    which has a plan."""
    plan = answer["plan"]
    sent = sum(disk["data"] for disk in plan["disks"] + plan["history"])
    related = [disk for disk in plan["disks"] + plan["history"] if disk["base_there"]]
    rate = Earlier(pool).measured(plan["source_host_name"], plan["destination_host_name"])
    return {
        "bytes": sent,
        "bytes_basis": basis_of_data(answer)
        + "; what the guest writes meanwhile comes on top"
        + (
            "; %d of the disks are clones of what is there, and less is sent" % len(related)
            if related
            else ""
        ),
        "seconds": sent / rate.per_second if rate.per_second else None,
        "seconds_basis": rate.basis,
    }
