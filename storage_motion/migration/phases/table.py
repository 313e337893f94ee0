# SPDX-License-Identifier: LGPL-2.1-only
"""The phases of a migration, each with what takes it back: the one table that run.py goes
through.

    running VM                      halted VM                        halted VM that is copied
    claim    <-> release            claim    <-> release             claim    <-> release
    eject    <-> insert             -                                -
    history  <-> abort receiving    history  <-> abort receiving     -
    receive  <-> abort receiving    receive  <-> abort receiving     receive  <-> abort receiving
    sync     <-> stop mirrors       sync     <-> stop copies         sync     <-> stop copies
    remap    <-> remove the remap   -                                -
    move     <-> shut the gates     hand-over <-> shut the gates     open     <-> shut the gates
    -                               adopt    <-> give back           adopt    <-> give back
    ----------------------------- the point of no return -----------------------------
    complete                        known                            keep
    clean-up                        clean-up                         -
    end                             end                              end-there
    -                               -                                let-go

What breaks under sync or behind it is taken up again: back to sync, by the undos; then what is
broken is cleared away, and sync done again. So is history, which only a VM with snapshots has.

Every action takes the Migration and is idempotent: it may find part of its work done, or none, and
an undo also finds its phase half done. An undo never touches what it is not sure of: it raises
Undecided, and nothing further is undone.
"""

from typing import TYPE_CHECKING, Callable, List, NamedTuple, Optional

from storage_motion.migration import known_at_destination
from storage_motion.migration.phases import (
    adopt,
    cd_drives,
    claim,
    cleanup,
    complete,
    copied_vm,
    history,
    move,
    receive,
    release,
    remap,
    shut_gates,
    sync,
)

if TYPE_CHECKING:
    from storage_motion.migration.migration import Migration
    from storage_motion.plan.plan import Plan


def _always(plan: "Plan") -> bool:
    return True


def _live(plan: "Plan") -> bool:
    return plan.live


def _live_cross_pool(plan: "Plan") -> bool:
    return plan.live and plan.cross_pool


def _with_snapshots(plan: "Plan") -> bool:
    return bool(plan.history)


def _halted(plan: "Plan") -> bool:
    return not plan.live


def _moved(plan: "Plan") -> bool:
    return not plan.copy


def _moved_halted(plan: "Plan") -> bool:
    return not plan.live and not plan.copy


def _copied(plan: "Plan") -> bool:
    return plan.copy


class Phase(NamedTuple):
    """`applies(plan)`, `do(migration)`, `undo(migration)`; an `undo` of None: past the point of no
    return.

    `clear_broken(migration)`: makes ready for another `do`, when something of what it did has
    broken, in this phase or a later one."""

    name: str
    title: str
    applies: Callable[["Plan"], bool]
    do: Callable[["Migration"], None]
    undo: Optional[Callable[["Migration"], None]]
    clear_broken: Optional[Callable[["Migration"], None]] = None
    # behind the point of no return: what follows would make it impossible, so it waits for a
    # recovery
    essential: bool = False


# fmt: off
PHASES = (
    # name, what the user reads, for, do, undo
    Phase("claim", "claiming the VM", _always, claim.claim, release.release),
    Phase("eject", "ejecting CDs", _live, cd_drives.eject, cd_drives.insert),
    Phase("history", "copying the disks of snapshots", _with_snapshots, history.send, history.stop, history.clear_broken),  # noqa: E501
    Phase("receive", "preparing the destination", _always, receive.begin, receive.abort),
    Phase("sync", "copying and mirroring the disks", _always, sync.synchronise, sync.stop, sync.clear_broken),  # noqa: E501
    Phase("remap", "describing the VM to the pool", _live_cross_pool, remap.bring_live, remap.remove),  # noqa: E501
    Phase("move", "moving the VM", _live, move.move, shut_gates.shut_gates),
    Phase("hand-over", "handing the disks over", _moved_halted, move.hand_over, shut_gates.shut_gates),  # noqa: E501
    Phase("open", "opening the new disks", _copied, copied_vm.open_disks, shut_gates.shut_gates),
    Phase("adopt", "giving the VM its disks", _halted, adopt.adopt, adopt.give_back),
    # ------------------------ the point of no return ------------------------
    Phase("complete", "completing the move", _live, complete.complete, None, essential=True),
    Phase("known", "seeing that the VM is known", _moved_halted, known_at_destination.keep_halted, None, essential=True),  # noqa: E501
    Phase("clean-up", "cleaning up behind the VM", _moved, cleanup.clean_up, None),
    Phase("end", "ending", _moved, cleanup.end, None),
    Phase("keep", "seeing that the copy is known", _copied, copied_vm.keep, None, essential=True),
    Phase("end-there", "letting go of the copy", _copied, copied_vm.end_there, None),
    Phase("let-go", "letting go of the VM", _copied, copied_vm.let_go, None),
)
# fmt: on
NAMES = tuple(phase.name for phase in PHASES)
UNDO = "undo "  # before the name of a phase that is being taken back
_TITLES = {phase.name: phase.title for phase in PHASES}


def of(plan: "Plan", first: Optional[str] = None) -> List[Phase]:
    """The phases that a plan goes through, in order; those from `first` on, if that is named."""
    applying = [phase for phase in PHASES if phase.applies(plan)]
    names = [phase.name for phase in applying]
    return applying[names.index(first) if first else 0 :]


def title(name: Optional[str]) -> str:
    """What the user reads of a journal's phase: of None, of a phase's name, or of one that is being
    taken back."""
    if name is None:
        return "starting"
    undoing = name.startswith(UNDO)
    forward = name[len(UNDO) :] if undoing else name
    return ("taking back: " if undoing else "") + _TITLES.get(forward, forward)
