# SPDX-License-Identifier: LGPL-2.1-only
"""What in a pool carries the marks of selftests."""

import secrets
from typing import Any, Dict, List, NamedTuple, Tuple

from storage_motion.api.selftest_marks import ID, MADE, MADE_VM, TESTED, is_original
from storage_motion.cli.pools import Pool

Marked = Tuple[str, Dict[str, Any]]


class Left(NamedTuple):
    """What carries marks of selftests in a pool, as (ref, record). `vms`: to be destroyed, `disks`:
    theirs; `named`: VMs that are their users', with a mark only; `unsure`: disks that no VM has,
    and that may be copies, which are their users'."""

    vms: List[Marked]
    disks: List[Marked]
    named: List[Marked]
    unsure: List[Marked]


def new_id() -> str:
    """The id of a new selftest."""
    return secrets.token_hex(4)


def is_made(vm: Dict[str, Any]) -> bool:
    """Whether a record is of a VM that a selftest made. One whose making was interrupted has no
    MADE_VM, and no disks."""
    marks = vm["other_config"]
    if vm["is_a_snapshot"] or vm["is_a_template"] or vm["is_control_domain"]:
        return False
    if not ID.match(marks.get(MADE, "")):
        return False
    return marks.get(MADE_VM) == vm["uuid"] or (MADE_VM not in marks and not vm["VBDs"])


def left(pool: Pool) -> Left:
    """What is there just now."""
    vms = pool.xenapi.VM.get_all_records()
    made = {ref: vm for ref, vm in vms.items() if is_made(vm)}
    named = [
        (ref, vm)
        for ref, vm in sorted(vms.items())
        if ref not in made
        and TESTED in vm["other_config"]
        and MADE not in vm["other_config"]
        and not vm["is_a_snapshot"]
    ]
    owners = {ref: vbd["VM"] for ref, vbd in pool.xenapi.VBD.get_all_records().items()}
    of_made = {vm["other_config"][MADE] for vm in made.values()}
    disks, unsure = [], []
    for ref, vdi in sorted(pool.xenapi.VDI.get_all_records().items()):
        mark = vdi["other_config"].get(MADE, "")
        if not ID.match(mark):
            continue
        if vdi["VBDs"]:
            if all(owners.get(vbd) in made for vbd in vdi["VBDs"]):
                disks.append((ref, vdi))
        elif mark in of_made and is_original(vdi):
            disks.append((ref, vdi))
        else:
            unsure.append((ref, vdi))
    return Left(sorted(made.items()), disks, named, unsure)
