# SPDX-License-Identifier: LGPL-2.1-only
"""What a destination's journal says of the disks that it receives: those that the VM will run on,
and those of its snapshots.

A disk of a snapshot is `frozen`: it is written to while it receives, and never after that. So its
gate is opened as soon as it is whole, long before the VM moves, and says nothing of where the VM
is.
"""

from typing import Any, Dict


def of_vm(entry: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """{key: disk} of those that the VM will run on, of a receiving journal's content."""
    return {key: disk for key, disk in entry["disks"].items() if not disk.get("frozen")}
