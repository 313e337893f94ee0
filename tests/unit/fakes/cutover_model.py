# SPDX-License-Identifier: LGPL-2.1-only
"""A model of the cut-over of one disk, small enough to look at every state that it can get into.

Of several disks this is the last one whose gate opens; with `sibling`, another one, while the last
gate stays shut.

It goes by the code's own table, disk_switch.TRANSITIONS; each of its conditions, and everything
else that another process could see or be killed between, is one step here. What the others do is
read from:
real SM's blktap2._add_tag and _deactivate_locked; xenops_server's VM.migrate (docs/facts/xapi.md);
whereabouts.decide, shut_gates.shut_gates; received_disk._finish; FilledDisk.finish.

A worker may give up leading the gates at any moment (a cancel, an error, a xapi that is away), and
xenopsd's task may fail at any moment: so no time-out needs a clock.

With `databases` each pool's xapi may be killed at any moment, and comes back with its database as
it was at any moment since it was last known to be on disk (xapi writes it when it likes, and upon
`pool.sync_database`): what was noted since may be gone. It makes the host_ keys anew from what its
storage layer knows, and shuts down a VM that runs and that it does not know, or knows elsewhere
(xapi_xenops.ml, resync_resident_on). `databases`: "two" pools, or the "one" of a move within it.
"""

import collections
import gc

from storage_motion.journal.steps import ATTACHED, DETACHED, LOCKED, OPEN, OPENING
from storage_motion.switch import disk_switch

State = collections.namedtuple(
    "State",
    (
        # lead, stop, where, where+ / where= / where- (new disk seen active, open and free,
        # neither), shut, look, keep, unlock,
        "worker",
        # halt, lift, abort, release; complete, secure, clean, end; back and moved: the two ends;
        # undecided; dead
        "step",  # the gate's, as it is in the journal
        "row",  # of disk_switch.TRANSITIONS, that the worker is at
        "asked",  # journal: xenopsd has been asked to move the VM
        "committed",  # journal: past the point of no return
        "source_up",
        "destination_up",
        "source_paused",  # source VDI, sm_config: our `paused`
        "source_relinking",  # source VDI, sm_config: our `relinking`
        "tag",  # source VDI, sm_config: the host_ key of the VM that is to move
        "intruder",  # somebody else's activation at the source; see ACTIVATION
        "source_whole",
        "source_gone",  # has all acknowledged writes; has been destroyed
        "vm_here",  # run, suspended, down, gone
        "task",  # xenopsd's: asked, suspended, closed, untagged, sent; done, failed, lost
        "mover",  # on, bye, ended, broken, dead
        "role",  # the receiver's mirror role: open, ended, broken, dead
        # "", asked (SM's command has begun), closed (tapdisk gone), noted (in the witness),
        # relinking gone, opened, ok, failed
        "finish",
        "holds",  # the receiver has opened the gate, and opens it again whenever it has come back shut  # noqa: E501
        "again",  # a receiver that is gone has left a command of SM's that does that
        "tapdisk",  # the receiver's is open
        "gate_paused",  # destination VDI, sm_config: `paused`
        "gate_relinking",  # destination VDI, sm_config: `relinking`
        "activation",  # the destination xenopsd's; see ACTIVATION
        "whole",
        "gone",  # the destination VDI's
        "vm_there",  # none, wait, run, left (its xenopsd has died), over (it ran, and has ended)
        "witness",  # the destination's own file: the tapdisk is closed, and the gate is being opened  # noqa: E501
        "known_here",  # xapi has a record of the source VDI
        # xapi has records of what is at the destination: the VDI and, of two pools, the VM
        "known_there",
        "resident",  # xapi has the VM down as running at the destination, on its new disk
        # what may be on disk of the databases: a bit for each content; `past_here` alone where it
        # is one
        "past_here",
        "past_there",
    ),
)

# An activation by SM: "", looked (no `paused`), act (has written `activating`), tag (and host_),
# back (has seen `paused`, and taken host_ away), on. After a power failure: stuck (`activating`
# stays for good), off (host_ stays until the next boot).
ACTIVATING, TAGGED = ("act", "tag", "back", "stuck"), ("tag", "on", "off")

START = State(
    worker="lead",
    step=ATTACHED,
    row=0,
    asked=True,
    committed=False,
    source_up=True,
    destination_up=True,
    source_paused=False,
    source_relinking=True,
    tag=True,
    intruder="",
    source_whole=True,
    source_gone=False,
    vm_here="run",
    task="asked",
    mover="on",
    role="open",
    finish="",
    holds=False,
    again=False,
    tapdisk=True,
    gate_paused=True,
    gate_relinking=True,
    activation="",
    whole=True,
    gone=False,
    vm_there="none",
    witness=False,
    known_here=True,
    known_there=True,
    resident=False,
    past_here=0,
    past_there=0,
)
# what is in the databases
HERE = ("source_paused", "source_relinking", "known_here")
THERE = ("gate_paused", "gate_relinking", "known_there", "resident")
ENDS = ("back", "moved")


class Raised(Exception):
    """A condition of the gate has raised: the worker gives up."""


class Violation(Exception):
    """Something that must never be."""


class Model:
    """`rows`: in place of disk_switch.TRANSITIONS. `changes`: names of what is done otherwise than
    in the code (see the tests). `events`: names of what may happen beside what always may. `power`:
    whether hosts may fail; `data`: whether mirror, mover and receiver may. `sibling`, `databases`:
    see above."""

    def __init__(
        self,
        rows=disk_switch.TRANSITIONS,
        changes=(),
        events=(),
        power=True,
        data=True,
        sibling=False,
        databases=None,
    ):
        self.rows, self.changes, self.events = rows, frozenset(changes), frozenset(events)
        self.power, self.data, self.sibling, self.databases = power, data, sibling, databases
        self.start = START._replace(
            source_relinking="no relinking at the source" not in self.changes,
            gate_relinking="no relinking at the gate" not in self.changes,
        )
        if databases:
            self.start = self._kept(self.start._replace(past_here=0, past_there=0))
            if "no sync of the source before the move" in self.changes:
                self.start = self._also(self.start, source_relinking=False)
            if "no sync of the destination before the move" in self.changes:
                self.start = self._also(
                    self.start, known_there=False, gate_paused=False, gate_relinking=False
                )

    # The databases.

    def _parts(self):
        """[(the field that has what may be on disk, the fields that are in that database)]"""
        return (
            [("past_here", HERE + THERE)]
            if self.databases == "one"
            else [("past_here", HERE), ("past_there", THERE)]
        )

    def _kept(self, s):
        """What is in the databases now may be on disk from now on."""
        if not self.databases:
            return s
        return s._replace(
            **{past: getattr(s, past) | 1 << _packed(s, fields) for past, fields in self._parts()}
        )

    def _also(self, s, **content):
        """The same of another content, that was before."""
        other = self._kept(s._replace(**content))
        return s._replace(past_here=other.past_here, past_there=other.past_there)

    def _synced(self, s, change, *parts):
        """What is in these databases now is on disk, unless that is left out by `change`."""
        return (
            s
            if change in self.changes
            else s._replace(
                **{past: 0 for past, _ in self._parts() if past in parts or self.databases == "one"}
            )
        )

    def _goes_back(self, s):
        """A xapi is killed, and is back."""
        for past, fields in self._parts():
            for content in _bits(getattr(s, past)):
                after = s._replace(**dict(_unpacked(content, fields), **{past: 0}))
                known = after.known_there and (after.resident or self.databases == "two")
                if "gate" in fields:
                    if s.activation in ("looked", "act", "tag", "back"):
                        # SM's command cannot tell xapi any more
                        after = after._replace(activation="")
                    if s.vm_there == "run" and not known:
                        if self.databases == "two":
                            raise Violation("a guest is shut down by its own xapi")
                        after = self._let_go(after._replace(vm_there="over"))
                if s.intruder in ("looked", "act", "tag", "back") and "source_relinking" in fields:
                    after = after._replace(intruder="")
                yield "xapi %s is killed, and its database goes back" % past[len("past_") :], after

    @staticmethod
    def _let_go(s):
        """SM deactivates the new disk, unless it is `paused`: then once that is gone."""
        return s._replace(activation="" if s.activation != "on" or not s.gate_paused else "on")

    # What the switch does, and its conditions: one for each function that TRANSITIONS names.
    # The first have the state after them.

    def _no_action(self, s):
        return s

    def _lock_it(self, s):
        return s._replace(source_paused=True)

    def _have_it_finish(self, s):
        if s.finish != "":
            return s
        if (
            ((s.mover, s.role) != ("ended", "ended") and "unclean" not in self.changes)
            or "dead" in (s.mover, s.role)
            or not s.destination_up
        ):
            raise Raised()
        return s._replace(finish="asked")

    def _detached(self, s):
        if s.mover in ("broken", "dead") and "unclean" not in self.changes:
            raise Raised()
        return s.mover not in ("on", "bye")

    def _idle(self, s):
        return not (s.tag or s.intruder in ACTIVATING + TAGGED)

    def _paused_by_another(self, s):
        return not s.source_paused

    def _nobody_got_in(self, s):
        if s.tag or s.intruder in TAGGED:
            raise Raised()
        return s.intruder not in ACTIVATING

    def _always(self, s):
        return True

    def _opened(self, s):
        if s.finish == "failed" or s.mover == "dead" and s.finish != "ok":
            raise Raised()
        return s.finish == "ok"

    def take(self, row, s):
        """Act as a row has it. (Whether its condition holds then, the state after it.)"""
        after = getattr(self, row.act.__name__)(s)
        return getattr(self, row.condition.__name__)(after), after

    # What may happen in a state: pairs (what, the next state).

    def next(self, s):
        """All that can happen next."""
        # At an end only a user is left to come, and to start the VM.
        for actor in (
            (self._intruder,)
            if s.worker in ENDS
            else (
                self._worker,
                self._xenopsd_here,
                self._xenopsd_there,
                self._data,
                self._open_again,
                self._intruder,
                self._crashes,
            )
        ):
            for what, state in actor(s):
                if state != s:
                    yield what, self._kept(self._written(state))
        for what, state in self._goes_back(s) if self.databases else ():
            if state != s:
                yield what, self._kept(self._written(state))

    def _written(self, s):
        """What runs, writes: a disk that does not get it is not whole any more."""
        if s.vm_here == "run" and s.mover != "on" or s.intruder == "on":
            s = s._replace(whole=False)
        # States that differ in nothing that anybody asks any more are one.
        if "unclean" not in self.changes:
            # Neither finishes: all that could tell broken from dead is a switch that does not look.
            if s.mover in ("broken", "dead"):
                s = s._replace(mover="dead", finish="failed" if s.finish == "opened" else s.finish)
            if s.role == "broken":
                s = s._replace(role="dead")
        if s.role == "dead" or s.gone:
            s = s._replace(holds=False)
        if s.committed or s.gone:
            # Nobody shuts the gate on purpose any more: when it is opened again, and by whom, makes
            # no difference.
            s = s._replace(
                mover="dead",
                role=s.role if s.holds else "dead",
                finish="failed",
                tapdisk=False,
                again=False,
            )
        return s._replace(source_whole=False) if s.vm_there == "run" else s

    def _worker(self, s):
        w, to = s.worker, s._replace
        if w in ("dead", "undecided") and s.source_up:
            first = (
                "complete" if s.committed else "lead" if s.asked else "abort" if s.gone else "stop"
            )
            yield (
                "recovery: " + first,
                to(
                    worker=first,
                    row=0,
                    source_paused=s.source_paused
                    or not s.committed
                    and s.step in (LOCKED, OPENING, OPEN),
                    source_relinking=self.start.source_relinking
                    and not s.committed
                    and (s.asked or s.step != ATTACHED)
                    or s.source_relinking,
                ),
            )
        if w in ENDS or w == "dead":
            return
        yield "worker killed", to(worker="dead", row=0)
        for found in (
            self._lead(s)
            if w == "lead"
            else self._looking(s)
            if w.startswith("where") or w == "stop"
            else (
                self._forward(s) if w in ("complete", "secure", "clean", "end") else self._back(s)
            )
        ):
            yield found

    def _looking(self, s):
        """whereabouts.decide"""
        w, to = s.worker, s._replace
        if w == "stop" and (s.step not in (OPENING, OPEN) or "no receive-stop" in self.changes):
            yield "nothing to stop", to(worker="where")
        elif w == "stop" and s.destination_up:
            if s.role != "dead":
                for left in (False, True) if s.holds else (False,):
                    yield (
                        "receive-stop: the receiver is ended",
                        to(
                            role="dead",
                            mover="broken" if s.mover in ("on", "bye") else s.mover,
                            again=left,
                        ),
                    )
            elif s.finish not in ("asked", "closed", "noted", "relinking gone") and (
                not s.again or "no wait for an opening again" in self.changes
            ):
                yield (
                    "receive-stop: no finish is under way any more",
                    to(worker="where", finish="failed"),
                )
        elif w == "where" and s.destination_up:
            free = s.activation not in ACTIVATING + TAGGED
            opened = self._opened_by_the_journal(s) and not self.sibling
            if s.activation == "on" and s.gate_paused and self._opened_by_the_journal(s):
                yield (
                    "opens the gate again of a disk that is active",
                    to(gate_paused=False, gate_relinking=False),
                )
            elif s.activation in TAGGED:
                yield "looks: the new disk is active", to(worker="where+")
            elif not opened:
                yield "looks: the new disk is not active, and a gate is shut", to(worker="where-")
            elif free:
                yield "looks: the new disk is free", to(worker="where=")
        elif w != "where" and s.destination_up:
            if w == "where+" and s.vm_there == "run":
                yield "finds the VM there", self._noted_opened(s)
            elif w == "where=" and s.vm_there in ("none", "over"):
                # It may have run, so the new disk is the one that has everything.
                yield (
                    "finds that the VM has ended there, or never came",
                    to(worker="shut")
                    if "back is the default" in self.changes
                    else (self._noted_opened(s)),
                )
            elif w == "where-" and s.vm_there != "run":
                yield (
                    "finds the VM not there",
                    to(worker="unlock" if "unlock first" in self.changes else "shut"),
                )
            else:
                yield "cannot tell", to(worker="where")
        yield "cannot tell where the VM is", to(worker="undecided")

    def _opened_by_the_journal(self, s):
        """Whether the gate has been opened, by what no xapi can forget."""
        if "sm_config decides" in self.changes:
            return s.step in (OPENING, OPEN) and not s.gate_relinking
        return s.step == OPEN or s.step == OPENING and s.witness

    def _noted_opened(self, s):
        opened = self._opened_by_the_journal(s)
        return s._replace(worker="complete", step=OPEN if opened else s.step)

    def _lead(self, s):
        yield "gives up", s._replace(worker="stop", row=0)
        if s.step == OPEN and s.destination_up and (s.gate_paused or s.gate_relinking):
            yield "opens the gate again", s._replace(gate_paused=False, gate_relinking=False)
        if s.task == "done" and s.step == OPEN:
            yield "the VM has moved", s._replace(worker="complete", row=0)
        index = next((i for i in range(s.row, len(self.rows)) if self.rows[i].step == s.step), None)
        if index is None:
            index = next((i for i in range(s.row) if self.rows[i].step == s.step), None)
        if index is None:
            return
        try:
            holds, after = self.take(self.rows[index], s)
        except Raised:
            return  # "gives up" is there already
        yield (
            "gate %s: %s: %s" % (s.step, self.rows[index].condition.__name__, holds),
            after._replace(step=self.rows[index].next if holds else s.step, row=index + 1),
        )

    def _back(self, s):
        w, to = s.worker, s._replace
        if w == "shut" and s.step not in (OPENING, OPEN):
            yield "the gate was never opened", to(worker="unlock")
        elif w == "shut" and s.destination_up:
            yield (
                "shuts the gate",
                to(worker="look", gate_paused=True, gate_relinking=self.start.gate_relinking),
            )
        elif w == "look" and s.destination_up:
            if s.activation not in ACTIVATING + TAGGED or "no look after shutting" in self.changes:
                yield (
                    "nobody is in",
                    to(worker="halt" if "unlock first" in self.changes else "keep"),
                )
        elif (
            w == "keep"
            and (not s.gate_paused or self.start.gate_relinking and not s.gate_relinking)
            and self.databases
            and "nobody looks after a sync" not in self.changes
        ):
            yield "shuts the gate again", to(worker="shut")
        elif w == "keep" and s.destination_up:
            yield (
                "that it is shut is on disk",
                self._synced(
                    to(worker="unlock"), "no sync of a gate that is shut again", "past_there"
                ),
            )
        elif w == "unlock":
            locked = (
                s.source_paused and s.step == ATTACHED or s.source_paused and s.step == DETACHED
            )
            if "unlock first" in self.changes:
                yield "unlocks", to(worker="shut", source_paused=locked)
            else:
                yield "unlocks", to(worker="halt", source_paused=locked, step=ATTACHED)
        elif w == "halt":
            if s.vm_here == "suspended" and s.task not in ("done", "failed", "lost"):
                pass  # xenopsd has the VM: it does one thing after the other
            elif s.vm_here == "suspended":
                yield "shuts the suspended VM down", self._closed(to(vm_here="down", tag=False))
            elif "lift before noting" in self.changes and s.source_relinking:
                yield "takes relinking away", to(source_relinking=False)
            else:
                yield "notes that there is no move any more", to(worker="lift", asked=False)
        elif w == "lift":
            yield "takes relinking away", to(worker="abort", source_relinking=False)
        elif w == "abort" and s.destination_up:
            if s.activation not in TAGGED:
                yield (
                    "the new disk is destroyed",
                    to(worker="release", gone=True, role="dead", tapdisk=False, known_there=False),
                )
        elif (
            w == "release"
            and (s.source_paused or s.source_relinking or s.known_there)
            and "nobody looks after a sync" not in self.changes
        ):
            yield (
                "takes away again what came back",
                to(source_paused=False, source_relinking=False, known_there=False),
            )
        elif w == "release" and s.destination_up:
            yield (
                "releases the VM",
                self._synced(
                    to(worker="back"), "no sync after the way back", "past_here", "past_there"
                ),
            )
        if w in ("look", "keep", "abort"):
            yield "cannot tell", to(worker="undecided")

    def _forward(self, s):
        to = s._replace
        if s.worker in ("complete", "secure"):
            yield "cannot tell", to(worker="undecided", committed=True)
        if s.worker == "complete" and not s.committed:
            yield "is past the point of no return", to(committed=True)
        elif s.worker == "complete" and s.destination_up:
            if (s.gate_paused or s.gate_relinking) and "not opened again" not in self.changes:
                yield "opens the gate again", to(gate_paused=False, gate_relinking=False)
            elif (
                s.vm_there in ("run", "over", "none")
                and s.activation in ("", "on")
                and (s.vm_there == "run") == (s.activation == "on")
            ):
                yield (
                    "completes",
                    to(
                        worker="secure",
                        resident=True,
                        vm_here="down" if s.vm_here == "suspended" else s.vm_here,
                    ),
                )
        elif (
            s.worker == "secure"
            and (s.gate_paused or s.gate_relinking or not s.resident)
            and "nobody looks after a sync" not in self.changes
        ):
            yield "completes once more", to(worker="complete")
        elif s.worker == "secure" and s.destination_up:
            yield (
                "the destination's database is on disk",
                self._synced(to(worker="clean"), "no sync after complete", "past_there"),
            )
        elif s.worker == "clean" and s.step == OPEN and not s.source_gone:
            yield "destroys the old disk", to(source_gone=True, known_here=False)
        elif s.worker == "clean" and s.step == OPEN:
            yield (
                "the source's database is on disk",
                self._synced(
                    to(worker="end", known_here=False), "no sync after the clean-up", "past_here"
                ),
            )
        elif s.worker == "end" and s.destination_up:
            if (
                s.gate_paused or s.gate_relinking or not s.resident
            ) and "not opened again" not in self.changes:
                yield "completes once more", to(worker="complete")
            else:
                yield (
                    "ends",
                    self._synced(
                        to(worker="moved", role="dead"), "no sync at the end", "past_there"
                    ),
                )

    def _closed(self, s):
        """The source's tapdisk has closed the disk."""
        return s._replace(mover="bye", role="ended") if (s.mover, s.role) == ("on", "open") else s

    def _xenopsd_here(self, s):
        t, to = s.task, s._replace
        if not s.source_up or t in ("done", "failed", "lost"):
            return
        yield "source's xenopsd killed", to(task="lost")
        if t == "asked":
            yield "xenopsd: suspended", to(task="suspended", vm_here="suspended")
            yield "xenopsd: fails early", to(task="failed")
            return
        if t == "suspended":
            yield "xenopsd: tapdisk closed", self._closed(to(task="closed"))
        elif t == "closed" and not s.source_paused:
            yield "xenopsd: host_ removed", to(task="untagged", tag=False)
        elif t == "untagged" and s.destination_up:
            yield "xenopsd: your turn", to(task="sent", vm_there="wait")
        elif t == "sent" and s.vm_there == "run" and s.destination_up:
            yield "xenopsd: moved", to(task="done", vm_here="gone")
        yield (
            "xenopsd: fails late",
            self._closed(to(task="failed", vm_here="down", tag=s.tag and s.source_paused)),
        )

    def _sm(self, activation, paused, gone, dirty):
        """One step of blktap2's activation. Raises Violation if it is one of a disk that lacks a
        write."""
        if activation == "looked":
            return "" if gone else "act"
        if activation == "act":
            return "on" if "sm looks once" in self.changes and not dirty else "tag"
        if activation == "tag":
            if paused and "sm looks once" not in self.changes:
                return "back"
            if dirty:
                raise Violation("activated, and lacks a write")
            return "on"
        return "" if activation == "back" else activation

    def _xenopsd_there(self, s):
        to = s._replace
        if not s.destination_up:
            return
        shut = s.gate_paused or s.gate_relinking
        if s.activation == "" and s.vm_there == "wait" and not shut and not s.gone:
            yield "SM there: looked", to(activation="looked")
        if s.activation in ("looked", "act", "tag", "back"):
            after = self._sm(s.activation, shut, s.gone, not s.whole)
            yield "SM there: " + (after or "out"), to(activation=after)
        if s.vm_there == "wait":
            if s.activation == "on" and not self.sibling:
                yield "the VM runs there", to(vm_there="run")
            if s.activation in ("", "on"):
                yield "xenopsd there gives up", self._let_go(to(vm_there="none"))
            yield "destination's xenopsd killed", to(vm_there="left")
        if s.vm_there == "left" and s.activation in ("", "on"):
            yield "what was left there is shut down", self._let_go(to(vm_there="none"))
        if s.vm_there == "run":
            yield "the VM ends there", self._let_go(to(vm_there="over"))
        if s.vm_there in ("none", "over") and s.activation == "on" and not s.gate_paused:
            yield "SM there lets go of the disk", to(activation="")
        if (
            s.vm_there in ("none", "over")
            and s.activation == ""
            and not shut
            and not s.gone
            and s.known_there
        ):
            yield "somebody starts the VM there", to(vm_there="wait")

    def _data(self, s):
        to = s._replace
        if s.mover == "bye":
            yield "the mover hears that the receiver has all", to(mover="ended")
        if self.data and s.mover in ("on", "bye"):
            yield (
                "the mirror breaks",
                to(mover="broken", role="broken" if s.role == "open" else s.role),
            )
        if self.data and s.mover != "dead":
            yield "mover killed", to(mover="dead", role="broken" if s.role == "open" else s.role)
        if self.data and s.role != "dead":
            # The command of SM that it has begun goes on.
            for left in (False, True) if s.holds else (False,):
                yield (
                    "receiver killed",
                    to(
                        role="dead",
                        mover="broken" if s.mover in ("on", "bye") else s.mover,
                        again=left,
                    ),
                )
        if s.finish == "" and s.role == "ended" and s.tapdisk and s.destination_up:
            yield "what stands by to open the gate closes the tapdisk", to(tapdisk=False)
        if s.finish == "asked":
            if "gate before tapdisk" in self.changes:
                yield (
                    "finish: both keys removed",
                    to(finish="closed", gate_paused=False, gate_relinking=False),
                )
            else:
                yield "finish: tapdisk closed", to(finish="closed", tapdisk=False)
        elif s.finish == "closed" and "no witness" in self.changes:
            yield (
                "finish: relinking removed",
                to(finish="relinking gone", tapdisk=False, gate_relinking=False),
            )
        elif s.finish == "closed":
            yield (
                "finish: noted",
                to(
                    finish="noted",
                    tapdisk=False,
                    witness="witness after relinking" not in self.changes,
                ),
            )
        elif s.finish == "noted":
            yield "finish: relinking removed", to(finish="relinking gone", gate_relinking=False)
        elif s.finish == "relinking gone":
            # Where no database goes back the receiver finds nothing to open again.
            holds = self.databases is not None and s.role != "dead"
            yield (
                "finish: done",
                to(
                    finish="opened",
                    gate_paused=False,
                    holds=holds,
                    witness=s.witness or "no witness" not in self.changes,
                ),
            )
        elif s.finish == "opened":
            yield "finish: answered", to(finish="failed" if "dead" in (s.mover, s.role) else "ok")

    def _open_again(self, s):
        """What the receiver has SM do as long as it holds the gate open, and what it may have left
        of that (FilledDisk.open_again)."""
        to = s._replace
        if not s.destination_up:
            return
        if s.committed and s.holds:
            yield "opened again by the receiver", to(gate_paused=False, gate_relinking=False)
        elif s.holds or s.again or "the witness opens again" in self.changes and s.witness:
            yield "open again: relinking removed", to(gate_relinking=False)
            if not s.gate_relinking:
                yield "open again: done", to(gate_paused=False, again=False)

    def _intruder(self, s):
        """Somebody who gets past blocked_operations, or, after the end, a user."""
        to = s._replace
        if (
            s.intruder == ""
            and s.source_up
            and not (s.tag or s.source_paused or s.source_relinking or s.source_gone)
            and s.vm_here != "run"
        ):
            yield "SM here: looked", to(intruder="looked")
        if s.intruder in ("looked", "act", "tag", "back"):
            after = self._sm(
                s.intruder, s.source_paused or s.source_relinking, s.source_gone, not s.source_whole
            )
            yield "SM here: " + (after or "out"), to(intruder=after)
        if s.intruder == "on" and "nobody leaves" not in self.changes:
            yield "the intruder leaves", to(intruder="")

    def _crashes(self, s):
        to = s._replace
        if "coalesce" in self.events and s.worker not in ENDS:
            yield "SM relinks the source's disk", to(source_relinking=False)
        if not self.power:
            return
        power = {"looked": "", "act": "stuck", "tag": "stuck", "back": "stuck", "on": "off"}
        if s.source_up:
            yield (
                "source: power failure",
                to(
                    source_up=False,
                    worker=s.worker if s.worker in ENDS else "dead",
                    row=0,
                    mover="dead",
                    role="broken" if s.role == "open" else s.role,
                    task=s.task if s.task in ("done", "failed") else "lost",
                    vm_here="down" if s.vm_here in ("run", "suspended") else s.vm_here,
                    intruder=power.get(s.intruder, s.intruder),
                ),
            )
        else:
            yield (
                "source: boot",
                to(source_up=True, tag=False, intruder=s.intruder.replace("off", "")),
            )
        if "no reset" not in self.changes:
            yield "the source SR's master plugs it again", to(source_paused=False)
            yield "the destination SR's master plugs it again", to(gate_paused=False)
        if s.destination_up:
            yield (
                "destination: power failure",
                to(
                    destination_up=False,
                    role="dead",
                    again=False,
                    mover="broken" if s.mover in ("on", "bye") else s.mover,
                    tapdisk=False,
                    finish="failed"
                    if s.finish in ("asked", "closed", "noted", "relinking gone", "opened")
                    else s.finish,
                    activation=power.get(s.activation, s.activation),
                    vm_there={"wait": "none", "left": "none", "run": "over"}.get(
                        s.vm_there, s.vm_there
                    ),
                ),
            )
        else:
            yield (
                "destination: boot",
                to(destination_up=True, activation=s.activation.replace("off", "")),
            )


def require(s):
    """Raise Violation unless the state is one that may be."""
    here = s.vm_here == "run" or s.intruder == "on"
    there = s.vm_there == "run" or s.activation == "on"
    if here and there:
        raise Violation("active on both sides")
    if not (s.source_paused or s.source_relinking or s.source_gone) and not (
        s.gate_paused or s.gate_relinking or s.gone
    ):
        raise Violation("both disks can be activated")
    if s.tapdisk and there:
        raise Violation("two tapdisks on the new disk")
    if s.worker == "back" and (
        s.source_paused or s.source_relinking or not s.gone or s.known_there
    ):
        raise Violation("taken back, and something is left")
    if s.worker == "moved" and (
        s.gate_paused or s.gate_relinking or s.known_here or not s.known_there or not s.resident
    ):
        raise Violation("moved, and something is left, or forgotten")
    if s.source_gone and not s.gone and not _surely_known(s):
        raise Violation("the source is destroyed, and the destination may forget the VM")
    if s.worker == "back" and not s.source_whole or s.worker == "moved" and not s.whole:
        raise Violation("at an end, and the disk lacks a write")


def _packed(s, fields):
    return sum(1 << index for index, name in enumerate(fields) if getattr(s, name))


def _unpacked(content, fields):
    return {name: bool(content >> index & 1) for index, name in enumerate(fields)}


def _bits(number):
    return [index for index in range(number.bit_length()) if number >> index & 1]


def _surely_known(s):
    """Whether the destination's records of VM and disk are there, whatever of the past comes
    back."""
    fields = THERE if s.past_there else HERE + THERE
    past = [_unpacked(content, fields) for content in _bits(s.past_there or s.past_here)]
    return s.known_there and all(content["known_there"] and content["resident"] for content in past)


Found = collections.namedtuple("Found", "states steps violation trace without_end only_undecided")


def explore(model):
    """Every state that can be reached, breadth first. Found: `violation` (None, or what) with the
    shortest `trace` to it; `without_end`: states from which neither an end nor `undecided` can be
    reached; `only_undecided`: no end, but that."""
    gc.disable()  # millions of small tuples, and no circle among them
    try:
        return _explore(model, model.start)
    finally:
        gc.enable()


def _explore(model, start):
    came, queue, before, steps = (
        {start: None},
        collections.deque([start]),
        collections.defaultdict(list),
        0,
    )
    while queue:
        state = queue.popleft()
        try:
            require(state)
            following = list(model.next(state))
        except Violation as violation:
            return Found(list(came), steps, str(violation), _trace(came, state), (), ())
        for what, after in following:
            steps += 1
            before[after].append(state)
            if after not in came:
                came[after] = (state, what)
                queue.append(after)
    ends = _leading([s for s in came if s.worker in ENDS], before)
    named = _leading([s for s in came if s.worker == "undecided"], before)
    return Found(
        list(came),
        steps,
        None,
        (),
        [s for s in came if s not in ends and s not in named],
        [s for s in came if s not in ends and s in named],
    )


def _leading(goals, before):
    found, queue = set(goals), collections.deque(goals)
    while queue:
        for state in before[queue.popleft()]:
            if state not in found:
                found.add(state)
                queue.append(state)
    return found


def _trace(came, state):
    steps = []
    while came[state] is not None:
        state, what = came[state]
        steps.append(what)
    return list(reversed(steps))
