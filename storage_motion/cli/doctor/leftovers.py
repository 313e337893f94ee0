# SPDX-License-Identifier: LGPL-2.1-only
"""Checks for what earlier migrations have left: journals without an end, and marks of migrations
that nobody drives."""

from typing import Any, Dict, Iterator, List, Set, Tuple

from storage_motion.api import left_marks
from storage_motion.cli.doctor.findings import OK, PROBLEM, WARNING, Finding
from storage_motion.cli.doctor.looking import Seen

SOURCE = "source"
RUNNING = "running"


def _journals(pools: List[Seen]) -> Iterator[Tuple[Seen, str, Dict[str, Any]]]:
    for seen in pools:
        for ref, facts in sorted(seen.facts.items()):
            for one in facts["journals"]:
                yield seen, ref, one


def _driven(pools: List[Seen]) -> Set[str]:
    """The migrations that go on: their worker lives, or at the destination a receiver."""
    return {one["migration"] for _, _, one in _journals(pools) if one["alive"]}


def journals(pools: List[Seen]) -> Iterator[Finding]:
    """Migrations that have not come to their end."""
    driven = _driven(pools)
    at_source = {one["migration"] for _, _, one in _journals(pools) if one["side"] == SOURCE}
    for seen, ref, one in _journals(pools):
        found, where = one["migration"], seen.where("host", ref)
        recover = "sxm -s %s recover %s" % (seen.name, found)
        if one["side"] == SOURCE and one["alive"]:
            yield Finding(OK, "migration %s of VM %s goes on" % (found, one["vm_name"]), where)
        elif one["side"] == SOURCE and one["state"] == RUNNING:
            yield Finding(
                PROBLEM,
                "migration %s of VM %s has not ended, and nobody drives it"
                % (found, one["vm_name"]),
                where,
                recover,
            )
        elif one["side"] == SOURCE:
            yield Finding(
                PROBLEM,
                "migration %s of VM %s has left: %s"
                % (found, one["vm_name"], "; ".join(one["left"])),
                where,
                "put that right, then %s" % recover,
            )
        elif found not in driven and found not in at_source:
            yield Finding(
                WARNING if len(pools) == 1 else PROBLEM,
                "it has begun to receive a VM of migration %s, whose source is not among the "
                "hosts that were asked" % found,
                where,
                "sxm doctor with --to-pool and both pools; if its source never comes back: "
                "docs/operations.md, The source is lost",
            )
    for seen in pools:
        for ref, facts in sorted(seen.facts.items()):
            for failure in facts["unreadable"]:
                yield Finding(
                    PROBLEM,
                    "a journal cannot be trusted: %s" % ": ".join(failure),
                    seen.where("host", ref),
                    "docs/operations.md, SXM_JOURNAL",
                )


def read(pools: List[Seen]) -> Iterator[Finding]:
    """Disks that a host has open to be read, and no migration: by a selftest, which may have been
    killed. SM's tag keeps a VM from starting with one."""
    for seen in pools:
        for ref, facts in sorted(seen.facts.items()):
            for uuid in facts.get("read", []):
                vdi = seen.view.ref("VDI", uuid)
                yield Finding(
                    WARNING,
                    "%s is open on it to be read, and no migration reads it: no VM starts with it"
                    % (seen.where("VDI", vdi) if vdi else "VDI %s" % uuid),
                    seen.where("host", ref),
                    "if no selftest runs: sxm -s %s selftest --clean; docs/operations.md, A disk "
                    "that is open to be read" % seen.name,
                )


def marks(pools: List[Seen]) -> Iterator[Finding]:
    """VMs and VDIs that are claimed by a migration that nobody drives."""
    driven = _driven(pools)
    known = {one["migration"] for _, _, one in _journals(pools)}
    for seen in pools:
        for ref, vm in sorted(seen.view.all("VM").items()):
            claim = left_marks.claimed_by(vm)
            if claim and claim not in driven:
                yield _left(seen, "VM", ref, "is claimed by", claim, known)
            for found in left_marks.blocked_by(vm):
                if found not in driven and found != claim:
                    yield _left(seen, "VM", ref, "has operations blocked by", found, known)
        for ref, vdi in sorted(seen.view.all("VDI").items()):
            claim = left_marks.claimed_by(vdi)
            if claim and claim not in driven:
                yield _left(seen, "VDI", ref, "has the mark of", claim, known)
            elif not claim and left_marks.locked_by(vdi):
                yield Finding(
                    PROBLEM,
                    "has a lock of ours in its sm_config, and no migration's mark: SM starts no "
                    "VM with it",
                    seen.where("VDI", ref),
                    "docs/operations.md, A VM does not start",
                )


def _left(
    seen: Seen, class_name: str, ref: str, what: str, migration: str, known: Set[str]
) -> Finding:
    if migration in known:
        remedy = "sxm -s %s recover %s" % (seen.name, migration)
    else:
        remedy = (
            "if it was between pools: sxm doctor with --to-pool; if no host knows it any more: "
            "docs/operations.md, The source is lost"
        )
    return Finding(
        PROBLEM,
        "%s migration %s, which nobody drives" % (what, migration),
        seen.where(class_name, ref),
        remedy,
    )
