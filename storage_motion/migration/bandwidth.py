# SPDX-License-Identifier: LGPL-2.1-only
"""The bandwidth that the administrator has given a migration: for what its disks mirror and copy
together. The move of the VM itself, its memory, is xenopsd's, and no part of it.

Each mover keeps to what it is told, with its own mirror counted. One disk is copied at a time; so
its mover is told what the mirrors of the other disks leave.
"""

import json
import os
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

from storage_motion.dom0 import root
from storage_motion.journal import journal
from storage_motion.source.pace import LEAST

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration

FILE = "bandwidth.json"  # in /run/sxm/<id>: what `limit` has said since
INTERVAL = 1.0  # seconds over which it is looked what the other disks mirror
# Of what a mover was told: it is told again when it would be off by more.
TOLERANCE = 0.02


def change(migration: str, bandwidth: int) -> None:
    """From now on so many bytes per second; 0: as much as goes."""
    path = os.path.join(journal.run_directory(migration), FILE)
    journal.replace(path, json.dumps(bandwidth), sync=False)


def of(entry: Dict[str, Any]) -> int:
    """That of a migration with this journal: bytes per second, 0: as much as goes."""
    try:
        with open(os.path.join(root.path(journal.RUN), entry["migration"], FILE)) as source:
            return int(json.load(source))
    except (FileNotFoundError, NotADirectoryError):
        return int(entry.get("bandwidth", 0))


class Share:
    """What the mover of a disk that is being copied may use."""

    def __init__(
        self, m: "Migration", key: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._m = m
        self._key = key
        self._clock = clock
        # What it was told as its copy began, or by a worker that has died, may be another one.
        self._told: Optional[float] = None
        self._others = 0  # bytes that the other disks had mirrored
        self._looked = clock() - INTERVAL

    def keep(self, statuses: Dict[str, Dict[str, Any]]) -> None:
        """Tell the mover, if it is not what it knows. `statuses`: what all movers say of
        themselves, by disk. Raises MoverFailed."""
        now = self._clock()
        if now < self._looked + INTERVAL:
            return
        others = sum(
            status["mirrored_bytes"] for key, status in statuses.items() if key != self._key
        )
        bandwidth = of(self._m.entry)
        if bandwidth != self._m.entry.get("bandwidth", 0):
            self._m.note(bandwidth=bandwidth)  # the file goes with the host
        mirrored, self._others = max(0, others - self._others), others
        elapsed, self._looked = now - self._looked, now
        share = max(LEAST * bandwidth, bandwidth - mirrored / elapsed)
        told = self._told
        if told is None or abs(share - told) > TOLERANCE * share or (not share and told):
            self._m.mover(self._key).limit(share)
            self._told = share
