# SPDX-License-Identifier: LGPL-2.1-only
"""The merge of two streams into one disk: the guest's mirrored writes and the copy of its snapshot.
Pure: no I/O, no clock.

The destination has to end as the source is: in each sector the last mirrored write, or, where there
was none, the snapshot's data. Replies come in any order, and the destination's tapdisk may apply
requests that are in flight together in any order. Units are sectors; ranges are half-open.

What holds at every moment, and from which the rest follows:

1. *One writer per sector.* No two requests in flight to the destination overlap. A request in
   flight is a mirrored write that was sent and not answered, or a claim of the copy that was not
   released. So the destination can never choose an order.
2. *Order of arrival.* A mirrored write that overlaps an earlier one which is not answered yet waits
   for it, whether that one is in flight or waits itself. So of two mirrored writes to a sector the
   later one is applied later.
3. *A mirrored sector is never copied.* From its arrival (not from its answer) a mirrored write's
   sectors are taken from what the copy may still claim. So a copy is applied to a sector only
   before any mirrored write to it has arrived, and by 1. it is answered, and verified, before such
   a write is sent.
4. *The copy never waits.* What it claims is, by 3., free of mirrored writes, and claims are
   disjoint as each takes its sectors from what is left. A write waits for a claim; a claim for
   nothing: there is no cycle, and so no deadlock.

What is recorded is one set, `left`: the sectors that nobody has taken charge of. It begins as the
whole disk, is cut down to what the snapshot holds as soon as that is known, and shrinks from both
sides, by arrivals and by claims.
"""

import collections
from typing import Dict, Iterable, List, Optional, Set

from storage_motion.source.ranges import Range, RangeSet, intersection


class Claim(object):
    """Sectors which the copy alone may write until it releases them. `ranges`: list of (start,
    end), disjoint, ascending."""

    def __init__(self, ranges: List[Range]) -> None:
        self.ranges = ranges
        self._set = RangeSet(ranges)

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any of [start, end) is claimed."""
        return self._set.overlaps(start, end)


class Merge(object):
    """Says of each mirrored write when it may be sent, and to the copy which sectors it may still
    write."""

    def __init__(self, sectors: int) -> None:
        """`sectors`: the size of the disk."""
        self._sectors = sectors
        self.left = RangeSet([(0, sectors)])  # what the copy may still claim (invariant 3)
        self.intact = True  # whether all that was claimed has been released, verified
        self._in_flight: Dict[int, Range] = {}  # write -> (start, end)
        # write -> (start, end), in order of arrival
        self._waiting: "collections.OrderedDict[int, Range]" = collections.OrderedDict()
        self._claims: Set[Claim] = set()

    @property
    def outstanding(self) -> int:
        """Mirrored writes that have arrived and are not answered, waiting ones included."""
        return len(self._in_flight) + len(self._waiting)

    @property
    def held(self) -> int:
        """Mirrored writes that wait for a claim or for an earlier write."""
        return len(self._waiting)

    def confine(self, data: RangeSet) -> None:
        """Only `data`, this object's from now on, is to be copied. Once, before the first claim.

        It takes as long as there were writes before, and not as there is data: the guest waits."""
        for start, end in self.left.missing(0, self._sectors):
            data.subtract(start, end)
        self.left = data

    def arrive(self, write: int, start: int, end: int) -> bool:
        """A mirrored write of [start, end), named by any hashable `write`: True if it may be sent
        now, False if it waits.

        A write that waits is in the answer of some later `answered` or `release`.
        """
        self.left.subtract(start, end)
        if self._blocked(start, end) or _any_overlap(self._waiting.values(), start, end):
            self._waiting[write] = (start, end)
            return False
        self._in_flight[write] = (start, end)
        return True

    def answered(self, write: int) -> List[int]:
        """The destination has applied `write`, which was sent: the writes that may be sent now, in
        order of arrival."""
        del self._in_flight[write]
        return self._admit()

    def claim(self, ranges: Iterable[Range]) -> Optional[Claim]:
        """A Claim on those sectors of `ranges` (a list of (start, end), disjoint, ascending) that
        were not mirrored, or None."""
        free = intersection(ranges, self.left)
        if not free:
            return None
        for start, end in free:
            self.left.subtract(start, end)
        claim = Claim(free)
        self._claims.add(claim)
        return claim

    def release(self, claim: Claim) -> List[int]:
        """The copy of `claim` is applied and verified: the writes that may be sent now, in order of
        arrival."""
        self._claims.remove(claim)
        return self._admit()

    def abandon(self) -> List[int]:
        """The copy has failed, with claims whose fate nobody knows: the disk can never be handed
        over (`intact`).

        The mirror goes on, for the guest's sake. Returns the writes that may be sent now, in order
        of arrival.
        """
        self.intact = False
        self._claims.clear()
        return self._admit()

    def free(self, ranges: Iterable[Range]) -> List[Range]:
        """Those sectors of `ranges` that the copy may still claim: a list of (start, end). Nobody
        has written them so far."""
        return intersection(ranges, self.left)

    def _blocked(self, start: int, end: int) -> bool:
        """Whether a request in flight overlaps [start, end) (invariant 1)."""
        return _any_overlap(self._in_flight.values(), start, end) or (
            bool(self._claims) and any(claim.overlaps(start, end) for claim in self._claims)
        )

    def _admit(self) -> List[int]:
        """Put in flight what waits and is free now, oldest first; nothing overtakes an older write
        that it overlaps."""
        if not self._waiting:
            return []
        admitted, ahead = [], RangeSet()
        for write, (start, end) in list(self._waiting.items()):
            if self._blocked(start, end) or ahead.overlaps(start, end):
                ahead.add(start, end)
                continue
            del self._waiting[write]
            self._in_flight[write] = (start, end)
            admitted.append(write)
        return admitted


def _any_overlap(ranges: Iterable[Range], start: int, end: int) -> bool:
    for other_start, other_end in ranges:  # and not `any`: it is asked for each write
        if other_start < end and start < other_end:
            return True
    return False
