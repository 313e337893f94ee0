# SPDX-License-Identifier: LGPL-2.1-only
"""The VM in the pool that it comes to: which one it is there.

A VM that is moved keeps its UUID. One that is copied gets a new one from xapi's importer, whose
answer may be lost with a worker that is killed. So the document that describes a copy has our mark
in it, by which the copy is known from the moment in which it is there; its UUID is in the journal
(`new_vm`) as soon as that is known."""

from typing import TYPE_CHECKING, List, Optional

from storage_motion.plan.checks import CLAIM
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

NEW_VM = "new_vm"  # a field of the journal: the UUID of a copy


def find(m: "Migration") -> Optional[str]:
    """The ref of the VM at the destination, or None."""
    return next(iter(find_all(m)), None)


def find_all(m: "Migration") -> List[str]:
    """The refs of all VMs there that are what is brought there: one, or none; of a copy also those
    that an import has left, which did not come to its end."""
    if not m.plan.copy:
        known: Optional[str] = m.plan.vm
    else:
        known = m.entry.get(NEW_VM)
    vm = Records(m.destination).ref("VM", known) if known else None
    if vm or not m.plan.copy or not m.entry.get("imported") or m.lost:
        return [vm] if vm else []
    found = m.destination.xenapi.VM.get_all_records()
    return sorted(ref for ref, record in found.items() if record["other_config"].get(CLAIM) == m.id)


def note(m: "Migration", vm: str) -> None:
    """Note which one it is (a ref)."""
    if m.plan.copy:
        m.note(**{NEW_VM: m.destination.xenapi.VM.get_uuid(vm)})


def forget(m: "Migration") -> None:
    """Note that nothing of it is there any more."""
    m.note(imported=False, **({NEW_VM: ""} if m.plan.copy else {}))


def unmark(m: "Migration", vm: str) -> None:
    """Take the mark off a copy (a ref)."""
    if marked(m, vm):
        m.destination.xenapi.VM.remove_from_other_config(vm, CLAIM)


def marked(m: "Migration", vm: str) -> List[str]:
    """Whether a copy (a ref) has the mark: a list, in words."""
    if not m.plan.copy:
        return []  # a VM that has arrived has none, or that of a later migration
    config = m.destination.xenapi.VM.get_other_config(vm)
    return ["the copy is claimed"] if config.get(CLAIM) == m.id else []
