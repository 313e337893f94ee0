# SPDX-License-Identifier: LGPL-2.1-only
"""The cut-over, every state of it: with `-s` it says how many there were.

Model() is the code but for what `test_known_holes` lets in."""

import pytest

import cutover_model
from cutover_model import START, Model, Raised, State, Violation, explore
from fake_pool import FakePool, add_vdi
from storage_motion.errors import MirrorBroken, MoverFailed
from storage_motion.journal.steps import ATTACHED, DETACHED, LOCKED, LOCKING, OPEN, OPENING
from storage_motion.switch.disk_switch import TRANSITIONS, DiskSwitch, Transition

MARK = "sxm m"
HOST = "host_OpaqueRef:1"


@pytest.fixture(scope="module")
def found():
    return explore(Model())


@pytest.fixture(scope="module")
def sibling():
    """What can become of a disk while another one's gate stays shut."""
    return explore(Model(sibling=True))


def assert_safe(one):
    print(
        "\n%d states, %d steps; %d can only end as undecided"
        % (len(one.states), one.steps, len(one.only_undecided))
    )
    assert one.violation is None, one.trace
    # From every state there is an end, or it is named: `activating`, which a power failure left in
    # the sm_config of the new disk, keeps everybody out, SM itself too.
    assert one.without_end == []
    assert {state.activation for state in one.only_undecided} == {"stuck"}


def test_no_state_lets_both_in_or_starts_a_stale_disk(found):
    assert_safe(found)
    assert {state.worker for state in found.states} >= {"back", "moved", "undecided"}, (
        "a model in which nothing happens shows nothing"
    )


def test_nor_while_the_gate_of_another_disk_stays_shut(sibling):
    assert_safe(sibling)
    workers = {state.worker for state in sibling.states}
    assert workers >= {"back", "undecided"} and "moved" not in workers


def without(condition):
    """The table, with one condition that always holds."""
    return tuple(
        row._replace(condition=DiskSwitch._always) if row.condition is condition else row
        for row in TRANSITIONS
    )


# At the source `relinking` and `paused` each do what the other does, but for this: `relinking`
# outlives a reset and is there before anybody can come and go; `paused` is there even if SM takes
# `relinking` away. So what makes `paused` is looked at without the other, and without the rest.
PAUSED_ALONE = ["no relinking at the source", "no reset", "nobody leaves"]


@pytest.fixture(scope="module")
def paused_alone():
    return explore(Model(changes=PAUSED_ALONE, power=False))


def test_paused_alone_keeps_out_who_stays(paused_alone):
    assert paused_alone.violation is None


def calm(**what):
    """A Model in which no host fails, and no SR is reset: what is noticed without that is noticed
    sooner."""
    return Model(power=False, **what)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(
            calm(
                rows=tuple(
                    row._replace(next=OPENING) if row.step == DETACHED else row
                    for row in TRANSITIONS
                ),
                changes=PAUSED_ALONE,
            ),
            id="open without a pause",
        ),
        pytest.param(
            calm(rows=without(DiskSwitch._nobody_got_in), changes=PAUSED_ALONE),
            id="no second look after the pause",
        ),
        pytest.param(
            calm(
                rows=tuple(
                    row._replace(next=LOCKED) if row.step == DETACHED else row
                    for row in TRANSITIONS
                ),
                changes=PAUSED_ALONE,
            ),
            id="opening without writing the mark",
        ),
        pytest.param(
            calm(changes=PAUSED_ALONE + ["sm looks once"]), id="an SM that does not look again"
        ),
        pytest.param(
            calm(rows=without(DiskSwitch._detached), changes=["unclean"]),
            id="finish without a clean end",
        ),
        pytest.param(
            calm(
                rows=tuple(row for row in TRANSITIONS if row.step != LOCKED and row.step != OPENING)
                + (Transition(LOCKED, DiskSwitch._opened, OPEN, act=DiskSwitch._have_it_finish),)
            ),
            id="opening is not in the journal before it begins",
        ),
        pytest.param(
            calm(changes=PAUSED_ALONE + ["unlock first"], sibling=True),
            id="unlock before the gate is shut",
        ),
        pytest.param(
            calm(changes=["no look after shutting"], sibling=True),
            id="unlock without a look at the destination",
        ),
        pytest.param(
            calm(changes=["no receive-stop"]), id="shut the gate while a finish is under way"
        ),
        pytest.param(
            calm(changes=["gate before tapdisk"]), id="open the gate before the tapdisk is closed"
        ),
        pytest.param(
            calm(changes=["back is the default"]),
            id="take a VM that has ended there for one that never came",
        ),
        pytest.param(
            calm(changes=["lift before noting"]), id="take relinking from a disk that may be led on"
        ),
        pytest.param(calm(changes=["no relinking at the source"]), id="paused without relinking"),
        pytest.param(
            Model(changes=["no relinking at the gate"]),
            id="a gate without relinking, which a reset opens",
        ),
    ],
)
def test_what_would_break_it_is_noticed(broken):
    assert explore(broken).violation


@pytest.mark.parametrize("event, violation", [("coalesce", "activated, and lacks a write")])
def test_known_holes(event, violation):
    """What the code does not withstand (docs/reliability.md). Closed in the code, it goes from here
    into the model."""
    hole = explore(Model(events=[event], power=False))
    print("\n%s: %s\n  %s" % (event, hole.violation, "\n  ".join(hole.trace)))
    assert hole.violation == violation


# What ties the model to the code.


def test_the_model_has_a_condition_for_each_of_the_code_and_takes_no_other_step(found):
    assert Model().rows is TRANSITIONS
    named = [one.__name__ for row in TRANSITIONS for one in (row.act, row.condition)]
    assert all(hasattr(Model, name) for name in named)
    # Of the steps of the table all are reached; DETACHED after LOCKING needs a pause of SM's own,
    # which is not modelled.
    assert {state.step for state in found.states} == {row.step for row in TRANSITIONS} | {OPEN}


class FakeMover:
    """The mover and the receiver of a state."""

    key = "disk"

    def __init__(self, state):
        self.state = state

    def status(self):
        if self.state.mover == "dead":
            raise MoverFailed("disk", "dead")
        name = {"on": "mirroring", "bye": "mirroring"}.get(self.state.mover, self.state.mover)
        return {"state": name, "clean": name == "ended", "error": None}

    def finish(self, mirrored):
        if self.state.finish == "failed" or not (
            self.state.mover == self.state.role == "ended" and self.state.destination_up
        ):
            raise MoverFailed("disk", "not finished")


def by_the_code(state):
    """One advance of the real DiskSwitch in a state that stands still: (the steps that it noted,
    paused or not, raised or not)."""
    pool, notes, raised = FakePool("A"), [], False
    tags = dict(
        {"paused": MARK} if state.source_paused else {},
        **{HOST: "RW"} if state.tag or state.intruder in cutover_model.TAGGED else {},
    )
    if state.intruder in ("act", "tag", "back", "stuck"):
        tags["activating"] = "True"
    vdi = add_vdi(pool, "OpaqueRef:sr", sm_config=tags)
    one = DiskSwitch(pool, vdi, FakeMover(state), True, MARK, notes.append, state.step)
    try:
        one.advance()
        if one._opening is not None:
            one._opening.join(60)
            one.advance()
    except (MirrorBroken, MoverFailed):
        raised = True
    return notes, "paused" in pool.tables["VDI"][vdi]["sm_config"], raised


def by_the_model(model, state):
    """The same by the model's conditions."""
    notes = []
    for row in TRANSITIONS:
        if row.step == state.step:
            try:
                holds, state = model.take(row, state)
                if row.step == OPENING and not holds:
                    holds, state = model.take(row, state._replace(finish="ok"))
            except Raised:
                return notes, state.source_paused, True
            if holds:
                state = state._replace(step=row.next)
                notes.append(row.next)
    return notes, state.source_paused, False


def test_the_code_does_in_every_state_what_the_model_does(found, paused_alone):
    # A worker that takes it up again asks for the finish anew, and one that is done answers the
    # same: so `finish` is "" or failed.
    seen = {
        START._replace(
            **{
                name: getattr(state, name)
                for name in (
                    "step",
                    "source_paused",
                    "tag",
                    "intruder",
                    "mover",
                    "role",
                    "destination_up",
                )
            }
        )
        for state in found.states + paused_alone.states
        if state.worker == "lead"
    }
    print("\nthe real DiskSwitch in %d situations" % len(seen))
    model = Model()
    # which the model makes one
    seen |= {state._replace(mover="broken") for state in seen if state.mover == "dead"}
    for state in seen:
        assert by_the_code(state) == by_the_model(model, state), state


def test_a_state_is_what_the_model_says_it_is():
    with pytest.raises(Violation):
        cutover_model.require(State(*START._replace(intruder="on", vm_there="run")))
    assert START.step == ATTACHED and LOCKING in {row.step for row in TRANSITIONS}
