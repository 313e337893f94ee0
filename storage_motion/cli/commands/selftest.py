# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm selftest`."""

import sys
from typing import Annotated, Any, Dict, List, Optional

import typer

from storage_motion.cli import exit_codes, names, pools
from storage_motion.cli.arguments import RemotePasswordFile, require_beside
from storage_motion.cli.command import Invocation, command
from storage_motion.cli.failures import Interrupted, NotUnderstood
from storage_motion.cli.pools import Pool
from storage_motion.cli.selftest import cleaning, marks, report, steps, subject
from storage_motion.cli.selftest.subject import MIB, Place

LEAST, USUAL, MOST = 16, 64, 1024  # MiB of the disk that is made


@command
def selftest(
    run: Invocation,
    sr: Annotated[
        Optional[List[str]],
        typer.Option(
            "--sr",
            metavar="SR",
            help="Only this SR of the pool; again for others. The VM begins on the first one.",
        ),
    ] = None,
    to_pool: Annotated[
        Optional[str], typer.Option("--to-pool", metavar="POOL", help="To this pool and back, too.")
    ] = None,
    to_sr: Annotated[
        Optional[List[str]],
        typer.Option("--to-sr", metavar="SR", help="Only this SR of that pool; again for others."),
    ] = None,
    vm: Annotated[
        Optional[str],
        typer.Option(
            "--vm", metavar="VM", help="Move this VM, as it is, in place of one that is made."
        ),
    ] = None,
    size: Annotated[
        Optional[int],
        typer.Option(
            "--size",
            metavar="MIB",
            show_default=str(USUAL),
            help="Of the disk that is made; not with --vm.",
        ),
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="Two SRs and the other pool: out halted, back running.")
    ] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Only take away what earlier selftests have left.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    named: Annotated[
        bool, typer.Option("--names", help="The report has the names of hosts, SRs and pools.")
    ] = False,
    path: Annotated[
        Optional[str],
        typer.Option("--report", metavar="PATH", help="The report is PATH.txt and PATH.json."),
    ] = None,
    remote_password_file: RemotePasswordFile = None,
) -> int:
    """Move a small VM each way that these hosts allow, and tell what held.

    It makes the VM, with a disk whose checksum it knows, moves it halted and running, kills a
    worker, cancels a move, takes away all that it made, and writes a report. Exit status 0: every
    step held.

    \b
      sxm -s paris selftest --sr fast --sr big --to-pool lyon
      sxm -s paris selftest --clean --to-pool lyon
    """
    if to_sr and not to_pool:
        raise NotUnderstood("--to-sr is of the pool of --to-pool, which is missing")
    require_beside("--remote-password-file", remote_password_file, ("--to-pool", to_pool))
    if vm and size is not None:
        raise NotUnderstood(
            "--size is of the disk that is made, and a VM that is named has its own: leave it out"
        )
    size = USUAL if size is None else size
    if not LEAST <= size <= MOST:
        raise NotUnderstood("--size: from %d to %d MiB" % (LEAST, MOST))
    if path:
        report.require_folder(path)
    known = [run.pool]
    if to_pool:
        known.append(run.connect_other(pools.known(to_pool), remote_password_file))
    _require_different(known)
    if clean:
        return _clean(run, known, yes)
    here = _places(known[0], "--sr", sr)
    there = _places(known[1], "--to-sr", to_sr) if to_pool else []
    if not vm:
        _require_a_way(here, there)
    given = [place for place in here if sr] + [place for place in there if to_sr]
    one = steps.Run(
        marks.new_id(),
        run.out,
        {pool.name: pool for pool in known},
        here,
        there,
        given,
        size * MIB,
        short,
    )
    if vm:
        _take(run, one, known[0], vm, yes)
    return _go(run, one, known, path or "sxm-selftest-%s" % one.selftest, named)


def _go(run: Invocation, one: steps.Run, known: List[Pool], path: str, named: bool) -> int:
    interrupted = False
    run.out.line("selftest %s" % one.selftest, "bold")
    try:
        steps.do_all(one)
    except KeyboardInterrupt:
        interrupted = True
        run.out.note("interrupted: what was made is taken away; wait")
        _end(run, one)
    _tell_where(run, one)
    held = not interrupted and bool(one.held) and not any(map(one.is_wrong, one.results))
    found = report.document(one.selftest, known, one.results, one.skipped, held, named)
    written = report.write(path, found)
    if run.out.json:
        run.out.document(found)
    run.out.note("the report: %s" % ", ".join(written))
    if interrupted and run.out.json:
        return exit_codes.INTERRUPTED  # the document is there, and there is one
    if interrupted:
        raise Interrupted("by you; the report tells what was done until then")
    run.out.line("Every step held." if held else "NOT EVERY STEP HELD.", "bold")
    return exit_codes.DONE if held else exit_codes.FAILED


def _end(run: Invocation, one: steps.Run) -> None:
    """After control C: a migration that it began is cancelled, and all taken away. Nobody else can
    have begun one of its VM meanwhile."""
    problems: List[str] = []
    if one.vm:
        for pool in one.pools.values():
            cleaning.end_migrations(pool, (one.vm.uuid,), problems)
    for problem in problems:
        run.out.warning(problem)
    steps.LAST.do(one)


def _tell_where(run: Invocation, one: steps.Run) -> None:
    """A VM that was named, and is not where it was."""
    if one.vm and not one.vm.made:
        for pool in one.pools.values():
            one.vm.pool = pool if one.vm.is_known(pool) else one.vm.pool
        if one.vm.place() != one.here[0]:
            run.out.warning("the VM is in %s now" % one.called(one.vm.place()))


def _clean(run: Invocation, known: List[Pool], yes: bool) -> int:
    told = cleaning.told(known)
    for sentence in told:
        run.out.line(sentence)
    left: List[str] = []
    if told:
        _ask(run, "Do this?", yes)
        left = cleaning.clean(known)
    unsure = cleaning.unsure(known)
    answer: Dict[str, Any] = {"found": told, "left": left, "unsure": unsure}
    if run.out.json:
        run.out.document(answer)
    for sentence in unsure:
        run.out.warning(sentence)
    for sentence in left:
        run.out.warning("left: %s" % sentence)
    nothing = "nothing else is left" if unsure else "nothing is left"
    run.out.line("something is left" if left else nothing)
    return exit_codes.SOME_FAILED if left else exit_codes.DONE


def _take(run: Invocation, one: steps.Run, pool: Pool, text: str, yes: bool) -> None:
    """The VM that was named, after its user has said yes."""
    with names.given_by("--vm", pool):
        found = names.vm(pool, text)
    home = subject.Subject(one.selftest, pool, found.uuid, False).place()
    one.here[:] = [home] + [place for place in one.here if place != home]
    _require_a_way(one.here, one.there)
    run.out.note(
        "VM %s (%s, %s) is moved as it is, with all its disks, to each of %d SRs and back; one "
        "move is cancelled, and the worker of one is killed. It is neither started nor shut down."
        % (found.name, found.uuid, found.record["power_state"], len(one.here) + len(one.there) - 1)
    )
    _ask(run, "Do this with VM %s?" % found.name, yes)
    one.vm = subject.take(one.selftest, pool, found)


def _ask(run: Invocation, question: str, yes: bool) -> None:
    """Raises NotUnderstood where there is nobody to ask, Interrupted for no."""
    if yes:
        return
    if run.out.json or not sys.stdin.isatty():
        raise NotUnderstood("nobody can be asked: give --yes")
    if not typer.confirm(question, err=True):
        raise Interrupted("nothing was done")


def _require_a_way(here: List[Place], there: List[Place]) -> None:
    if len(here) + len(there) < 2:
        raise NotUnderstood("there is one SR only: name another one, or give --to-pool")


def _require_different(known: List[Pool]) -> None:
    uuids = {pool.xenapi.pool.get_uuid(pool.xenapi.pool.get_all()[0]) for pool in known}
    if len(uuids) < len(known):
        raise NotUnderstood("--to-pool: is the pool of --server")


def _places(pool: Pool, option: str, wanted: Optional[List[str]]) -> List[Place]:
    """The SRs that are named, or all for disks that a host sees and that take new ones."""
    if wanted:
        with names.given_by(option, pool):
            found = [names.sr(pool, text) for text in wanted]
    else:
        plugged = {
            pbd["SR"] for pbd in pool.records().all("PBD").values() if pbd["currently_attached"]
        }
        found = [
            one
            for one in names.srs(pool)
            if one.ref in plugged
            and one.record["content_type"] not in ("iso", "tools")
            and one.record["type"] not in ("udev", "iso")
        ]
    return [Place(pool.name, one.uuid) for one in found]
