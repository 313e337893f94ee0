# SPDX-License-Identifier: LGPL-2.1-only
"""What the samples of a report say, at equal distances of time: rates of the copy and of the
mirror, and how long the guest's writes have waited for it."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

MOST = 200  # points of a line
FINEST = 0.5  # seconds between two of them
FEWEST = 4  # stretches, however long each should last
PIECE = 1 << 20  # bytes that a copy sends at once (storage_motion/source/windows.py)
PIECES = 8  # in a stretch: one more or less is an eighth of its rate
LAST = ("sent", "mirrored_bytes", "mirrored_writes")  # of a disk, what no sample may have


class Line(NamedTuple):
    """Of one disk, for each stretch of time: bytes per second that were sent, and mirrored;
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


def of(report: Dict[str, Any], most: int = MOST, finest: float = FINEST) -> Optional[Series]:
    """That of a report; None where there are not two samples of any disk. `finest`: seconds that a
    stretch lasts at least, where that leaves FEWEST of them."""
    begun = report["started"]
    rows = {key: _rows(report, key) for key in report["samples"]}
    rows = {key: found for key, found in rows.items() if len(found) > 1}
    if not rows:
        return None
    first = min(found[0]["time"] for found in rows.values()) - begun
    last = max(found[-1]["time"] for found in rows.values()) - begun
    length = last - first
    count = max(1, min(most, int(length / FINEST), max(FEWEST, int(length / finest))))
    step = max(length / count, 1e-3)  # a clock that was set says anything
    edges = [first + step * at for at in range(count + 1)]
    return Series(edges, {key: _line(found, begun, edges) for key, found in rows.items()})


def even(report: Dict[str, Any]) -> float:
    """Seconds that a stretch has to last for its rate to be that of the copy: a piece of it goes at
    once, so of a few of them that happen to fall into a stretch nothing follows."""
    found = of(report)
    if found is None:
        return FINEST
    sums = [sum(stretch) for stretch in zip(*(line.copied for line in found.lines.values()))]
    busy = [value for value in sums if value > 0]
    return PIECES * PIECE * len(busy) / sum(busy) if busy else FINEST


def _rows(report: Dict[str, Any], key: str) -> List[Dict[str, float]]:
    """The samples of a disk: from nothing, when it began, to what its status has at last, where
    that is of one mover."""
    fields: Sequence[str] = report["sample_fields"]
    rows = [dict(zip(fields, row)) for row in sorted(report["samples"][key])]
    if not rows:
        return rows
    states = [one["states"] for one in report["timeline"]["disks"] if one["vdi"] == key]
    begun = [span["begun"] for spans in states for span in spans]
    if begun and begun[0] <= rows[0]["time"]:
        rows.insert(0, dict(dict.fromkeys(fields, 0.0), time=begun[0]))
    if not report["timeline"]["tries"]:
        for disk in report["disks"] + report["snapshots"]:
            if disk["vdi"] == key:
                last = rows[-1]
                last.update({name: max(last[name], disk[name]) for name in LAST})
    return rows


def _line(rows: List[Dict[str, float]], begun: float, edges: List[float]) -> Line:
    times = [row["time"] - begun for row in rows]
    step = edges[1] - edges[0]
    grown = {
        name: _differences(times, _growing([row[name] for row in rows]), edges)
        for name in ("sent", "mirrored_bytes", "mirrored_writes", "waited")
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
        [value / step for value in grown["sent"]],
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
