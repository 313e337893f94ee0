# SPDX-License-Identifier: LGPL-2.1-only
"""How the guest reaches its disks: one NBD connection for each of its threads."""

import os
import re
import time

from lab.blktap.records import Layout
from storage_motion.errors import ConnectionLost, ProtocolError, RequestFailed
from storage_motion.wire import nbd_client

PATIENCE = 120.0
"""Seconds that one I/O may take; a guest's own timeout is as long (Linux: 30 s and some
retries)."""

POLL = 0.01
"""Seconds between two looks whether a paused disk goes on."""

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
    """A new connection to `disk` ({"socket": path, ...}). While the disk is paused it waits, as
    what is written to a ring does: on a real host a guest has that from its boot on, and a pause
    is no error to it."""
    until = time.monotonic() + PATIENCE
    while True:
        ring, held = _ring(disk["socket"])
        try:
            return Connection(ring)
        except ConnectionLost as error:
            moved_away = isinstance(error.__context__, FileNotFoundError)
            paused = moved_away and (os.path.exists(held) or os.path.exists(ring))
            if not paused or time.monotonic() > until:
                raise
        time.sleep(POLL)


def _ring(path):
    """Where the disk at the NBD socket `path` is the guest's, which on a real host does not come by
    NBD (lab/blktap/nbd_server.py), and where that is while the disk is paused."""
    match = re.match(r"(.*)/run/blktap-control/nbd(\d+)\.\d+$", path)
    if not match:
        return path, path
    layout, pid = Layout(match.group(1)), int(match.group(2))
    if os.path.exists(layout.ring(pid)) or os.path.exists(layout.held_ring(pid)):
        return layout.ring(pid), layout.held_ring(pid)
    return path, layout.held_nbd(pid)
