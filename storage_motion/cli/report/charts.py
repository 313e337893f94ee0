# SPDX-License-Identifier: LGPL-2.1-only
"""The figures of a report."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator

from storage_motion.cli import quantities
from storage_motion.cli.report import series, svg

WIDTH = 7.6  # inches; the page scales it
ROW = 0.27  # inches, of a timeline
MOST_DISKS = 20  # that are drawn; the tables have all
WIDE = 100.0  # how much longer the longest wait is where each power of ten has one label
LABEL = 40  # characters of a phase's title in a figure
TITLES = {"sent": "Copy over time", "mirrored": "Mirrored writes over time"}
# Colours of the states of a disk, and of where its bytes came from. In the order of the legend.
STATES = (
    ("mirroring", "mirror begins", svg.SERIES[4]),
    ("copying", "copying", svg.SERIES[0]),
    ("in-sync", "in sync", svg.SERIES[2]),
    ("broken", "broken", svg.SERIES[1]),
)
SOURCES = (
    ("sent", "sent and read back", svg.SERIES[0]),
    ("zeros", "zeros, which are not sent", svg.SERIES[5]),
    ("skipped", "written anew by the guest", svg.SERIES[2]),
    ("found", "was there already", svg.SERIES[4]),
    ("of_base", "has the disk below it", svg.SERIES[3]),
    ("sparse", "holds no data", svg.GRID),
)
SWITCH = ("detached", "open")  # the first and the last step of the switch of a disk
UNDO = "undo "
# (seconds in it, its name), and below how many of it the next smaller one is taken
UNITS = ((3600.0, "hours", 3.0), (60.0, "minutes", 3.0), (1.0, "seconds", 0.0))


class Chart(NamedTuple):
    """`svg`: the markup; `caption`: what is in it, in a sentence."""

    svg: str
    caption: str


def all_of(report: Dict[str, Any], name: str, names: Dict[str, str]) -> Dict[str, Chart]:
    """The figures of a report, by their kind; those of which nothing is known are missing. `name`:
    that no other report in the page has; `names`: of its disks, by their UUIDs."""
    found: Dict[str, Optional[Chart]] = {}
    shown = dict(list(names.items())[:MOST_DISKS])
    with svg.style():
        found["timeline"] = _timeline(report, name, shown)
        found["bytes"] = _bytes(report, name, shown)
        measured = series.of(report)
        if measured:
            even = series.of(report, finest=series.even(report))
            assert even is not None
            found["copy"] = _copy_rate(report, even, name, shown)
            found["mirror"] = _mirror_rate(report, even, name, shown)
            found["latency"] = _latency(report, measured, name, shown)
    return {kind: chart for kind, chart in found.items() if chart is not None}


def _timeline(report: Dict[str, Any], name: str, names: Dict[str, str]) -> Optional[Chart]:
    phases = report["timeline"]["phases"]
    if not phases:
        return None
    begun, end = report["started"], _end(report)
    length, unit = _unit(end - begun)
    rows: List[str] = []
    for span in phases:
        if span["title"] not in rows:
            rows.append(span["title"])
    labels = [title if len(title) <= LABEL else title[: LABEL - 1] + "…" for title in rows]
    disks = [one for one in report["timeline"]["disks"] if one["vdi"] in names]
    count = len(rows) + len(disks)
    made = svg.figure(WIDTH, 0.75 + ROW * count)
    axes = made.add_subplot()

    def draw(row: int, span: Dict[str, Any], colour: str) -> None:
        last = end if span["ended"] is None else span["ended"]
        width = max(last - span["begun"], (end - begun) / 400)  # a short one is seen as well
        axes.broken_barh(
            [((span["begun"] - begun) / length, width / length)], (row - 0.34, 0.68), color=colour
        )

    for span in phases:
        undone = span["name"].startswith(UNDO)
        draw(rows.index(span["title"]), span, svg.SERIES[1] if undone else svg.SERIES[5])
    colours = {state: colour for state, _, colour in STATES}
    for row, disk in enumerate(disks, len(rows)):
        for span in disk["states"]:
            if span["state"] in colours:
                draw(row, span, colours[span["state"]])
    axes.set_yticks(range(count), labels + [names[disk["vdi"]] for disk in disks])
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlim(0, max(end - begun, 1e-3) / length)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("%s since the begin" % unit)
    seen = {span["state"] for disk in disks for span in disk["states"]}
    _legend(made, [(title, colour) for state, title, colour in STATES if state in seen])
    longest = max(phases, key=lambda span: _length(span, end))
    caption = "All took %s; the longest phase: %s, %s." % (
        quantities.seconds(end - begun),
        longest["title"],
        quantities.seconds(_length(longest, end)),
    )
    return _chart(made, name + "-timeline", "When each phase and each disk was at what", caption)


def _bytes(report: Dict[str, Any], name: str, names: Dict[str, str]) -> Optional[Chart]:
    disks = [
        disk
        for disk in report["disks"] + report["snapshots"]
        if disk["vdi"] in names and not disk["estimated"]
    ]
    if not disks:
        return None
    scale, unit = _bytes_unit(max(disk["size"] for disk in disks))
    made = svg.figure(WIDTH, 0.95 + ROW * len(disks))
    axes = made.add_subplot()
    left = [0.0] * len(disks)
    used = []
    for field, title, colour in SOURCES:
        values = [disk[field] / scale for disk in disks]
        if any(values):
            used.append((title, colour))
            axes.barh(range(len(disks)), values, left=left, height=0.68, color=colour)
            left = [before + value for before, value in zip(left, values)]
    axes.set_yticks(range(len(disks)), [names[disk["vdi"]] for disk in disks])
    axes.set_ylim(len(disks) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(unit)
    _legend(made, used)
    sent, whole = report["bytes"]["sent"], report["bytes"]["size"]
    caption = "%s were sent for disks of %s." % (quantities.size(sent), quantities.size(whole))
    return _chart(made, name + "-bytes", "Where the bytes of each disk came from", caption)


def _copy_rate(
    report: Dict[str, Any], measured: series.Series, name: str, names: Dict[str, str]
) -> Optional[Chart]:
    lines = {key: line.copied for key, line in measured.lines.items()}
    return _rate(report, measured, lines, name + "-copy", names, "sent")


def _mirror_rate(
    report: Dict[str, Any], measured: series.Series, name: str, names: Dict[str, str]
) -> Optional[Chart]:
    lines = {key: line.mirrored for key, line in measured.lines.items()}
    return _rate(report, measured, lines, name + "-mirror", names, "mirrored")


def _rate(
    report: Dict[str, Any],
    measured: series.Series,
    lines: Dict[str, List[float]],
    name: str,
    names: Dict[str, str],
    what: str,
) -> Optional[Chart]:
    """`what`: of the report's bytes, "sent" or "mirrored"."""
    fastest = max(map(sum, zip(*lines.values())))
    if fastest <= 0:
        return None
    scale, unit = _bytes_unit(fastest)
    made, axes, length = _over_time(report, measured)
    edges = [edge / length for edge in measured.edges]
    drawn = []
    below = [0.0] * (len(edges) - 1)
    for key, colour in _coloured(lines, names):
        if any(lines[key]):
            drawn.append((names[key], colour))
            values = [base + value / scale for base, value in zip(below, lines[key])]
            axes.stairs(values, edges, baseline=below, color=colour, fill=True, linewidth=0)
            below = values
    limits = _limits(report) if what == "sent" else []
    for span in limits:
        axes.hlines(
            span["bandwidth"] / scale,
            (span["begun"] - report["started"]) / length,
            ((span["ended"] or _end(report)) - report["started"]) / length,
            color=svg.INK,
            linestyles="dashed",
            linewidth=1,
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("%s/s" % unit)
    _legend(made, drawn)
    sums = [sum(stretch) for stretch in zip(*lines.values())]
    busy = [value for value in sums if value > 0]
    caption = "%s; over stretches of %s: on average %s, at most %s.%s%s" % (
        _whole(report, what, sum(sums) * measured.step),
        quantities.seconds(measured.step),
        quantities.rate(sum(busy) / len(busy)),
        quantities.rate(fastest),
        _limited(limits),
        _band(report),
    )
    return _chart(made, name, TITLES[what], caption)


def _whole(report: Dict[str, Any], what: str, measured: float) -> str:
    """How much it was: the same figure as everywhere in the page, which is of the last try."""
    tries = len(report["timeline"]["tries"])
    if tries:
        return "%s %s in all %d tries" % (quantities.size(measured), what, tries + 1)
    return "%s %s" % (quantities.size(report["bytes"][what]), what)


def _limits(report: Dict[str, Any]) -> List[Dict[str, Any]]:
    """When which bandwidth was given."""
    return [span for span in report["timeline"].get("limits", []) if span["bandwidth"]]


def _limited(limits: Sequence[Dict[str, Any]]) -> str:
    if not limits:
        return ""
    rates = ", ".join(dict.fromkeys(quantities.rate(span["bandwidth"]) for span in limits))
    return (
        " The dashed line is the limit of copy and mirror together (%s); a copy sends pieces of %s "
        "at once, so a stretch may have one more." % (rates, quantities.size(series.PIECE))
    )


def _latency(
    report: Dict[str, Any], measured: series.Series, name: str, names: Dict[str, str]
) -> Optional[Chart]:
    means = {key: line.latency for key, line in measured.lines.items()}
    peaks = {key: line.longest for key, line in measured.lines.items()}
    known = [value for line in means.values() for value in line if value]
    longest = [value for line in peaks.values() for value in line if value]
    if not known:
        return None
    made, axes, length = _over_time(report, measured)
    middles = [(edge + measured.step / 2) / length for edge in measured.edges[:-1]]
    drawn = []
    for key, colour in _coloured(means, names):
        if any(means[key]):
            drawn.append((names[key], colour))
            axes.plot(middles, [_ms(value) for value in means[key]], color=colour)
            axes.plot(middles, [_ms(value) for value in peaks[key]], ".", color=colour, ms=3)
    axes.set_yscale("log")
    lowest = min(known)
    wide = max(longest or known) / lowest > WIDE
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: "%g" % value)
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set_ylabel("ms")
    _legend(made, drawn)
    caption = (
        "How long a write of the guest's has waited for its mirror: lines are the mean, dots the "
        "longest. At most %s.%s" % (quantities.latency(max(longest or known)), _band(report))
    )
    return _chart(made, name + "-latency", "Latency of mirrored writes", caption)


def _over_time(report: Dict[str, Any], measured: series.Series) -> Tuple[Any, Any, float]:
    """(figure, axes from the begin of the migration to its end, seconds of the unit)"""
    made = svg.figure(WIDTH, 2.5)
    axes = made.add_subplot()
    whole = max(_end(report) - report["started"], measured.edges[-1])
    length, unit = _unit(whole)
    axes.set_xlim(0, max(whole, 1e-3) / length)
    axes.set_xlabel("%s since the begin" % unit)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    switch = _switch(report)
    if switch:
        axes.axvspan(
            min(switch) / length, max(switch) / length, color=svg.FAINT, alpha=0.3, linewidth=1
        )
    return made, axes, length


def _switch(report: Dict[str, Any]) -> List[float]:
    """When disks were at its first and last step: seconds since the begin."""
    return [
        gate["at"] - report["started"]
        for disk in report["timeline"]["disks"]
        for gate in disk["gates"]
        if gate["step"] in SWITCH
    ]


def _band(report: Dict[str, Any]) -> str:
    return " The grey band is the switch." if _switch(report) else ""


def _coloured(lines: Dict[str, Any], names: Dict[str, str]) -> List[Tuple[str, str]]:
    """[(a line's key, its colour)]: a disk has the same one in all figures."""
    return [(key, svg.SERIES[at % len(svg.SERIES)]) for at, key in enumerate(names) if key in lines]


def _legend(made: Any, entries: Sequence[Tuple[str, str]]) -> None:
    if not entries:
        return
    made.legend(
        handles=[Patch(color=colour, label=title) for title, colour in entries],
        loc="outside upper left",
        ncols=3,
        fontsize=9,
        handlelength=1.0,
    )


def _chart(made: Any, name: str, title: str, caption: str) -> Chart:
    return Chart(svg.markup(made, name, title, caption), caption)


def _end(report: Dict[str, Any]) -> float:
    """Never before the begin, whatever the host's clock has said."""
    end: float = report["ended"] or report["updated"]
    spans = report["timeline"]["phases"]
    return max([report["started"], end] + [span["ended"] or span["begun"] for span in spans])


def _length(span: Dict[str, Any], end: float) -> float:
    found: float = (end if span["ended"] is None else span["ended"]) - span["begun"]
    return found


def _unit(seconds: float) -> Tuple[float, str]:
    return next((length, name) for length, name, least in UNITS if seconds >= least * length)


def _bytes_unit(count: float) -> Tuple[float, str]:
    unit = quantities.unit_of(count)
    return 1024.0**unit, quantities.UNITS[unit]


def _ms(value: Optional[float]) -> float:
    return float("nan") if value is None else max(value * 1000, 1e-3)
