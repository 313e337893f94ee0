# SPDX-License-Identifier: LGPL-2.1-only
"""What the parts of the planner go by: what was asked for, the VM, both pools as they were looked
at, and where what is wrong is named."""

import sys
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from storage_motion.xapi.records import NULL, SUSPENDED, Records

if TYPE_CHECKING:
    from storage_motion.plan.protocols import Problems, Request

# A disk of the VM: its VBD's ref, its VBD, its VDI
Attached = Tuple[str, Dict[str, Any], Dict[str, Any]]


# In place of a VBD, of the image of a suspended VM's memory, or a checkpoint's, which has none.
MEMORY = {
    "uuid": "",
    "device": "",
    "userdevice": "memory",
    "mode": "RW",
    "currently_attached": False,
}


def disks_of(records: Records, vm: Dict[str, Any]) -> List[Attached]:
    """(VBD ref, VBD, VDI) of each disk of a VM that is there, in the order of its devices; and
    last, of a suspended one, (NULL, MEMORY, VDI) of the image of its memory."""
    vbds = [(ref, records.of("VBD", ref)) for ref in vm["VBDs"]]
    found = [
        (ref, vbd, records.of("VDI", vbd["VDI"]))
        for ref, vbd in vbds
        if vbd and vbd["type"] != "CD" and not vbd["empty"]
    ]
    disks = sorted((entry for entry in found if entry[2]), key=lambda entry: entry[1]["userdevice"])
    suspended = vm["power_state"] == SUSPENDED
    image = records.of("VDI", vm["suspend_VDI"]) if suspended else None
    return disks + ([(NULL, MEMORY, image)] if image else [])


class Inquiry:
    """`vm`: its record; `here`: the ref of its host; `live`: whether it runs."""

    def __init__(
        self,
        request: "Request",
        source: Records,
        destination: Optional[Records],
        vm: Dict[str, Any],
        here: str,
        problems: "Problems",
        room_to_keep: int = sys.maxsize,
    ) -> None:
        """`source`, `destination`: of the two pools, the same object for a move within one;
        `destination` is None if there is no session with it. `room_to_keep`: bytes that this host
        has for what does not come along (journal/kept_files.py)."""
        self.request = request
        self.here = here
        self.source = source
        self._destination = destination
        self.vm = vm
        self.problems = problems
        self.room_to_keep = room_to_keep
        self.cross_pool = request.remote is not None

    @property
    def reaches_destination(self) -> bool:
        """Whether there is a session with the destination; without one it cannot be looked at."""
        return self._destination is not None

    @property
    def destination(self) -> Records:
        """The destination pool, which has to be reached."""
        assert self._destination is not None
        return self._destination

    @property
    def live(self) -> bool:
        """Whether the VM runs."""
        running: bool = self.vm["power_state"] == "Running"
        return running
