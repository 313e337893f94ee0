# SPDX-License-Identifier: LGPL-2.1-only
"""The merge against a model: a source that the guest writes to, and a destination that does its
worst.

The destination may apply a request sector by sector, at any time between its sending and its
answer, and answers in any order. At every point where nothing is outstanding, it must equal the
source wherever it is supposed to. `MUTANTS` are merges with one mistake each: the model has to find
every one of them, or it proves nothing.

The destination may also hold what an earlier mover left there, anything at all, and the copier then
asks what it holds before it claims: the answer is read sector by sector as well, and is old when it
comes.
"""

import collections
import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from storage_motion.source.merge import Claim, Merge
from storage_motion.source.ranges import RangeSet, intersection

SECTORS = 24
NOTHING = 0  # what a blank destination holds


class Request(object):
    """Something in flight to the destination: contents for sectors, some of them applied
    already."""

    def __init__(self, contents):
        self.contents = contents  # sector -> value
        self.unapplied = sorted(contents)


class Question(object):
    """What is in some sectors of the destination? Read one by one, while the world goes on."""

    def __init__(self, sectors):
        self.unread = sectors
        self.found = {}  # sector -> value


class Model(object):
    """Source and destination with a merge between them. `snapshot`: sectors' values when the mirror
    began. `stale`: what the destination holds then, where it is not blank."""

    def __init__(self, merge_class, snapshot, holes, stale=None):
        self.merge = merge_class(len(snapshot))
        self.snapshot = snapshot
        self.source = list(snapshot)
        self.destination = list(stale or [NOTHING] * len(snapshot))
        self.questions = []  # Question, what the receiver was asked and has not answered
        self.value = 1000
        self.writes = {}  # write -> (start, end, value), all that arrived
        self.sent = collections.OrderedDict()  # write or claim -> Request in flight
        self.claims = []  # written, not released
        self.uncopied = set(range(len(snapshot)))  # sectors that nothing has brought across yet
        data = [
            (sector, sector + 1) for sector in range(len(snapshot)) if stale or sector not in holes
        ]
        for sector in holes:
            self.snapshot[sector] = self.source[sector] = NOTHING
            if not stale:
                self.uncopied.discard(sector)
        self.merge.confine(RangeSet(data))
        self.data = data

    # What the guest, the copier and the destination do.

    def guest_writes(self, start, length):
        end = min(start + length, len(self.source))
        self.value += 1
        write = "write %d" % self.value
        self.source[start:end] = [self.value] * (end - start)
        self.writes[write] = (start, end, self.value)
        if self.merge.arrive(write, start, end):
            self._send(write)

    def copier_claims(self, start, length):
        wanted = [part for part in self.data if start <= part[0] < start + length]
        claim = self.merge.claim(wanted)
        if claim is not None:
            sectors = [sector for first, last in claim.ranges for sector in range(first, last)]
            self._begin(claim, {sector: self.snapshot[sector] for sector in sectors})

    def copier_asks(self, start, length):
        free = self.merge.free([part for part in self.data if start <= part[0] < start + length])
        if free:
            self.questions.append(
                Question([sector for first, last in free for sector in range(first, last)])
            )

    def receiver_reads(self, which, sector):
        question = self.questions[which % len(self.questions)]
        if question.unread:
            sector = question.unread.pop(sector % len(question.unread))
            question.found[sector] = self.destination[sector]

    def copier_decides(self, which):
        question = self.questions.pop(which % len(self.questions))
        for sector in question.unread:
            question.found[sector] = self.destination[sector]
        if any(value != self.snapshot[sector] for sector, value in question.found.items()):
            self.copier_claims(min(question.found), max(question.found) + 1 - min(question.found))
            return
        claim = self.merge.claim([(sector, sector + 1) for sector in sorted(question.found)])
        if claim is not None:
            self.uncopied.difference_update(
                sector for first, last in claim.ranges for sector in range(first, last)
            )
            self._send_all(self.merge.release(claim))

    def destination_applies(self, which, sector):
        request = list(self.sent.values())[which % len(self.sent)]
        if request.unapplied:
            self._apply(request, sector)

    def destination_answers(self, which):
        name = list(self.sent)[which % len(self.sent)]
        request = self.sent.pop(name)
        while request.unapplied:
            self._apply(request, 0)
        if isinstance(name, Claim):
            self.claims.append((name, request))
        else:
            self.uncopied.difference_update(request.contents)
            self._send_all(self.merge.answered(name))

    def copier_verifies(self, which):
        claim, request = self.claims.pop(which % len(self.claims))
        for sector, value in request.contents.items():
            assert self.destination[sector] == value, (
                "verification sees a sector %d that is not the snapshot's" % sector
            )
        self.uncopied.difference_update(request.contents)
        self._send_all(self.merge.release(claim))

    def settle(self, turn):
        """Let everything finish, in an order that `turn` (a function of a count, giving an index
        below it) chooses."""
        while self.sent or self.claims:
            if self.claims and (not self.sent or turn(2)):
                self.copier_verifies(turn(len(self.claims)))
            else:
                self.destination_answers(turn(len(self.sent)))

    # What must hold.

    def check_one_writer_per_sector(self):
        claimed = [request for _, request in self.claims]
        seen = set()
        for request in list(self.sent.values()) + claimed:
            assert not seen & set(request.contents), "two requests in flight overlap"
            seen |= set(request.contents)

    def check_counts(self):
        in_flight = sum(1 for name in self.sent if not isinstance(name, Claim))
        assert self.merge.outstanding - self.merge.held == in_flight
        if not self.sent and not self.claims:
            assert self.merge.outstanding == 0, "a write was held and forgotten"

    def check_quiescent(self):
        if self.merge.outstanding or self.sent or self.claims:
            return
        wrong = [
            sector
            for sector in range(len(self.source))
            if sector not in self.uncopied and self.destination[sector] != self.source[sector]
        ]
        assert not wrong, "sectors %s differ" % wrong
        assert all(self.merge.left.overlaps(sector, sector + 1) for sector in self.uncopied), (
            "a sector was forgotten"
        )

    def check(self):
        self.check_one_writer_per_sector()
        self.check_counts()
        self.check_quiescent()

    def check_complete(self):
        self.check()
        assert self.destination == self.source

    def _begin(self, name, contents):
        self.sent[name] = Request(contents)

    def _send(self, write):
        start, end, value = self.writes[write]
        self._begin(write, dict.fromkeys(range(start, end), value))

    def _send_all(self, writes):
        for write in writes:
            self._send(write)

    def _apply(self, request, which):
        sector = request.unapplied.pop(which % len(request.unapplied))
        self.destination[sector] = request.contents[sector]


numbers = st.integers(0, 1 << 16)
starts = st.integers(0, SECTORS - 1)
lengths = st.integers(1, 8)
steps = st.one_of(
    st.tuples(st.just("guest_writes"), starts, lengths),
    st.tuples(st.just("guest_writes"), starts, lengths),
    st.tuples(st.just("copier_claims"), starts, lengths),
    st.tuples(st.just("destination_applies"), numbers, numbers),
    st.tuples(st.just("destination_answers"), numbers),
    st.tuples(st.just("copier_verifies"), numbers),
)
questions = st.one_of(
    steps,
    st.tuples(st.just("copier_asks"), starts, lengths),
    st.tuples(st.just("receiver_reads"), numbers, numbers),
    st.tuples(st.just("copier_decides"), numbers),
)
# A sector of the snapshot holds its number + 1: so a destination that has some of it already, and
# some of anything else.
stale_disks = st.lists(
    st.one_of(st.just(-1), st.integers(0, 3)), min_size=SECTORS, max_size=SECTORS
)
interleavings = st.lists(steps, max_size=60)
seeds = st.integers(0, 1 << 32)
hole_sets = st.sets(starts, max_size=SECTORS // 2)

POSSIBLE = {
    "destination_applies": lambda model: model.sent,
    "destination_answers": lambda model: model.sent,
    "copier_verifies": lambda model: model.claims,
    "receiver_reads": lambda model: model.questions,
    "copier_decides": lambda model: model.questions,
}


def play(merge_class, interleaving, holes, seed, stale=None):
    """Play one interleaving to its end: the rest is copied, everything is answered, and the
    destination is the source."""
    model = Model(merge_class, list(range(1, SECTORS + 1)), holes, stale)
    for step in interleaving:
        if POSSIBLE.get(step[0], lambda _: True)(model):
            getattr(model, step[0])(*step[1:])
            model.check()
    # The copy never waits: whatever is left can be claimed now, and after that nothing is left.
    model.copier_claims(0, SECTORS)
    assert model.merge.left.total == 0
    model.settle(random.Random(seed).randrange)
    model.check_complete()


CASES = 2500


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(interleavings, hole_sets, seeds)
def test_the_destination_ends_as_the_source(interleaving, holes, seed):
    play(Merge, interleaving, holes, seed)


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(questions, max_size=60), hole_sets, seeds, stale_disks)
def test_a_destination_that_holds_anything_ends_as_the_source(interleaving, holes, seed, disk):
    play(Merge, interleaving, holes, seed, stale_disk(disk, holes))


def stale_disk(choices, holes):
    """What the destination holds at first: for -1 what the source has there, else something of an
    earlier mover's."""
    same = [NOTHING if sector in holes else sector + 1 for sector in range(SECTORS)]
    return [same[sector] if choice == -1 else 500 + choice for sector, choice in enumerate(choices)]


class MergeMachine(RuleBasedStateMachine):
    """The same world, explored step by step, with all invariants after each."""

    def __init__(self):
        super(MergeMachine, self).__init__()
        self.model = Model(Merge, list(range(1, SECTORS + 1)), {3, 4, 11})

    @rule(start=starts, length=lengths)
    def guest_writes(self, start, length):
        self.model.guest_writes(start, length)

    @rule(start=starts, length=lengths)
    def copier_claims(self, start, length):
        self.model.copier_claims(start, length)

    @precondition(lambda self: self.model.sent)
    @rule(which=numbers, sector=numbers)
    def destination_applies(self, which, sector):
        self.model.destination_applies(which, sector)

    @precondition(lambda self: self.model.sent)
    @rule(which=numbers)
    def destination_answers(self, which):
        self.model.destination_answers(which)

    @precondition(lambda self: self.model.claims)
    @rule(which=numbers)
    def copier_verifies(self, which):
        self.model.copier_verifies(which)

    @invariant()
    def all_is_well(self):
        self.model.check()

    def teardown(self):
        self.model.copier_claims(0, SECTORS)
        self.model.settle(lambda count: 0)
        self.model.check_complete()


def test_the_machine_finds_nothing():
    run_state_machine_as_test(
        MergeMachine, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
    )


class ForgetsTheCopy(Merge):
    """A mirrored write does not wait for a copy of the same sectors."""

    def _blocked(self, start, end):
        return any(s < end and start < e for s, e in self._in_flight.values())


class ForgetsWritesInFlight(Merge):
    """Overlapping mirrored writes are in flight together."""

    def _blocked(self, start, end):
        return any(claim.overlaps(start, end) for claim in self._claims)


class LetsWritesOvertake(Merge):
    """A write does not wait for an older one that waits itself."""

    def arrive(self, write, start, end):
        self.left.subtract(start, end)
        if self._blocked(start, end):
            self._waiting[write] = (start, end)
            return False
        self._in_flight[write] = (start, end)
        return True


class AdmitsYoungestFirst(Merge):
    """What waits is let go in the wrong order."""

    def _admit(self):
        self._waiting = collections.OrderedDict(reversed(list(self._waiting.items())))
        admitted = super(AdmitsYoungestFirst, self)._admit()
        self._waiting = collections.OrderedDict(reversed(list(self._waiting.items())))
        return admitted


class CopiesWhatIsMirrored(Merge):
    """The copy does not leave out what was mirrored."""

    def arrive(self, write, start, end):
        left = RangeSet(self.left)
        go = super(CopiesWhatIsMirrored, self).arrive(write, start, end)
        self.left = left
        return go


class RecordsAtTheAnswer(Merge):
    """A mirrored write is only known to the copy when it has been answered."""

    def arrive(self, write, start, end):
        left = RangeSet(self.left)
        go = super(RecordsAtTheAnswer, self).arrive(write, start, end)
        self.left = left
        return go

    def answered(self, write):
        self.left.subtract(*self._in_flight[write])
        return super(RecordsAtTheAnswer, self).answered(write)


class ForgetsToRelease(Merge):
    """The end of a claim lets nobody go."""

    def release(self, claim):
        self._claims.remove(claim)
        return []


class ClaimsTooMuch(Merge):
    """A window is claimed whole, from its first free sector to its last."""

    def claim(self, ranges):
        free = intersection(ranges, self.left)
        if not free:
            return None
        return super(ClaimsTooMuch, self).claim([]) or self._hull(free)

    def _hull(self, free):
        claim = Claim([(free[0][0], free[-1][1])])
        self.left.subtract(free[0][0], free[-1][1])
        self._claims.add(claim)
        return claim


MUTANTS = [
    ForgetsTheCopy,
    ForgetsWritesInFlight,
    LetsWritesOvertake,
    AdmitsYoungestFirst,
    CopiesWhatIsMirrored,
    RecordsAtTheAnswer,
    ForgetsToRelease,
    ClaimsTooMuch,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_model_catches(mutant):
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(interleavings, hole_sets, seeds)
    def find_the_mistake(interleaving, holes, seed):
        play(mutant, interleaving, holes, seed)

    with pytest.raises(AssertionError):
        find_the_mistake()


@pytest.mark.parametrize(
    "mutant", [CopiesWhatIsMirrored, RecordsAtTheAnswer], ids=lambda mutant: mutant.__name__
)
def test_the_model_catches_an_old_answer_that_is_trusted(mutant):
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(questions, max_size=60), hole_sets, seeds, stale_disks)
    def find_the_mistake(interleaving, holes, seed, disk):
        play(mutant, interleaving, holes, seed, stale_disk(disk, holes))

    with pytest.raises(AssertionError):
        find_the_mistake()


def test_an_abandoned_copy_frees_the_guest_and_spoils_the_disk():
    merge = Merge(16)
    merge.claim([(0, 8)])
    assert merge.arrive("w", 4, 5) is False
    assert (merge.outstanding, merge.held, merge.intact) == (1, 1, True)
    assert merge.abandon() == ["w"]
    assert merge.intact is False


def test_what_was_written_before_it_was_known_what_to_copy_is_not_copied():
    merge = Merge(100)
    assert merge.arrive(1, 10, 20) and merge.arrive(2, 95, 100)
    merge.answered(1)
    merge.confine(RangeSet([(0, 15), (18, 30), (90, 100)]))
    assert list(merge.left) == [(0, 10), (20, 30), (90, 95)]
    assert merge.claim([(5, 25)]).ranges == [(5, 10), (20, 25)]
