# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm show`."""

import time
from typing import Annotated, Any, Dict, List, Tuple

import typer

from storage_motion.cli import logs, output, quantities, vm_now
from storage_motion.cli.arguments import Migration, RemotePasswordFile, require_beside, which
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.output import Output


@command
def show(
    run: Invocation,
    migration: Migration,
    log: Annotated[
        bool, typer.Option("--log", help="With what the logs of both hosts have of it.")
    ] = False,
    remote_password_file: RemotePasswordFile = None,
) -> None:
    """Show a migration: how far it is, or how it ended.

    \b
      sxm -s paris show web
      sxm -s paris show web --log
    """
    require_beside("--remote-password-file", remote_password_file, ("--log", log))
    answer = run.pool.plugin("status", **which(migration))
    lines = logs.of(run, answer, remote_password_file) if log else None
    if run.out.json:
        run.out.document(answer if lines is None else dict(answer, log=lines))
    _show(run.out, answer, run.pool.name)
    if lines is not None:
        run.out.line()
        run.out.line("Log", "bold")
        for line in lines:
            _tell(run.out, line, answer["migration"])


def _tell(out: Output, line: Dict[str, str], migration: str) -> None:
    first, *more = line["text"].split("\n")
    own = first[len(migration) + 2 :] if first.startswith(migration + ": ") else first
    out.paragraph("%s %s" % ("%(time)s %(host)s %(by)s %(level)s" % line, own), hanging=4)
    for text in more:
        out.line("    " + text)


def _show(out: Output, answer: Dict[str, Any], pool: str) -> None:
    seconds = answer["updated"] - answer["started"]
    pairs: List[Tuple[str, str]] = [
        ("Migration", answer["migration"]),
        ("VM", "%s (%s)" % (answer["vm_name"], answer["vm"])),
        ("from, to", "%s, %s" % (answer["source_host"], answer["destination_host"])),
        ("State", answer["state"]),
        ("Phase", "%s (%s)" % (answer["doing"], answer["phase"]) if answer["phase"] else ""),
        (
            "Moved",
            "%s of %s" % (output.size(answer["bytes_moved"]), output.size(answer["bytes_to_move"])),
        ),
        ("Begun", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(answer["started"]))),
        ("Took", output.duration(seconds)),
    ]
    if answer["downtime"] is not None:
        pairs.append(("Pause", quantities.pause(answer["downtime"])))
    if answer.get("broken"):
        pairs.append(("Broken", str(answer["broken"])))
    if answer["copy"] and answer["new_vm"]:
        pairs.append(("Copy", "VM %s" % answer["new_vm"]))
    if answer["error"]:
        pairs.append(("Error", ": ".join(answer["error"])))
    if answer.get("vm_now"):  # a plugin of before has none
        pairs.append(("VM now", vm_now.told(answer, pool)))
    out.pairs(pairs)
    out.line()
    out.table(
        ("Disk", "State", "Copied", "Mirrored"),
        [
            (
                "%s %s" % (disk["device"], disk["name"]),
                disk["state"],
                output.size(disk["copied"]),
                output.size(disk["mirrored_bytes"]),
            )
            for disk in answer["disks"]
        ],
        right=("Copied", "Mirrored"),
    )
    for title in ("notes", "warnings", "left"):
        out.sentences(title.capitalize(), answer.get(title, []))  # a plugin of before has no notes
