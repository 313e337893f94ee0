# SPDX-License-Identifier: LGPL-2.1-only
"""What a plan warns of where high availability (HA) protects the VM: that is taken off for the move
(migration/phases/ha_protection.py)."""

from typing import Iterable, List

from storage_motion.plan.inquiry import Inquiry
from storage_motion.plan.plan import Disk

RESTART = "restart"  # the priority that HA plans for; "best-effort" it does not


def cautions(inquiry: Inquiry, disks: Iterable[Disk]) -> List[str]:
    """A list of sentences. `disks`: those that move."""
    priority, name = inquiry.vm.get("ha_restart_priority"), inquiry.vm["name_label"]
    if not priority or inquiry.request.copy:
        return []  # of a copy: it is that of both VMs, and neither runs
    found = [
        "HA does not restart VM %s until the move has ended: its restart priority (%s) is taken "
        "off, and set again at the end" % (name, priority)
    ]
    pool = inquiry.destination.pool()
    if not pool.get("ha_enabled"):
        if inquiry.cross_pool:
            found.append(
                "HA is not enabled in the destination pool: it does not restart VM %s there until "
                "it is" % name
            )
        return found
    local = {
        disk.destination_sr_name
        for disk in disks
        if not inquiry.destination.by_uuid("SR", disk.destination_sr)[1]["shared"]
    }
    if local and priority == RESTART and not pool.get("ha_allow_overcommit"):
        found.append(
            "xapi may refuse to have HA protect VM %s there, since not all hosts see its disks "
            "(SR %s)" % (name, ", ".join(sorted(local)))
        )
    return found
