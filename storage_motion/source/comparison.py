# SPDX-License-Identifier: LGPL-2.1-only
"""What of a window the destination has already, by digests: for a copy that is taken up again.

The receiver is asked for the digest of what is there before the window has been read, and nothing
is claimed while it is asked, so no write of the guest waits for it. A window that differs is asked
for again, in parts, and those of them that differ in smaller ones: guests write little here and
little there.
"""

from typing import TYPE_CHECKING, List, Optional, Tuple

from storage_motion.source.ranges import Range, RangeSet, total
from storage_motion.source.windows import windows
from storage_motion.wire import digest, nbd

if TYPE_CHECKING:
    from storage_motion.source.mirror import Mirror
    from storage_motion.wire.control_link import ControlLink, Pending

# Sectors: 64 KiB, then the 4 KiB that the file systems of guests write in. All parts of a window
# are one question, so the smaller ones cost some 70 bytes each and no wait.
GRAINS = (128, 8)
DIGEST_BOUND = 60.0  # seconds for the receiver to read one window


class Question(object):
    """Whether the destination has `ranges` of a window already."""

    def __init__(
        self,
        ranges: List[Range],
        free: List[Range],
        pending: Optional["Pending"],
        part: Optional[int] = None,
    ) -> None:
        """`free`: those of `ranges` that nobody has written when it was asked. `pending`: the
        digest of these at the destination, to come; None where there are none. `part`: of an answer
        with several digests, which of them."""
        self.ranges = ranges
        self.free = free
        self.pending = pending
        self._part = part

    def digest(self) -> object:
        """What the destination says: its digest, if it is right."""
        assert self.pending is not None
        answer = self.pending.wait()
        if self._part is None:
            return answer.get("digest")
        digests = answer.get("digests")
        return (
            digests[self._part] if isinstance(digests, list) and self._part < len(digests) else None
        )

    @property
    def answered(self) -> bool:
        """Whether nobody has to wait for it."""
        return self.pending is None or self.pending.arrived


class Comparison(object):
    """Asks the receiver, for one copy."""

    def __init__(self, link: "ControlLink", mirror: "Mirror") -> None:
        self._link = link
        self._mirror = mirror
        self._algorithm = digest.fastest()

    def ask(self, ranges: List[Range]) -> Question:
        """A Question on `ranges`, in sectors, of one window."""
        free = self._mirror.free(ranges)
        message = {"cmd": "digest", "algorithm": self._algorithm, "ranges": _in_bytes(free)}
        return Question(ranges, free, self._link.submit(message, DIGEST_BOUND) if free else None)

    def _ask_in_parts(self, parts: List[List[Range]]) -> List[Question]:
        """A Question on each of the parts of a window; one message."""
        frees = [self._mirror.free(part) for part in parts]
        asked = [_in_bytes(free) for free in frees if free]
        message = {"cmd": "digests", "algorithm": self._algorithm, "parts": asked}
        pending = self._link.submit(message, DIGEST_BOUND) if asked else None
        questions, index = [], 0
        for part, free in zip(parts, frees):
            questions.append(Question(part, free, pending if free else None, index))
            index += bool(free)
        return questions

    def answer(
        self, question: Question, data: Optional[memoryview]
    ) -> Tuple[List[Range], List[Range]]:
        """(what the destination has, what has to be sent) of the ranges that the question was
        about. What the guest has written meanwhile is in neither. `data`: the snapshot's, from the
        first of the ranges on; None: zeros.

        Raises DataPathError.
        """
        first = question.ranges[0][0]
        found = self._found(question, first, data)
        if found is not None:
            return found, []
        same: List[Range] = []
        differing = question.ranges
        for grain in GRAINS:
            asked = self._ask_in_parts(list(windows(differing, grain)))
            differing = []
            for part in asked:
                found = self._found(part, first, data)
                if found is None:
                    differing += part.ranges
                else:
                    same += found
        # in as few pieces as they make
        return sorted(same), list(RangeSet(differing))

    def _found(
        self, question: Question, first: int, data: Optional[memoryview]
    ) -> Optional[List[Range]]:
        """Those of the question's ranges that are the copy's still, if all of them are at the
        destination; else None.

        A sector that is free now was so all the time, and nobody has written it meanwhile (merge,
        invariant 3): what the digest says of it is still true.
        """
        if question.pending is not None:
            expected = self._digest(question.free, first, data)
            if question.digest() != expected:
                return None
        claim = self._mirror.claim(question.ranges)
        if claim is None:
            return []
        self._mirror.release(claim)
        return claim.ranges

    def _digest(self, ranges: List[Range], first: int, data: Optional[memoryview]) -> str:
        if data is None:
            return digest.of_zeros(self._algorithm, total(ranges) * nbd.SECTOR)
        return digest.of_buffers(
            self._algorithm,
            (
                data[(start - first) * nbd.SECTOR : (end - first) * nbd.SECTOR]
                for start, end in ranges
            ),
        )


def _in_bytes(ranges: List[Range]) -> List[List[int]]:
    return [[start * nbd.SECTOR, (end - start) * nbd.SECTOR] for start, end in ranges]
