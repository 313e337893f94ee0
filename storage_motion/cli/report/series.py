# SPDX-License-Identifier: LGPL-2.1-only
"""What the samples of a report say, at equal distances of time: rates of the copy and of the
mirror, and how long the guest's writes have waited for it."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

MOST = 200  # points of a line
FINEST = 0.5  # seconds between two of them


class Line(NamedTuple):
    """Of one disk, for each stretch of time: bytes per second that were verified, and mirrored;
    seconds that a mirrored write has waited on average, and the longest; None where there was no
    write."""

    copied: List[float]
    mirrored: List[float]
    latency: List[Optional[float]]
    longest: List[Optional[float]]


class Series(NamedTuple):
    """`edges`: of the stretches, in seconds since the begin, one more than each Line has values."""

    edges: List[float]
    lines: Dict[str, Line]

    @property
    def step(self) -> float:
        """Seconds that a stretch lasts."""
        return self.edges[1] - self.edges[0]


def of(report: Dict[str, Any], most: int = MOST) -> Optional[Series]:
    """That of a report; None where there are not two samples of any disk."""
    fields: Sequence[str] = report["sample_fields"]
    begun = report["started"]
    rows = {
        key: [dict(zip(fields, row)) for row in sorted(found)]
        for key, found in report["samples"].items()
        if len(found) > 1
    }
    if not rows:
        return None
    first = min(found[0]["time"] for found in rows.values()) - begun
    last = max(found[-1]["time"] for found in rows.values()) - begun
    count = max(1, min(most, int((last - first) / FINEST)))
    step = max((last - first) / count, 1e-3)  # a clock that was set says anything
    edges = [first + step * at for at in range(count + 1)]
    return Series(edges, {key: _line(found, begun, edges) for key, found in rows.items()})


def _line(rows: List[Dict[str, float]], begun: float, edges: List[float]) -> Line:
    times = [row["time"] - begun for row in rows]
    step = edges[1] - edges[0]
    grown = {
        name: _differences(times, _growing([row[name] for row in rows]), edges)
        for name in ("verified", "mirrored_bytes", "mirrored_writes", "waited")
    }
    latency: List[Optional[float]] = [
        waited / writes if writes > 1e-6 else None
        for waited, writes in zip(grown["waited"], grown["mirrored_writes"])
    ]
    longest: List[Optional[float]] = [None] * (len(edges) - 1)
    for at, row in zip(times, rows):
        place = min(len(longest) - 1, max(0, int((at - edges[0]) / step)))
        if row["longest"] > 0:
            longest[place] = max(longest[place] or 0.0, row["longest"])
    return Line(
        [value / step for value in grown["verified"]],
        [value / step for value in grown["mirrored_bytes"]],
        latency,
        longest,
    )


def _growing(values: List[float]) -> List[float]:
    """Counts that never go back: a mover that follows another one begins at nothing."""
    found, whole, before = [], 0.0, 0.0
    for value in values:
        whole += value - before if value >= before else value
        found.append(whole)
        before = value
    return found


def _differences(times: List[float], values: List[float], edges: List[float]) -> List[float]:
    """By how much it grows in each stretch, as if it grew evenly between two samples."""
    at_edges, place = [], 0
    for edge in edges:
        while place < len(times) - 2 and times[place + 1] < edge:
            place += 1
        span = times[place + 1] - times[place]
        share = (edge - times[place]) / span if span > 0 else 1.0
        share = min(1.0, max(0.0, share))
        at_edges.append(values[place] + share * (values[place + 1] - values[place]))
    return [after - before for before, after in zip(at_edges, at_edges[1:])]
