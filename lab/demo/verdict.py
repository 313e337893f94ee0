# SPDX-License-Identifier: LGPL-2.1-only
"""What is measured after a move, and whether it is what was promised."""

import time

from lab.demo import screen
from lab.pools import leftovers

AFTERWARDS = 200
"""So many more writes are waited for before everything is checked."""
PATIENCE = 20.0
POLL = 0.1


class Verdict:
    """Built before a move, told after it."""

    def __init__(self, move):
        self._move = move
        self._before = move.source.guest(move.uuid).status()
        self._footprint = leftovers.footprint(move.source_pool, move.vm)
        self._same = True

    def tell(self, answer):
        """Print the verdict on a move that succeeded. `answer`: what the plugin said. Returns
        whether all of it holds."""
        results = [
            self._writes(),
            self._disks(),
            self._pause(answer),
            self._copy(answer),
            self._left(),
        ]
        return all(results)

    def _writes(self):
        guest = self._move.host.guest(self._move.uuid)
        arrived = guest.status()
        end = time.monotonic() + PATIENCE
        while (
            guest.status()["writes_acknowledged"] < arrived["writes_acknowledged"] + AFTERWARDS
            and time.monotonic() < end
        ):
            time.sleep(POLL)
        checked = guest.check()
        now = guest.status()
        before, during, after = (
            self._before["writes_acknowledged"],
            arrived["writes_acknowledged"] - self._before["writes_acknowledged"],
            now["writes_acknowledged"] - arrived["writes_acknowledged"],
        )
        holds = (
            not (checked["missing"] or now["missing"] or now["errors"]) and during > 0 and after > 0
        )
        screen.verdict(
            holds,
            "acknowledged writes",
            "%d before, %d during and %d after the move; missing: %d; I/O errors: %d"
            % (before, during, after, max(checked["missing"], now["missing"]), now["errors"]),
        )
        return holds

    def _figures(self):
        return self._move.host.xenopsd("VM.stat", id=self._move.uuid)["migration"]

    def _disks(self):
        comparison = self._figures().get("at_switch", {})
        holds = comparison.get("exit") == 0
        screen.verdict(
            holds,
            "disks at the instant of the switch",
            "identical by qemu-img compare" if holds else comparison.get("output", "not compared"),
        )
        return holds

    def _pause(self, answer):
        """By two clocks: the guest's, and that of the product, which sees less of it."""
        pauses = self._move.host.guest(self._move.uuid).status()["pauses"]
        holds = bool(pauses)
        comparison = self._figures()["at_switch"]["seconds"]
        screen.verdict(
            holds,
            "pause, by the guest's clock",
            "%.2f s from its suspend to its first safe write (without %.2f s for the comparison)"
            % (pauses[-1], comparison)
            if holds
            else "not known",
        )
        known = answer["downtime"] is not None
        screen.verdict(
            known,
            "pause, by the product's",
            "%.2f s from its disks' closing to the end of the move (with these)"
            % answer["downtime"]
            if known
            else "not known",
        )
        return holds and known

    def _copy(self, answer):
        copied = sum(disk["copied"] for disk in answer["disks"])
        verified = sum(disk["verified"] for disk in answer["disks"])
        mirrored = sum(disk["mirrored_bytes"] for disk in answer["disks"])
        holds = copied == verified
        screen.verdict(
            holds,
            "moved",
            "%.1f MiB copied, %.1f MiB of it read back and verified; %.1f MiB of writes mirrored; "
            "longest stall %.2f s"
            % (
                copied / 2**20,
                verified / 2**20,
                mirrored / 2**20,
                max(disk["longest_stall"] for disk in answer["disks"]),
            ),
        )
        return holds

    def _left(self):
        left = leftovers.of_vm(
            self._move.source_pool,
            self._footprint,
            moved_within=self._move.pool is self._move.source_pool,
        )
        left += leftovers.at_rest(self._move.lab)
        screen.verdict(not left, "left behind", "nothing" if not left else "; ".join(left))
        return not left
