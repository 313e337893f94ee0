# SPDX-License-Identifier: LGPL-2.1-only
"""A halted VM gets its new disks: with its metadata in another pool, or by new VBDs within the
pool."""

from typing import TYPE_CHECKING

import XenAPI

from storage_motion.migration.phases import receive, remap
from storage_motion.xapi.records import Records

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Disk

# The fields of a VBD that its replacement takes over.
VBD_FIELDS = (
    "VM",
    "userdevice",
    "bootable",
    "mode",
    "type",
    "unpluggable",
    "empty",
    "other_config",
    "qos_algorithm_type",
    "qos_algorithm_params",
)


def adopt(m: "Migration") -> None:
    """Give the VM its new disks."""
    receive.give(m)
    if m.plan.cross_pool:
        remap.bring(m)
        return
    for disk in m.plan.disks:
        replace(m, m.vm(), disk, m.destination_vdi(disk))


def replace_unplugged(m: "Migration") -> None:
    """Within a pool, have a VM that runs on its other new disks have those that it has not plugged,
    too: of them xenopsd knows nothing."""
    for disk in m.plan.disks if not m.plan.cross_pool else ():
        if disk.unplugged:
            replace(m, m.vm(), disk, m.destination_vdi(disk))


def give_back(m: "Migration") -> None:
    """Give it its old ones."""
    if m.plan.cross_pool:
        remap.remove(m)
        return
    for disk in m.plan.disks:
        if m.disk(disk.key).get("vbd"):
            replace(m, m.vm(), disk, m.source_vdi(disk))


def take_back(m: "Migration") -> None:
    """The same for a VM that was to run on its new disks, on its own host: xapi takes the new one
    for each as soon as that is plugged, and keeps it if the move then fails."""
    for disk in m.plan.disks:
        vbd = Records(m.source).ref("VBD", disk.vbd)
        if (
            m.disk(disk.key).get("vbd")
            or vbd
            and m.source.xenapi.VBD.get_VDI(vbd) != m.source_vdi(disk)
        ):
            replace(m, m.vm(), disk, m.source_vdi(disk))


def replace(m: "Migration", vm: str, disk: "Disk", vdi: str) -> None:
    """Have the device of a VM, or of a snapshot of it (refs), be `vdi` (a ref). A VBD's VDI cannot
    be changed, so there is a new VBD; what it is to be like is in the journal before the old one is
    gone."""
    api = m.source.xenapi.VBD
    if is_taken_away(m, disk):
        return
    if not m.disk(disk.key).get("vbd"):
        record = api.get_record(api.get_by_uuid(disk.vbd))
        if disk.vbd in m.entry.get("fastened", []):
            # that it is not is of this migration, whose claim knows the old one only
            record = dict(record, unpluggable=True)
        m.note(disk.key, vbd={field: record[field] for field in VBD_FIELDS})
    wanted = m.disk(disk.key)["vbd"]
    for ref in m.source.xenapi.VM.get_VBDs(vm):
        try:
            if api.get_userdevice(ref) != wanted["userdevice"]:
                continue
            if api.get_VDI(ref) == vdi:
                return
            api.destroy(ref)
        except XenAPI.Failure as failure:
            if failure.details[0] != "HANDLE_INVALID":
                raise
    api.create(dict(wanted, VDI=vdi))


def is_taken_away(m: "Migration", disk: "Disk") -> bool:
    """Whether somebody has destroyed the VBD of a disk, within a pool, which xapi lets him where no
    guest uses it: then it is nobody's at the destination, too."""
    return (
        not m.plan.cross_pool
        and not m.disk(disk.key).get("vbd")
        and bool(disk.snapshot or disk.unplugged)
        and Records(m.source).ref("VBD", disk.vbd) is None
    )
