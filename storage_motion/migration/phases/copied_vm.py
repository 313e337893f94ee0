# SPDX-License-Identifier: LGPL-2.1-only
"""What is different where a halted VM is copied to another pool (`copy=true`), and not moved: the
VM stays as it is, and is its owner's again at the end.

Its disks are kept closed from their copies on (migration/unplugged_disks.py), so that all of them
are of one moment, and whoever has the VM started nevertheless, as with an older database of xapi's,
breaks the copy and not the guest. Nothing is handed over: no other host of the pool notes anything,
and no hook refuses the VM. HA protects it as before."""

from typing import TYPE_CHECKING

from storage_motion.dom0.launch import Process
from storage_motion.migration import durable, known_at_destination, unplugged_disks
from storage_motion.migration.phases import arrived_vm, blocking, cd_drives, claim, release, remap
from storage_motion.plan import changes, installed
from storage_motion.switch import whereabouts
from storage_motion.xapi import receiving_host

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration


def open_disks(m: "Migration") -> None:
    """Open the gates of the new disks. Raises MirrorBroken for one whose original may have been
    written to since, which is then compared with it anew."""
    changes.require_none(m)
    installed.require_again(m)
    claim.put_back(m)
    unplugged_disks.hand_over(m)


def end(m: "Migration") -> None:
    """Let both VMs be used as any others: the copy, and, when it is on disk that this is there,
    the original."""
    known_at_destination.keep(m, lambda: known_at_destination.take_halted(m))
    for disk in m.plan.disks:
        m.mover(disk.key).end(Process.from_json(m.disk(disk.key).get("mover")), "exit")
    durable.keep(
        (m.destination,),
        lambda: _end_there(m),
        lambda: known_at_destination.marked(m),
        "the end of copy %s" % m.id,
    )
    if m.receiving_host:
        receiving_host.leave(m.destination, m.receiving_host)
        m.receiving_host = None
    for disk in m.plan.disks:
        unplugged_disks.let_go(m, disk)
    release.release(m)
    cd_drives.insert_namesakes(m)


def _end_there(m: "Migration") -> None:
    whereabouts.open_again(m)  # a gate that an older database has shut would stay so for ever
    m.plugin("receive-end")
    for disk in m.plan.disks:  # which an older database has brought back since
        blocking.unmark_vdi(m.destination, m.disk(disk.key)["destination_vdi"], m.id)
    m.note(receiving=False)
    vm = remap.destination_vm(m)
    claim.unblock_arrived(m, vm)
    arrived_vm.unmark(m, vm)
