# SPDX-License-Identifier: LGPL-2.1-only
"""What is different where a halted VM is copied to another pool (`copy=true`), and not moved: the
VM stays as it is, and is its owner's again at the end.

Its disks are kept closed from their copies on (migration/unplugged_disks.py), so that all of them
are of one moment, and whoever has the VM started nevertheless, as with an older database of xapi's,
breaks the copy and not the guest. Nothing is handed over: no other host of the pool notes anything,
and no hook refuses the VM. HA protects it as before."""

from typing import TYPE_CHECKING, List

from storage_motion.dom0.launch import Process
from storage_motion.migration import durable, known_at_destination, unplugged_disks
from storage_motion.migration.phases import arrived_vm, blocking, cd_drives, claim, release
from storage_motion.plan import changes, installed
from storage_motion.switch import whereabouts
from storage_motion.xapi import receiving_host
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

KNOWN_THERE = "known_there"  # a field of the journal: the copy is on disk there, as a whole


def open_disks(m: "Migration") -> None:
    """Open the gates of the new disks. Raises MirrorBroken for one whose original may have been
    written to since, which is then compared with it anew."""
    changes.require_none(m)
    installed.require_again(m)
    claim.put_back(m)
    unplugged_disks.hand_over(m)


def keep(m: "Migration") -> None:
    """See that the copy is on disk there, as a whole, and end the movers. Nobody can use the copy
    yet. Once that is noted it is not looked at again: it belongs to its user from then on, who may
    start it elsewhere, change it, or destroy it. Raises NotDurable."""
    if m.entry.get(KNOWN_THERE):
        return
    known_at_destination.keep(m, lambda: known_at_destination.take_halted(m))
    for disk in m.plan.disks:
        m.mover(disk.key).end(Process.from_json(m.disk(disk.key).get("mover")), "exit")
    m.note(None, **{KNOWN_THERE: True})


def end_there(m: "Migration") -> None:
    """Let the copy be used as any other VM, as far as it is there still. Raises NotDurable."""
    durable.keep(
        (m.destination,), lambda: _end_there(m), lambda: _owed_there(m), "the end of copy %s" % m.id
    )
    if m.receiving_host:
        receiving_host.leave(m.destination, m.receiving_host)
        m.receiving_host = None
    cd_drives.insert_namesakes(m)


def let_go(m: "Migration") -> None:
    """Let the original be used as before, whatever has become of the copy. Of the source alone.
    Raises NotDurable."""
    m.note(None, **{claim.RELEASING: True})  # first: from here on a recovery must not lock it anew
    if Records(m.source).ref("VM", m.plan.vm) is None:
        return  # its user has destroyed it, which is refused until it is let go
    for disk in m.plan.disks:
        if Records(m.source).ref("VDI", disk.key):
            unplugged_disks.let_go(m, disk)
    release.release(m)


def _end_there(m: "Migration") -> None:
    if _is_kept(m):  # a gate that an older database has shut would stay so for ever
        whereabouts.open_again(m)
    m.plugin("receive-end")
    for disk in m.plan.disks:  # which an older database has brought back since
        blocking.unmark_vdi(m.destination, m.disk(disk.key)["destination_vdi"], m.id)
    m.note(receiving=False)
    vm = arrived_vm.find(m)
    if vm:
        # unmarked while nobody can snapshot or clone it, which would have the mark as well
        arrived_vm.unmark(m, vm)
        claim.unblock_arrived(m, vm)


def _owed_there(m: "Migration") -> List[str]:
    return known_at_destination.marked(m) if _is_kept(m) else []


def _is_kept(m: "Migration") -> bool:
    """Whether the copy is not its user's yet. Afterwards its disks may be anything, such as what
    another migration fills; a database that has gone back has that it is kept, too."""
    vm = arrived_vm.find(m)
    if not vm:
        return False
    blocked = m.destination.xenapi.VM.get_blocked_operations(vm)
    return bool(arrived_vm.marked(m, vm)) or blocking.reason(m.id) in blocked.values()
