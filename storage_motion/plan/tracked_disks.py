# SPDX-License-Identifier: LGPL-2.1-only
"""What a plan warns of where changed blocks are tracked: a backup program has to begin anew."""

from typing import List

from storage_motion.plan.inquiry import Inquiry
from storage_motion.plan.plan import Disk

FEATURE = "VDI_CONFIG_CBT"  # of a driver of SM
RENEWED = (
    "disk %s (%s): its changed block tracking is disabled for the move and enabled again at its "
    "end, so its next backup is a full one"
)
ENDED = (
    "disk %s (%s): its changed block tracking ends, since SM tracks none in SR %s (%s), so each "
    "backup is a full one there"
)


def cautions(inquiry: Inquiry, disks: List[Disk]) -> List[str]:
    """A sentence for each disk that is tracked. Of a copy it is said of the VM's own."""
    return [
        RENEWED % (disk.device, disk.name_label)
        if inquiry.request.copy or _can_be_tracked(inquiry, disk)
        else ENDED % (disk.device, disk.name_label, disk.destination_sr, disk.destination_sr_name)
        for disk in disks
        if disk.tracked
    ]


def _can_be_tracked(inquiry: Inquiry, disk: Disk) -> bool:
    """Whether the driver of its new SR says so; if nothing is known of that, it may be."""
    _, sr = inquiry.destination.by_uuid("SR", disk.destination_sr)
    drivers = [
        driver for driver in inquiry.destination.all("SM").values() if driver["type"] == sr["type"]
    ]
    return not drivers or any(FEATURE in driver["features"] for driver in drivers)
