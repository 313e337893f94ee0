# SPDX-License-Identifier: LGPL-2.1-only
"""The plan of an evacuation, for a person."""

import collections
from typing import Any, Callable, Dict, Optional

from storage_motion.cli import estimates
from storage_motion.cli.evacuation import codes, selection as selections
from storage_motion.cli.evacuation.duration import Estimate
from storage_motion.cli.evacuation.parts import Left, count
from storage_motion.cli.evacuation.rehearsal import Rehearsal, Rehearsed, to_json
from storage_motion.cli.evacuation.selection import What
from storage_motion.cli.output import Output, duration, size

NOTHING = {
    selections.SR: "no VM has a disk in SR %s",
    selections.HOST: "no VM runs on host %s, and none that is halted has a disk that only it sees",
    selections.POOL: "the pool has no VM",
    selections.TAG: "no VM has the tag %s",
    selections.VMS: "no VM was named",
}
"""Why nothing moves where nothing was found, by what was asked for."""


def show(
    rehearsal: Rehearsal,
    out: Output,
    what: What,
    title: str,
    sr_name: Callable[[str], str],
    estimate: Optional[Estimate] = None,
) -> None:
    """Tell all of it: what would move, in which order, and everything that is wrong. `what`,
    `title`: what was asked for; `sr_name`: of an SR of the destination, by its UUID; `estimate`: of
    all that moves."""
    if rehearsal.rehearsed:
        _moves(rehearsal, out, sr_name)
        if estimate and rehearsal.moves:
            _time(out, estimate)
        for one in rehearsal.rehearsed:
            _vm(one, out)
    else:
        out.line(_nothing(rehearsal, what, title))
    for left in rehearsal.left:
        show_left(left, out)
    for one in rehearsal.rehearsed:
        if one.error:
            verdict = "refused" if one.wrong else "waits"
            out.line("%s: VM %s: %s" % (verdict, one.planned.name, one.error[0]))
            for detail in one.error[1:]:
                out.line("    %s" % detail)
            out.line("    do: %s" % codes.of(one.error).do)
    for sentence in rehearsal.short:
        out.line("no room: %s" % sentence)


def _nothing(rehearsal: Rehearsal, what: What, title: str) -> str:
    if any(left.stays for left in rehearsal.left):
        return "nothing can be moved by this command; what stays behind, and what to do about it:"
    if rehearsal.left:
        return "nothing is left to move; what was found stays where it is, each for its reason:"
    why = NOTHING[what.kind]
    return "nothing is left to move: %s" % (why % title if "%" in why else why)


def _moves(rehearsal: Rehearsal, out: Output, sr_name: Callable[[str], str]) -> None:
    totals = to_json(rehearsal)["totals"]
    out.table(
        ("#", "VM", "Disks", "Size", "Data", "To SR", "Verdict"),
        [
            (
                str(number),
                one.planned.name,
                str(len(one.planned.disks)),
                size(one.planned.size),
                size(one.planned.data),
                ", ".join(sorted({sr_name(disk.destination_sr) for disk in one.planned.disks})),
                "refused" if one.wrong else "waits" if one.error else "moves",
            )
            for number, one in enumerate(rehearsal.rehearsed, 1)
        ],
        right=("#", "Disks", "Size", "Data"),
    )
    out.line()
    out.line(
        "%s of %s would move, %s, of which %s hold data"
        % (
            count(totals["disks"], "disk"),
            count(totals["vms"], "VM"),
            size(totals["bytes"]),
            size(totals["data"]),
        )
    )
    out.line("data: %s" % estimates.SCANNED)
    for sentence in rehearsal.unscanned:
        out.line("warning: %s" % sentence)
    for room in rehearsal.room:
        out.line(
            "SR %s: %s free, %s needed, %s left"
            % (room["name"], size(room["free"]), size(room["needed"]), size(room["left"]))
        )
    for note in rehearsal.notes:
        out.line("note: %s" % note)


def _time(out: Output, estimate: Estimate) -> None:
    seconds = estimate.seconds
    out.paragraph("to send: %s; what guests write comes on top" % size(estimate.bytes), hanging=4)
    known = "about %s" % duration(seconds) if seconds is not None else ""
    out.paragraph(
        "time: %s (%s)" % (known, estimate.basis) if known else "time: %s" % estimate.basis,
        hanging=4,
    )


def _vm(one: Rehearsed, out: Output) -> None:
    name = one.planned.name
    if one.disks:
        out.paragraph("VM %s: %s" % (name, _as_what(one)), hanging=4)
    if one.snapshots:
        out.line("VM %s: %s of snapshots come along" % (name, count(one.snapshots, "disk")))
    for warning in one.warnings:
        out.line("VM %s: warning: %s" % (name, warning))


def _as_what(one: Rehearsed) -> str:
    """What its disks are and will be, and the networks of its interfaces."""
    kinds = collections.Counter(
        "%s to %s" % (_kind(disk["sr"], disk["format"]), _goal(disk)) for disk in one.disks
    )
    told = ["%s from %s" % (count(number, "disk"), kind) for kind, number in kinds.items()]
    networks = dict.fromkeys(_networks(vif) for vif in one.vifs)
    return "; ".join(told + (["network %s" % ", ".join(networks)] if networks else []))


def _goal(disk: Dict[str, Any]) -> str:
    there = disk["destination"]
    return _kind(there, there["format"]) if there else "?"


def _kind(sr: Dict[str, Any], image_format: str) -> str:
    return "%s (%s)" % (image_format or "format unknown", sr["allocation"])


def _networks(vif: Dict[str, Any]) -> str:
    there = vif["destination"]
    return "%s to %s" % (vif["network"], there["name"] if there else "?")


def show_left(left: Left, out: Output) -> None:
    """What is not moved, why, and what to do about it."""
    out.line("not moved: %s %s (%s): %s" % (left.kind, left.name or "-", left.uuid, left.reason))
    out.line("    do: %s" % left.todo)
