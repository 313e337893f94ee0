# SPDX-License-Identifier: LGPL-2.1-only
"""About how long an evacuation takes, by how fast earlier moves between the same hosts went."""

from typing import Any, Dict, Iterable, List, NamedTuple, Optional

from storage_motion.cli.estimates import Earlier
from storage_motion.cli.evacuation.order import Limits
from storage_motion.cli.evacuation.parts import Planned, count


class Move(NamedTuple):
    """One that is planned: by the names of its hosts, and with the bytes that it sends."""

    planned: Planned
    source_host: str
    destination_host: str
    sent: int


class Estimate(NamedTuple):
    """`bytes`: to send; `seconds`: about what it takes, None where nobody can tell; `basis`:
    what that goes by, or why it is not known."""

    bytes: int
    seconds: Optional[float]
    basis: str

    def to_json(self) -> Dict[str, Any]:
        """As the estimates of a plan are."""
        return {"bytes": self.bytes, "seconds": self.seconds, "seconds_basis": self.basis}


def of(moves: Iterable[Move], limits: Limits, earlier: Earlier, waiting: int = 0) -> Estimate:
    """Each goes as fast as an earlier one that may have had its hosts for itself, and so many at a
    time as may: what they take of each other is not known, so by those it is no less than this.
    `waiting`: VMs of which no more is known than that they wait."""
    moves = list(moves)
    pairs = dict.fromkeys((one.source_host, one.destination_host) for one in moves)
    rates = {pair: earlier.measured(*pair) for pair in pairs}
    whole = sum(one.sent for one in moves)
    left_out = ["not counted: %s waiting" % count(waiting, "VM")] if waiting else []
    known: List[float] = []  # seconds that each takes
    for one in moves:
        rate = rates[one.source_host, one.destination_host].per_second
        known += [one.sent / rate] if rate else []
    if len(known) < len(moves):
        why = [rate.basis for rate in rates.values() if not rate.per_second]
        return Estimate(whole, None, "; ".join(why + left_out))
    told = ["%s at a time at most" % count(limits.concurrency, "VM")]
    told += [rate.basis for rate in rates.values()] + left_out
    return Estimate(whole, _least(moves, known, limits), "; ".join(told))


def _least(moves: List[Move], lasts: List[float], limits: Limits) -> float:
    """Seconds: no limit lets it be less, nor does the longest one."""
    at_hosts: Dict[str, float] = {}
    at_srs: Dict[str, float] = {}
    for one, seconds in zip(moves, lasts):
        for busy, places in ((at_hosts, one.planned.hosts), (at_srs, one.planned.srs)):
            for place in places:
                busy[place] = busy.get(place, 0.0) + seconds
    return max(
        [sum(lasts) / limits.concurrency]
        + lasts
        + [seconds / limits.per_host for seconds in at_hosts.values()]
        + [seconds / limits.per_sr for seconds in at_srs.values()]
    )
