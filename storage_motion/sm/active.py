# SPDX-License-Identifier: LGPL-2.1-only
"""How SM has a VDI active on this host, by the links that it keeps of that (blktap2: PhyLink,
NBDLink)."""

import os
import re
from typing import Optional

from storage_motion.dom0 import root

IMAGE = "/dev/sm/phy/%s/%s"  # SR's and VDI's UUIDs -> the file or device
SOCKET = "/run/blktap-control/nbd/%s/%s"  # -> the NBD socket of its tapdisk; what SM makes last
_NAME = re.compile(r"/nbd(\d+)\.\d+$")


def is_served(sr_uuid: str, vdi_uuid: str) -> bool:
    """Whether its tapdisk is there. (One that has been killed may leave its socket.)"""
    return os.path.exists(root.path(SOCKET % (sr_uuid, vdi_uuid)))


def tapdisk_of(sr_uuid: str, vdi_uuid: str) -> Optional[int]:
    """The pid of its tapdisk; None if it is not active here."""
    try:
        found = _NAME.search(os.readlink(root.path(SOCKET % (sr_uuid, vdi_uuid))))
    except FileNotFoundError:
        return None
    return int(found.group(1)) if found else None


def is_read_only(sr_uuid: str, vdi_uuid: str) -> bool:
    """Whether it is active here by a tapdisk that has the image open, but not to be written to.

    sm_config says how xapi believes that it is, which is not proof: a xapi that was restarted may
    have had SM activate it read-only, and marks it as read-write (storage_access.ml, lock_vdi)."""
    pid = tapdisk_of(sr_uuid, vdi_uuid)
    if pid is None:
        return False
    try:
        image = os.stat(root.path(IMAGE % (sr_uuid, vdi_uuid)))
        modes = [
            _mode(pid, descriptor)
            for descriptor in os.listdir("/proc/%d/fd" % pid)
            if os.path.samestat(os.stat("/proc/%d/fd/%s" % (pid, descriptor)), image)
        ]
    except (FileNotFoundError, ProcessLookupError):
        return False  # not active, or just being closed
    return bool(modes) and all(mode == os.O_RDONLY for mode in modes)


def _mode(pid: int, descriptor: str) -> int:
    with open("/proc/%d/fdinfo/%s" % (pid, descriptor)) as source:
        flags = next(line.split()[1] for line in source if line.startswith("flags:"))
    return int(flags, 8) & os.O_ACCMODE
