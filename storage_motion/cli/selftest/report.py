# SPDX-License-Identifier: LGPL-2.1-only
"""What a selftest has found, as text and as JSON, to be sent in: versions, kinds of hosts and SRs,
each step. No secrets; and no names and addresses, unless its user says so."""

import json
import os
import re
import time
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set

import XenAPI

import storage_motion
from storage_motion.cli import output
from storage_motion.cli.failures import NotUnderstood
from storage_motion.cli.pools import Pool
from storage_motion.cli.selftest.subject import Place

# of a host's software_version; some have the host's name there, too
SOFTWARE = ("product_brand", "product_version", "platform_version", "xapi_build", "xen", "linux")
PLUGIN = ("version", "driver_version", "blktap", "qcow2_safe")  # of what `installed` answers
NAMED = {
    "VM": ("name_label",),
    "VDI": ("name_label",),
    "SR": ("name_label",),
    "network": ("name_label",),
    "pool": ("name_label",),
    "host": ("name_label", "hostname", "address"),
}
"""Class -> the fields of it that an error may tell."""
ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\b(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}")


class Result:
    """A step, or a move of one. `seconds`, `bytes`: how long, how many sent; `checksum`: "equal",
    "not compared" or ""; `error`: [code, detail, ...]."""

    def __init__(self, what: str, places: Sequence[Place] = (), outcome: str = "") -> None:
        self.what, self.places, self.outcome = what, tuple(places), outcome
        self.seconds = 0.0
        self.bytes: Optional[int] = None
        self.checksum = self.note = ""
        self.error: List[str] = []

    def text(self, called: Callable[[Place], str]) -> str:
        """A line, with its places as `called` has them, and more of one that failed."""
        where = " -> ".join(called(place) for place in self.places)
        figures = [
            self.note,
            "disks %s" % self.checksum if self.checksum else "",
            output.size(self.bytes) if self.bytes is not None else "",
            "%.1f s" % self.seconds,
        ]
        line = "%-12s %s%s (%s)" % (
            self.outcome,
            self.what,
            ": " + where if where else "",
            ", ".join(figure for figure in figures if figure),
        )
        return "\n".join([line] + ["             %s" % detail for detail in self.error])


class Aliases(NamedTuple):
    """How things are called in the report. `of`: "pool NAME", a host's ref or an SR's UUID -> its
    name there; `hidden`: what is not told, None: everything is."""

    of: Dict[str, str]
    hidden: "Optional[re.Pattern[str]]"

    def place(self, one: Place) -> str:
        """A place."""
        return self.of.get(one.sr, "an SR")

    def scrubbed(self, text: str) -> str:
        """A text of an error."""
        return ADDRESS.sub("(address)", self.hidden.sub("(name)", text)) if self.hidden else text


def aliases(pools: Iterable[Pool], names: bool) -> Aliases:
    """Of these pools. `names`: nothing is hidden."""
    found: Dict[str, str] = {}
    hidden: Set[str] = set()
    for number, pool in enumerate(pools, 1):
        view = pool.records(anew=True)
        found["pool " + pool.name] = pool.name if names else "pool %d" % number
        for class_name, called in (("host", "host"), ("SR", "SR")):
            records = sorted(view.all(class_name).items(), key=lambda one: one[1]["uuid"])
            for index, (ref, record) in enumerate(records, 1):
                alias = record["name_label"] if names else "%s %d.%d" % (called, number, index)
                found[ref if class_name == "host" else record["uuid"]] = alias
        hidden.update((pool.name, pool.address))
        for class_name, fields in NAMED.items():
            for record in view.all(class_name).values():
                hidden.update(record.get(field, "") for field in fields)
    words = sorted((word for word in hidden if word), key=len, reverse=True)
    pattern = r"(?<!\w)(?:%s)(?!\w)" % "|".join(re.escape(word) for word in words)
    return Aliases(found, None if names or not words else re.compile(pattern))


def document(
    selftest: str,
    pools: Sequence[Pool],
    results: Sequence[Result],
    skipped: Dict[str, str],
    held: bool,
    names: bool,
) -> Dict[str, Any]:
    """The report, for JSON."""
    known = aliases(pools, names)
    used = {place.sr for result in results for place in result.places}
    return {
        "selftest": selftest,
        "held": held,
        "sxm": storage_motion.__version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "pools": [_pool(pool, known, used) for pool in pools],
        "steps": [
            {
                "what": result.what,
                "places": [known.place(place) for place in result.places],
                "outcome": result.outcome,
                "seconds": result.seconds,
                "bytes": result.bytes,
                "disks": result.checksum or None,
                "note": result.note or None,
                "error": [known.scrubbed(detail) for detail in result.error] or None,
            }
            for result in results
        ],
        "left out": skipped,
    }


def _pool(pool: Pool, known: Aliases, used: Iterable[str]) -> Dict[str, Any]:
    view = pool.records()
    plugged = [pbd for pbd in view.all("PBD").values() if pbd["currently_attached"]]
    return {
        "name": known.of["pool " + pool.name],
        "hosts": [
            dict(
                {
                    name: value
                    for name, value in host.get("software_version", {}).items()
                    if name in SOFTWARE
                },
                name=known.of[ref],
                storage_xenmotion=_installed(pool, ref),
            )
            for ref, host in sorted(view.all("host").items(), key=lambda one: known.of[one[0]])
        ],
        "srs": [
            {
                "name": known.of[sr["uuid"]],
                "type": sr["type"],
                "shared": sr["shared"],
                "hosts": len([pbd for pbd in plugged if pbd["SR"] == ref]),
            }
            for ref, sr in sorted(view.all("SR").items(), key=lambda one: known.of[one[1]["uuid"]])
            if sr["uuid"] in used
        ],
    }


def _installed(pool: Pool, host: str) -> Dict[str, Any]:
    try:
        answer = pool.plugin_on(host, "installed")
    except XenAPI.Failure as failure:
        return {"error": str(failure.details[0])}
    return {name: answer.get(name) for name in PLUGIN}


def text(report: Dict[str, Any]) -> str:
    """The same for a person."""
    lines = [
        "Selftest %(selftest)s of sxm %(sxm)s, %(written)s" % report,
        "Every step held." if report["held"] else "NOT EVERY STEP HELD.",
    ]
    for pool in report["pools"]:
        lines += ["", pool["name"]]
        for host in pool["hosts"]:
            lines.append("  %s: %s" % (host["name"], _words(host, SOFTWARE)))
            lines.append("    storage-xenmotion: %s" % _words(host["storage_xenmotion"]))
        for sr in pool["srs"]:
            kind = sr["type"] + (", shared" if sr["shared"] else "")
            lines.append("  %s: %s, on %d host(s)" % (sr["name"], kind, sr["hosts"]))
    lines.append("")
    for step in report["steps"]:
        result = Result(step["what"], (), step["outcome"])
        result.seconds, result.bytes = step["seconds"], step["bytes"]
        result.checksum, result.note = step["disks"] or "", step["note"] or ""
        result.error = step["error"] or []
        if step["places"]:
            result.what += ": " + " -> ".join(step["places"])
        lines.append(result.text(lambda place: ""))
    lines += ["left out     %s: %s" % one for one in sorted(report["left out"].items())]
    return "\n".join(lines) + "\n"


def _words(found: Dict[str, Any], names: Optional[Sequence[str]] = None) -> str:
    """Names and values in a line, in the order of `names`."""
    return ", ".join(
        "%s %s" % (name.replace("_", " "), found[name])
        for name in names or sorted(found)
        if name in found
    )


def require_folder(path: str) -> None:
    """Raises NotUnderstood, unless PATH.txt and PATH.json may be written: before the hour that it
    takes to have what is to stand there."""
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK | os.X_OK) or path.endswith("/"):
        raise NotUnderstood("--report: %s: in no folder where you may write" % path)


def write(path: str, report: Dict[str, Any]) -> List[str]:
    """Write both to PATH.txt and PATH.json: their paths. Raises OSError."""
    content = {".txt": text(report), ".json": json.dumps(report, indent=2, sort_keys=True) + "\n"}
    for suffix, written in content.items():
        with open(path + suffix, "w", encoding="utf-8") as file:
            file.write(written)
    return [path + suffix for suffix in content]
