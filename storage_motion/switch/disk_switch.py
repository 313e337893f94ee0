# SPDX-License-Identifier: LGPL-2.1-only
"""The switch of one disk from the source to the destination (docs/design.md, 2).

At no instant can both sides activate the disk: the source is locked, and known not to be active,
before the destination's gate opens; and on the way back the destination's gate is shut, and known
not to be active, before the source is unlocked (phases/shut_gates.py). How a key in sm_config keeps
SM out is told in gate.py.
"""

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Sequence

from storage_motion.errors import MirrorBroken, MotionError, MoverFailed
from storage_motion.journal import closing
from storage_motion.journal.steps import ATTACHED, DETACHED, LOCKED, LOCKING, OPEN, OPENING
from storage_motion.sm import active, marks
from storage_motion.switch import gate
from storage_motion.wire.mover_status import BROKEN, ENDED, fault_of

if TYPE_CHECKING:
    import XenAPI

    from storage_motion.plan.plan import Disk
    from storage_motion.switch.protocols import Migration, MoverHandle

# Seconds between two looks at what somebody else tells of at once, or something cheaper shows
# first: for when they do not. The disks of a suspended guest are looked at every few milliseconds.
UNTOLD = 0.25

log = logging.getLogger("sxm")


class DiskSwitch:
    """One disk's way through the switch.

    `source`: session of the source pool; `vdi`: the ref there; `mover`: its MoverHandle;
    `mirrored`: whether a mirror has to end first; `mark`: what to write as `paused`, so that it is
    known as ours; `note(step)`: writes how far it is to the journal; `closed()`: whether the guest
    has closed, for the move, a disk without a mirror; `served()`: whether SM's deactivation at the
    source has surely not come far yet, as this host's files show; `heard(status)`: takes what the
    mover says."""

    def __init__(
        self,
        source: "XenAPI.Session",
        vdi: str,
        mover: "MoverHandle",
        mirrored: bool,
        mark: str,
        note: Callable[[str], None],
        step: Optional[str] = None,
        closed: Callable[[], bool] = lambda: True,
        served: Callable[[], bool] = lambda: False,
        heard: Callable[[Dict[str, Any]], None] = lambda status: None,
    ) -> None:
        self._served = served
        self._heard = heard
        self._awaited = False  # a thread waits for the mover to tell of its mirror's end
        self._asked: Dict[str, float] = {}  # condition -> when it was last looked at
        self._api = source.xenapi.VDI
        self._vdi = vdi
        self._mover = mover
        self.mirrored = mirrored
        self._closed = closed
        self._mark = mark
        self._note = note
        self._locked = False
        self._opening: "Optional[_Finish]" = None
        self.step = step or ATTACHED

    def advance(self) -> bool:
        """Go as far as it goes now; to be called again until it answers True: the gate is open.

        Whatever it raises, it may be called again. Raises MirrorBroken if the destination lacks a
        write, or MoverFailed; the gate is then still shut, except if `step` is OPENING, when it is
        not known."""
        return advance_all([self], lambda steps: self._note(steps[self.key]))

    @property
    def key(self) -> str:
        """The disk's."""
        return self._mover.key

    def await_end(self) -> bool:
        """Wait for some seconds for the mirror to be over. Whether it is; to be called again until
        then, or `advance` asks the mover less often than it is called. Raises MoverFailed."""
        self._awaited = True
        try:
            over = self._mover.await_end()
        except Exception:
            self._awaited = False
            raise
        self._awaited = not over
        return over

    def _soon_enough(self, condition: str) -> bool:
        """Whether a condition that is not to be expected yet was looked at just now."""
        now = time.monotonic()
        if now - self._asked.get(condition, -UNTOLD) < UNTOLD:
            return True
        self._asked[condition] = now
        return False

    def _detached(self) -> bool:
        if not self.mirrored:
            return self._closed()
        if self._awaited and self._soon_enough("detached"):
            return False
        status = self._mover.status()
        self._heard(status)
        if status["state"] == BROKEN:
            raise fault_of(self._mover.key, status, str(status.get("error")))
        if status["state"] != ENDED:
            return False
        if not status["clean"]:
            raise MirrorBroken(self._mover.key, "it did not end cleanly")
        return True

    def _no_action(self) -> None:
        pass

    def _lock_it(self) -> None:
        self._locked = gate.put(self._api, self._vdi, marks.PAUSED, self._mark)

    def _have_it_finish(self) -> None:
        """Without waiting for it: the other disks of the VM finish meanwhile."""
        if self._opening is None:
            self._opening = _Finish(self._mover, self.mirrored)

    def _opened(self) -> bool:
        """What has failed is forgotten when it has been told: it may be asked for again."""
        assert self._opening is not None
        if self._opening.is_alive():
            return False
        finish, self._opening = self._opening, None
        if not finish.opened:
            raise finish.error
        return True

    def _always(self) -> bool:
        return True

    def _paused_by_another(self) -> bool:
        """Whether our mark could not be written, as SM itself has paused the disk for a moment."""
        return not self._locked

    def _idle(self) -> bool:
        if self._served() and self._soon_enough("idle"):
            return False  # a call of xapi for each look at each disk delays what is waited for
        return gate.is_free(self._api.get_sm_config(self._vdi))

    def _nobody_got_in(self) -> bool:
        config: Dict[str, str] = self._api.get_sm_config(self._vdi)
        if gate.active(config):
            # The mirror has ended, so what the source writes from now on would never reach the
            # destination.
            raise MirrorBroken(self._mover.key, "the disk was activated again at the source")
        return marks.ACTIVATING not in config


def advance_all(switches: Sequence[DiskSwitch], note: Callable[[Dict[str, str]], None]) -> bool:
    """Advance several disks, as `DiskSwitch.advance` does one: each transition of all of them,
    noted at once by `note({disk's key: step})`, as each note costs the guest a sync of a file.
    Whether all gates are open. Where one raises, the others are led on the next time."""
    for transition in TRANSITIONS:
        reached = []
        for one in switches:
            if one.step == transition.step:
                transition.act(one)
                if transition.condition(one):
                    reached.append(one)
        if reached:
            # first: what cannot be noted has not been reached, and nothing that follows is done
            note({one.key: transition.next for one in reached})
            for one in reached:
                one.step = transition.next
    return all(one.step == OPEN for one in switches)


def has_begun(m: "Migration", disk: "Disk") -> bool:
    """Whether a disk of a migration has been led on, as its journal says."""
    return bool(m.disk(disk.key).get("gate", ATTACHED) != ATTACHED)


def of_disk(m: "Migration", disk: "Disk") -> DiskSwitch:
    """The switch of a disk of a migration, as far as its journal says that it is."""

    def closed() -> bool:
        # In this order: a guest that closes its disks itself has that told before.
        return not m.plan.uses(disk) or (
            not active.is_served(disk.source_sr, disk.key) and closing.noted(m.id) is None
        )

    return DiskSwitch(
        m.source,
        m.source_vdi(disk),
        m.mover(disk.key),
        m.plan.mirrors(disk),
        marks.of_source(m.id),
        lambda step: m.note(disk.key, gate=step),
        m.disk(disk.key).get("gate"),
        closed,
        lambda: active.is_served(disk.source_sr, disk.key),
        lambda status: m.progress.take(disk.key, status),
    )


class Transition(NamedTuple):
    """At `step` it is `act(switch)`, each time; then from `step` to `next`, if `condition(switch)`.
    Both may raise."""

    step: str
    condition: Callable[[DiskSwitch], bool]
    next: str
    act: Callable[[DiskSwitch], None] = DiskSwitch._no_action


# One pass in this order is one `advance`. The model of the cut-over
# (tests/unit/fakes/cutover_model.py) goes by it too.
TRANSITIONS = (
    Transition(ATTACHED, DiskSwitch._detached, DETACHED),
    Transition(DETACHED, DiskSwitch._idle, LOCKING),
    Transition(LOCKING, DiskSwitch._paused_by_another, DETACHED, act=DiskSwitch._lock_it),
    Transition(LOCKING, DiskSwitch._nobody_got_in, LOCKED),
    Transition(LOCKED, DiskSwitch._always, OPENING),
    Transition(OPENING, DiskSwitch._opened, OPEN, act=DiskSwitch._have_it_finish),
)


class _Finish(threading.Thread):
    """The mover's `finish`, which takes as long as the destination's SM needs to open the gate.
    `opened`: whether it has said that the gate is open; `error`: else, why not."""

    def __init__(self, mover: "MoverHandle", mirrored: bool) -> None:
        super(_Finish, self).__init__(name="finish", daemon=True)
        self._mover = mover
        self._mirrored = mirrored
        self.opened = False
        self.error: MotionError = MoverFailed(mover.key, "it has not said whether the gate is open")
        self.start()

    def run(self) -> None:
        try:
            self._mover.finish(self._mirrored)
            self.opened = True
        except MotionError as error:
            self.error = error
        except Exception as error:
            log.exception("finish of %s", self._mover.key)
            self.error = MoverFailed(
                self._mover.key, "whether the gate is open is not known: %r" % error
            )
