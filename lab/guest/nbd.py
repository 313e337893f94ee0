# SPDX-License-Identifier: LGPL-2.1-only
"""How the guest reaches its disks: one NBD connection for each of its threads."""

import os
import re

from storage_motion.errors import ConnectionLost, ProtocolError, RequestFailed
from storage_motion.wire import nbd_client

PATIENCE = 120.0
"""Seconds that one I/O may take; a guest's own timeout is as long (Linux: 30 s and some
retries)."""

FAILURES = (ConnectionLost, ProtocolError, RequestFailed)
"""What a connection raises: to the guest, each of them is an I/O error."""


class Connection:
    """One blocking connection to a disk; `size` in bytes."""

    def __init__(self, path):
        self._client = nbd_client.connect(path, timeout=PATIENCE)
        self.size = self._client.size

    def read(self, offset, length):
        """`length` bytes at `offset`, both multiples of 512."""
        return self._client.read(offset, length)

    def write(self, offset, data):
        """Write; returns when the disk has acknowledged it."""
        self._client.write(offset, data)

    def close(self):
        """Close, without a goodbye: see nbd_client.Client.disconnect."""
        self._client.close()


def connect(disk):
    """A new connection to `disk` ({"socket": path, ...})."""
    return Connection(_ring(disk["socket"]))


def _ring(path):
    """Where the disk at the NBD socket `path` is the guest's, which on a real host does not come by
    NBD (lab/blktap/nbd_server.py)."""
    match = re.match(r"(.*)/nbd(\d+)\.\d+$", path)
    ring = "%s/lab/%s.ring" % match.groups() if match else path
    return ring if os.path.exists(ring) else path
