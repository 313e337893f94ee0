# SPDX-License-Identifier: LGPL-2.1-only
"""A plan: everything that would happen and everything that is wrong, at once."""

from typing import Any, Dict, List, Optional

from storage_motion.cli import estimates, exit_codes, output
from storage_motion.cli.output import Output
from storage_motion.cli.pools import Pool

VERDICTS = {
    "ok": "xapi would do it: both pools were asked",
    "refused": "xapi would refuse it",
    "not asked": "not asked, as something is wrong before that",
}


def ask(pool: Pool, given: Dict[str, str]) -> Dict[str, Any]:
    """What the plugin answers to a dry run with these arguments of `migrate`, with "estimates"
    (None without a plan). Raises XenAPI.Failure."""
    answer = pool.plugin("migrate", **dict(given, **{"dry-run": "true", "problems": "answer"}))
    found = estimates.of(pool, answer) if answer["plan"] else None
    return dict(answer, estimates=found)


def status(answer: Dict[str, Any]) -> int:
    """What `sxm` ends with."""
    return exit_codes.REFUSED if wrong(answer) else exit_codes.DONE


def wrong(answer: Dict[str, Any]) -> List[str]:
    """All that is wrong, a sentence each."""
    refused = answer["refused"]
    return answer["problems"] + ([": ".join(refused[1:])] if refused else [])


def show(out: Output, answer: Dict[str, Any]) -> None:
    """For a person."""
    plan, vm = answer["plan"], answer["vm"]
    if vm:
        _head(out, vm, plan)
    if answer["disks"]:
        out.line()
        out.line("Disks", "bold")
        for disk in answer["disks"]:
            _disk(out, disk)
        if not (answer["estimates"] or answer.get("scanned", True)):
            out.paragraph("data: %s" % estimates.NOT_SCANNED, 2)
    if plan and plan["history"]:
        out.paragraph(
            "and %d disks of %d snapshots"
            % (len(plan["history"]), len([one for one in plan["snapshots"] if one["kept"]])),
            2,
        )
    if answer["vifs"]:
        out.line()
        out.line("Interfaces", "bold")
        out.table(
            ("", "MAC", "Network", "goes to"),
            [
                (
                    vif["device"],
                    vif["mac"],
                    vif["network"],
                    vif["destination"]["name"] if vif["destination"] else "?",
                )
                for vif in answer["vifs"]
            ],
        )
    if answer["room"]:
        _room(out, answer["room"])
    out.line()
    out.line("Verdict", "bold")
    out.paragraph(VERDICTS[answer["verdict"]], 2)
    if answer["estimates"]:
        _estimates(out, answer["estimates"])
    if plan:
        out.sentences("Notes", plan.get("notes", []))  # a plugin of before has none
        out.sentences("Warnings", plan["warnings"])
    problems = wrong(answer)
    out.line()
    if problems:
        out.line("Wrong (%d): nothing has been changed" % len(problems), "bold")
        for problem in problems:
            out.paragraph("- %s" % problem, 2, hanging=2)
    else:
        out.line("Nothing is wrong. Nothing has been changed.", "bold")


def _head(out: Output, vm: Dict[str, Any], plan: Optional[Dict[str, Any]]) -> None:
    pairs = [("VM", "%s (%s), %s" % (vm["name"], vm["uuid"], vm["power_state"]))]
    if vm["host"]:
        pairs.append(("from host", vm["host"]))
    if plan:
        stays = plan["source_host"] == plan["destination_host"]
        where = "%s%s" % (
            plan["destination_host_name"],
            " of the pool at %s" % plan["master"] if plan["master"] else "",
        )
        pairs.append(("to host", "stays on %s" % where if stays else where))
        pairs.append(("data to", "%s" % plan["address"]))
        pairs.append(("how", "copied: the VM stays as it is" if plan["copy"] else _how(plan)))
    out.pairs(pairs)


def _how(plan: Dict[str, Any]) -> str:
    if plan["live"]:
        return "live: the VM runs all the time but for a moment"
    return "the VM does not run, and is not started"


def _disk(out: Output, disk: Dict[str, Any]) -> None:
    there = disk["destination"]
    out.paragraph("%s  %s" % (disk["device"], disk["name"] or "(no name)"), 2)
    figures = "%s, %s of data" % (output.size(disk["size"]), output.size(disk["data"]))
    snapshots = disk["snapshots"]
    pairs = [
        ("size", figures + (", %d snapshots" % snapshots if snapshots else "")),
        ("is in", _place(disk["sr"], disk["format"])),
    ]
    if there:
        pairs.append(("goes to", _place(there, there["format"])))
        if there["fills"]:
            pairs.append(("fills", "VDI %s" % there["fills"]))
        if there["clone_of"]:
            pairs.append(("clone of", "VDI %s, which is there" % there["clone_of"]))
    elif disk["moves"] is not None:
        pairs.append(("goes to", "stays where it is"))
    out.pairs(pairs, indent=6)


def _place(sr: Dict[str, Any], kind: str) -> str:
    words = (sr["name"], sr["type"], kind or "format unknown", sr["allocation"])
    return "SR %s (%s), %s, %s" % words


def _room(out: Output, rooms: List[Dict[str, Any]]) -> None:
    out.line()
    out.line("Room", "bold")
    out.table(
        ("SR", "", "free now", "needed", "free after"),
        [
            (
                one["name"],
                "destination" if one["destination"] else "source",
                output.size(one["free"]),
                output.size(one["needed"]),
                output.size(one["free_after"]) if one["destination"] else "",
            )
            for one in rooms
        ],
        right=("free now", "needed", "free after"),
    )


def _estimates(out: Output, found: Dict[str, Any]) -> None:
    seconds = found["seconds"]
    out.line()
    out.line("Estimates", "bold")
    out.pairs(
        [
            ("to send", "%s (%s)" % (output.size(found["bytes"]), found["bytes_basis"])),
            (
                "time",
                "about %s (%s)" % (output.duration(seconds), found["seconds_basis"])
                if seconds is not None
                else found["seconds_basis"],
            ),
        ],
        indent=2,
    )
