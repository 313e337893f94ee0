"""The switch of one disk from the source to the destination (contract, "The switch").

At no instant can both sides activate the disk: the source is sealed, and known not to be active, before the destination's
gate opens; and on the way back the destination's gate is shut, and known not to be active, before the source is unsealed.

Seal and gate are the same thing, SM's own: `paused` in a VDI's sm_config. SM's activation looks at it, writes
`activating`, and looks again before it writes its `host_` key (facts: sm, blktap2.VDI); so whoever writes `paused` first
and then sees neither key knows that nobody gets past it any more.

SM clears every `paused` of an SR when the SR's master plugs it, as after a reboot of that host. So each half has a second key, that
SM does not clear: at the destination the bolt (smapi.BOLT_KEY), at the source the bar (control/bar.py).
"""
import logging
import threading
from typing import Callable, NamedTuple

import XenAPI

from storage_motion.control import waiting
from storage_motion.control.movers import BROKEN, ENDED, fault_of
from storage_motion.control.steps import ATTACHED, DETACHED, OPEN, OPENING, SEALED, SEALING
from storage_motion.dom0 import smapi
from storage_motion.errors import GateOpen, MirrorBroken, MotionError, MoverFailed, TimedOut

PAUSED, BOLT = smapi.GATE_KEY, smapi.BOLT_KEY
HOST = "host_"
SETTLE_TIMEOUT = 30.0      # for an activation that was under way, or a deactivation

log = logging.getLogger("sxm")


class Gate:
    """One disk's way through the switch.

    `source`: session of the source pool; `vdi`: the ref there; `mover`: its Mover; `mirrored`: whether a mirror has to end
    first; `seal`: what to write as `paused`, so that it is known as ours; `note(step)`: writes how far it is to the
    journal."""

    def __init__(self, source, vdi, mover, mirrored, seal, note, step=None):
        self._api = source.xenapi.VDI
        self._vdi = vdi
        self._mover = mover
        self._mirrored = mirrored
        self._seal = seal
        self._note = note
        self._opening = None
        self.step = step or ATTACHED

    def advance(self):
        """Go as far as it goes now; to be called again until it answers True: the gate is open.

        Whatever it raises, it may be called again. Raises MirrorBroken if the destination lacks a write, or MoverFailed;
        the gate is then still shut, except if `step` is OPENING, when it is not known."""
        for transition in TRANSITIONS:
            if self.step == transition.step and transition.holds(self):
                self._to(transition.next)
        return self.step == OPEN

    def _to(self, step):
        self._note(step)  # first: what cannot be noted has not been reached, and nothing that follows from it is done
        self.step = step

    def _detached(self):
        if not self._mirrored:
            return True
        status = self._mover.status()
        if status["state"] == BROKEN:
            raise fault_of(self._mover.key, status, str(status.get("error")))
        if status["state"] != ENDED:
            return False
        if not status["clean"]:
            raise MirrorBroken(self._mover.key, "it did not end cleanly")
        return True

    def _opened(self):
        """Have the mover finish, without waiting for it: the other disks of the VM finish meanwhile."""
        if self._opening is None:
            self._opening = _Finish(self._mover, self._mirrored)
        if self._opening.is_alive():
            return False
        finish, self._opening = self._opening, None
        if not finish.opened:
            raise finish.error
        return True

    def _surely(self):
        return True

    def _paused_by_another(self):
        """Write our seal. Whether that cannot be, as SM itself has paused the disk for a moment."""
        return not put(self._api, self._vdi, PAUSED, self._seal)

    def _idle(self):
        return is_free(self._api.get_sm_config(self._vdi))

    def _nobody_got_in(self):
        config = self._api.get_sm_config(self._vdi)
        if active(config):
            # The mirror has ended, so what the source writes from now on would never reach the destination.
            raise MirrorBroken(self._mover.key, "the disk was activated again at the source")
        return smapi.ACTIVATING not in config


class Transition(NamedTuple):
    """From `step` to `next` once `holds(gate)`, which may act first, and may raise."""
    step: str
    holds: Callable
    next: str


# One pass in this order is one `advance`. The model of the cut-over (tests/unit/control/cutover_model.py) goes by it too.
TRANSITIONS = (
    Transition(ATTACHED, Gate._detached, DETACHED),
    Transition(DETACHED, Gate._idle, SEALING),
    Transition(SEALING, Gate._paused_by_another, DETACHED),
    Transition(SEALING, Gate._nobody_got_in, SEALED),
    Transition(SEALED, Gate._surely, OPENING),
    Transition(OPENING, Gate._opened, OPEN),
)


class _Finish(threading.Thread):
    """The mover's `finish`, which takes as long as the destination's SM needs to close a tapdisk. `opened`: whether it has said
    that the gate is open; `error`: else, why not."""

    def __init__(self, mover, mirrored):
        super(_Finish, self).__init__(name="finish", daemon=True)
        self._mover = mover
        self._mirrored = mirrored
        self.opened = False
        self.error = MoverFailed(mover.key, "it has not said whether the gate is open")
        self.start()

    def run(self):
        try:
            self._mover.finish(self._mirrored)
            self.opened = True
        except MotionError as error:
            self.error = error
        except Exception as error:
            log.exception("finish of %s", self._mover.key)
            self.error = MoverFailed(self._mover.key, "whether the gate is open is not known: %r" % error)


def active(sm_config):
    """Whether some host has the disk activated."""
    return any(key.startswith(HOST) for key in sm_config)


def is_shut(sm_config):
    """Whether a gate at the destination is shut: by the bolt, which `finish` takes away first. If only `paused` is there the disk was
    to be opened, and SM may do the rest itself at any time."""
    return sm_config.get(BOLT) == smapi.GATE_SHUT


def is_free(sm_config):
    """Whether no host has the disk active, or is about to."""
    return smapi.ACTIVATING not in sm_config and not active(sm_config)


def shut(session, vdi, uuid):
    """Shut the gate of a VDI at the destination, if it was open, and make it whole, if half of it is gone.

    Raises GateOpen if the disk is in use, or in the hands of SM; then its gate is as it was."""
    api = session.xenapi.VDI
    was_shut = is_shut(api.get_sm_config(vdi))
    try:
        for key in (PAUSED, BOLT):
            if not put(api, vdi, key, smapi.GATE_SHUT):
                raise GateOpen("destination", uuid)
        try:
            waiting.until(lambda: is_free(api.get_sm_config(vdi)), SETTLE_TIMEOUT, "deactivation of %s" % uuid)
        except TimedOut:
            raise GateOpen("destination", uuid)
    except GateOpen:
        if not was_shut:
            open_again(session, vdi)  # who has it active could not be rid of it: SM lets nobody deactivate what is paused
        raise


def mend(session, vdi):
    """Put `paused` back where SM has cleared it while the gate was shut. Nothing of a `finish` may be under way."""
    if is_shut(session.xenapi.VDI.get_sm_config(vdi)):
        put(session.xenapi.VDI, vdi, PAUSED, smapi.GATE_SHUT)


def open_again(session, vdi):
    """Take our marks off a VDI at the destination."""
    for key in (BOLT, PAUSED):
        unseal(session, vdi, smapi.GATE_SHUT, key)


def unseal(session, vdi, seal, key=PAUSED):
    """Take our seal off a VDI, if it is there."""
    if session.xenapi.VDI.get_sm_config(vdi).get(key) == seal:
        session.xenapi.VDI.remove_from_sm_config(vdi, key)


def put(api, vdi, key, value):
    """Write a key of sm_config. Whether it is there with this value now: False if somebody else's is."""
    try:
        api.add_to_sm_config(vdi, key, value)
    except XenAPI.Failure as failure:
        if failure.details[0] != "MAP_DUPLICATE_KEY":
            raise
        return api.get_sm_config(vdi).get(key) == value
    return True
