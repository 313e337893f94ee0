# SPDX-License-Identifier: LGPL-2.1-only
"""The page of a report, and the JSON beside it.

All text is the word of others, VMs' names among it: it is escaped as a whole (autoescape), what
would not show but do is replaced before, and the page may load or run nothing (its
Content-Security-Policy).
"""

import json
import os
import unicodedata
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import jinja2
from markupsafe import Markup

import storage_motion
from storage_motion.cli import quantities
from storage_motion.cli.report import charts, series

TEMPLATE = "page.html"
UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
# Cc, Cf: control characters, and what turns the direction of a text; Cs: half a character, which no
# file can take; Zl, Zp: ends of lines.
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
ROWS = 12  # of the table beside the figures of what was measured
LABEL = 24  # characters of a disk's name in a figure
DOCUMENT = {"sxm", "reports"}  # what the JSON has


class Written(NamedTuple):
    """The paths of the two files."""

    html: str
    json: str


def paths(path: str) -> Written:
    """Those of a page that is to be `path`."""
    base = path[: -len(".html")] if path.endswith(".html") else path
    return Written(path, base + ".json")


def write(reports: Sequence[Dict[str, Any]], path: str, title: str = "") -> Written:
    """One page of one migration or several, in this order, as `path`, and the JSON beside it.
    `reports`: what `fn=report` answers. `title`: of several. Raises OSError."""
    written = paths(path)
    document = {"sxm": storage_motion.__version__, "reports": list(reports)}
    drawn = render(reports, title)  # before anything is written: there are both files, or neither
    _replace(written.json, json.dumps(document, indent=1, sort_keys=True) + "\n")
    _replace(written.html, drawn)
    return written


def render(reports: Sequence[Dict[str, Any]], title: str = "") -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=quantities.size,
        seconds=quantities.seconds,
        moment=quantities.moment,
        latency=quantities.latency,
        rate=quantities.rate,
        state=lambda text: text.replace("-", " "),
        error=lambda failure: ": ".join(failure[:2]) if failure else "",
    )
    told = [_told(clean(one), "m%d" % at) for at, one in enumerate(reports, 1)]
    title = clean(title) or _title(told)
    page: str = environment.get_template(TEMPLATE).render(
        title=title, migrations=told, totals=_totals(told), version=storage_motion.__version__
    )
    return page


def clean(value: Any) -> Any:
    """Texts without what a page or a file would not show but do, in whatever they are in."""
    if isinstance(value, str):
        return "".join(
            UNPRINTABLE if unicodedata.category(character) in HIDDEN else character
            for character in value
        )
    if isinstance(value, dict):
        return {clean(key): clean(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(one) for one in value]
    return value


def _told(report: Dict[str, Any], name: str) -> Dict[str, Any]:
    """What the template goes by: the report, `name` (its place in the page), and what is made of
    it."""
    disks = report["disks"] + report["snapshots"]
    names = _names(disks)
    planned = {disk["vdi"]: disk for disk in report["plan"]["disks"]}
    end = report["ended"] or report["updated"]
    drawn = charts.all_of(report, name, names)
    return dict(
        report,
        name=name,
        length=max(0.0, end - report["started"]),
        rows=[dict(disk, plan=planned[disk["vdi"]], label=names[disk["vdi"]]) for disk in disks],
        charts={
            kind: {"svg": Markup(chart.svg), "caption": chart.caption}  # of our own making
            for kind, chart in drawn.items()
        },
        measured=_measured(report),
        switched=_switched(report, names),
        labels=names,
        outcome=_outcome(report),
        arrived=sum(disk["state"] == "moved" or disk["gate"] == "open" for disk in disks),
        later_warnings=[
            text for text in report["warnings"] if text not in report["plan"]["warnings"]
        ],
        planned_data=sum(disk["data"] for disk in report["plan"]["disks"]),
    )


def _names(disks: Sequence[Dict[str, Any]]) -> Dict[str, str]:
    """A name for each disk's UUID, short and no other's."""
    found: Dict[str, str] = {}
    for disk in disks:
        text = "%s %s" % (disk["device"], disk["name"])
        if disk.get("snapshot"):
            text = "snapshot %s" % text
        text = text.strip()
        if len(text) > LABEL:
            text = text[: LABEL - 1] + "…"
        if text in found.values():
            text = "%s %s" % (text[: LABEL - 9], disk["vdi"][:8])
        found[disk["vdi"]] = text
    return found


def _outcome(report: Dict[str, Any]) -> str:
    what = "copied" if report["copy"] else "moved"
    return {
        "running": "on its way",
        "succeeded": what,
        "failed": "failed",
        "cancelled": "cancelled",
    }.get(report["state"], report["state"])


def _title(told: List[Dict[str, Any]]) -> str:
    if len(told) == 1:
        return str(told[0]["vm_name"])
    return "%d migrations" % len(told)


def _totals(told: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Of all of them: figures that add up."""
    states = sorted({one["state"] for one in told})
    ends = [one["ended"] or one["updated"] for one in told]
    return {
        "states": [(state, sum(one["state"] == state for one in told)) for state in states],
        "disks": sum(len(one["rows"]) for one in told),
        "arrived": sum(one["arrived"] for one in told),
        "size": sum(one["bytes"]["size"] for one in told),
        "sent": sum(one["bytes"]["sent"] for one in told),
        "mirrored": sum(one["bytes"]["mirrored"] for one in told),
        "length": max(ends) - min(one["started"] for one in told) if told else 0.0,
    }


def _switched(report: Dict[str, Any], names: Dict[str, str]) -> List[Dict[str, Any]]:
    """For each disk when it reached which step of the switch: seconds since the first one was
    closed at the source."""
    disks = [disk for disk in report["timeline"]["disks"] if disk["gates"]]
    first = min([gate["at"] for disk in disks for gate in disk["gates"]], default=0.0)
    return [
        {
            "label": names[disk["vdi"]],
            "steps": {gate["step"]: max(0.0, gate["at"] - first) for gate in disk["gates"]},
        }
        for disk in disks
    ]


def _measured(report: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The rows of a table that says what the figures show, of all disks together."""
    found = series.of(report, ROWS, series.even(report))
    if found is None:
        return []
    lines = list(found.lines.values())
    rows = []
    for at, edge in enumerate(found.edges[:-1]):
        means = _known([line.latency[at] for line in lines])
        rows.append(
            {
                "at": edge,
                "copied": sum(line.copied[at] for line in lines),
                "mirrored": sum(line.mirrored[at] for line in lines),
                "latency": max(means) if means else None,
                "longest": max(_known([line.longest[at] for line in lines]), default=None),
            }
        )
    return rows


def _known(values: Sequence[Optional[float]]) -> Tuple[float, ...]:
    return tuple(value for value in values if value is not None)


def _replace(path: str, text: str) -> None:
    """Who looks at the file meanwhile sees the one before, or all of this one."""
    temporary = "%s.%d.part" % (path, os.getpid())
    try:
        with open(temporary, "w", encoding="utf-8") as out:
            out.write(text)
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise OSError(error.errno, error.strerror, path)  # that of a full disk has no name
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
