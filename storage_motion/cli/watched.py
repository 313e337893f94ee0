# SPDX-License-Identifier: LGPL-2.1-only
"""What was seen of a migration, look after look, and what that says of its speed."""

from typing import Any, Dict, List, Optional

from storage_motion.cli.speed import Speed

COPYING = "copying"  # the state of a disk in which its copy has a speed
WHOLE = ("in-sync", "moved")  # those of one of which all is there


class Disk:
    """One disk. `now`: the latest of what `status` says of it."""

    def __init__(self) -> None:
        self.now: Dict[str, Any] = {}
        self.copy = Speed()
        self.mirrored = Speed()
        self._writes = Speed()
        self._waited = Speed()

    def see(self, at: float, now: Dict[str, Any]) -> None:
        """`status` says so, at that time of a clock that does not go back."""
        self.now = now
        if not self.copying:
            self.copy = Speed()  # what it was not copied in is no time of the copy's
        else:
            self.copy.see(at, now["verified"] + now.get("same", 0))
        self.mirrored.see(at, now["mirrored_bytes"])
        self._writes.see(at, now["mirrored_writes"])
        self._waited.see(at, now.get("waited", 0.0))  # a plugin of before has none

    @property
    def copying(self) -> bool:
        """Whether it is copied now: else `copy` knows nothing."""
        return bool(self.now["state"] == COPYING)

    @property
    def left(self) -> Optional[float]:
        """Seconds until its copy is done; None where nobody can tell."""
        return self.copy.left((self.now["to_copy"] or 0) - self.now["skipped"])

    @property
    def done(self) -> int:
        """Bytes of its copy that are at the destination, verified, or need no copy, since the guest
        wrote them anew."""
        found = self.now["verified"] + self.now["skipped"] + self.now.get("same", 0)
        return int(min(found, self.now["to_copy"] or 0))

    @property
    def fraction(self) -> Optional[float]:
        """How much of its copy that is, from 0 to 1; None while nobody knows."""
        if self.now["state"] in WHOLE:
            return 1.0
        if self.now["estimated"]:
            return None
        return self.done / self.now["to_copy"] if self.now["to_copy"] else 0.0

    @property
    def latency(self) -> Optional[float]:
        """Seconds that a write of the guest's has waited for the mirror of late, on average; None
        where there was none."""
        writes, waited = self._writes.rate, self._waited.rate
        return waited / writes if writes and waited is not None else None

    @property
    def mirror(self) -> str:
        """As `status` has it."""
        return str(self.now.get("mirror", "off"))


class Watched:
    """One migration. `status`: the latest; `error`: why nothing more will be seen of it."""

    def __init__(self, migration: str) -> None:
        self.id = migration
        self.status: Dict[str, Any] = {}
        self.error: Optional[Exception] = None
        self.all = Speed()
        self._disks: Dict[str, Disk] = {}

    def see(self, at: float, status: Dict[str, Any]) -> None:
        """Its status is this, at that time of a clock that does not go back."""
        self.status = status
        for one in status["disks"] + status.get("snapshots", []):
            self._disks.setdefault(one["vdi"], Disk()).see(at, one)
        if any(disk.copying for disk in self._disks.values()):
            self.all.see(at, status["bytes_moved"])
        else:
            self.all = Speed()

    @property
    def disks(self) -> List[Disk]:
        """In the order of the answer: those of the VM, then those of its snapshots."""
        return list(self._disks.values())

    @property
    def running(self) -> bool:
        """Whether there is more to see."""
        return self.error is None and self.status.get("state", "running") == "running"

    @property
    def name(self) -> str:
        """Of its VM, or else its id."""
        return str(self.status.get("vm_name") or self.id)
