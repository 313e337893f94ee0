# SPDX-License-Identifier: LGPL-2.1-only
"""What this host has opened for us: a file for each disk and role."""

import json
import os
from typing import Any, Dict, List, Optional

from storage_motion.dom0 import root

RECORDS = "/run/sxm/disks"  # gone after a reboot, as the tapdisks are
COPY = "copy"  # the role of a disk that is read
NEW = ".new"  # behind the name of one that is being written


class Record(object):
    """That this host opened a disk for us, and what must be remembered of it: a file in RECORDS."""

    def __init__(self, role: str, vdi_uuid: str) -> None:
        self._path = os.path.join(root.private_directory(RECORDS), "%s-%s" % (role, vdi_uuid))

    @staticmethod
    def all_of(role: str) -> List[str]:
        """The UUIDs of the VDIs that this host has opened for a role."""
        try:
            found = os.listdir(root.path(RECORDS))
        except FileNotFoundError:
            return []
        begin = role + "-"
        names = [name[len(begin) :] for name in found if name.startswith(begin)]
        return sorted(name for name in names if not name.endswith(NEW))

    def read(self) -> Optional[Dict[str, Any]]:
        """The remembered object, or None if there is no record."""
        try:
            with open(self._path) as record:
                return json.load(record)
        except FileNotFoundError:
            return None

    def write(self, value: Dict[str, Any]) -> None:
        """Remember an object, all of it or nothing."""
        with os.fdopen(
            os.open(self._path + NEW, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
        ) as record:
            json.dump(value, record)
        os.rename(self._path + NEW, self._path)

    def remove(self) -> None:
        """Forget it; no error if there is none."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
