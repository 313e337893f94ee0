# SPDX-License-Identifier: LGPL-2.1-only
"""What in a pool carries the marks of selftests."""

import secrets
from typing import Any, Dict, List, NamedTuple, Tuple

from storage_motion.api.selftest_marks import ID, MADE, MADE_VM, TESTED
from storage_motion.cli.pools import Pool

NAME = "sxm selftest %s"


class Left(NamedTuple):
    """What carries marks of selftests in a pool, as (ref, record). `vms`: to be destroyed, `disks`:
    theirs, and those that no VM has; `named`: VMs that are their users', with a mark only."""

    vms: List[Tuple[str, Dict[str, Any]]]
    disks: List[Tuple[str, Dict[str, Any]]]
    named: List[Tuple[str, Dict[str, Any]]]

    @property
    def nothing(self) -> bool:
        """Whether there is nothing."""
        return not (self.vms or self.disks or self.named)


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
    disks = [
        (ref, vdi)
        for ref, vdi in sorted(pool.xenapi.VDI.get_all_records().items())
        if ID.match(vdi["other_config"].get(MADE, ""))
        and all(owners.get(vbd) in made for vbd in vdi["VBDs"])
    ]
    return Left(sorted(made.items()), disks, named)
