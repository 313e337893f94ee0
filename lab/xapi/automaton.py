# SPDX-License-Identifier: LGPL-2.1-only
"""The states of a VDI as a datapath sees it, and of the VDI itself
(xapi-idl/storage/vdi_automaton.ml)."""

from typing import NamedTuple

RO, RW = "RO", "RW"


class State(NamedTuple):
    """`level`: detached, attached or activated; `mode`: RO or RW, empty while detached."""

    level: str
    mode: str = ""

    def __str__(self):
        return self.level if self == DETACHED else "%-9s %s" % (self.level, self.mode)


class Operation(NamedTuple):
    """`name`: attach, activate, deactivate or detach; `mode`: that of an attach."""

    name: str
    mode: str = ""


DETACHED = State("detached")
ACTIVATE, DEACTIVATE, DETACH = Operation("activate"), Operation("deactivate"), Operation("detach")


def attach(mode):
    """The operation that attaches in this mode."""
    return Operation("attach", mode)


class BadTransition(Exception):
    """A datapath in this state does not do this operation."""


class NoOperation(Exception):
    """SM cannot bring a VDI from this state to that."""


_AFTER = {
    ("detached", "detach"): "detached",
    ("detached", "deactivate"): "detached",
    ("attached", "activate"): "activated",
    ("attached", "detach"): "detached",
    ("attached", "deactivate"): "attached",
    ("activated", "activate"): "activated",
    ("activated", "deactivate"): "attached",
}
_PATHS = {
    ("attached", "detached"): ("detach",),
    ("activated", "attached"): ("deactivate",),
    ("activated", "detached"): ("deactivate", "detach"),
    ("detached", "attached"): ("attach",),
    ("detached", "activated"): ("attach", "activate"),
    ("attached", "activated"): ("activate",),
}


def after(state, operation):
    """The state of a datapath after it did the operation. Raises BadTransition: an activation
    without an attach, a detach while activated, or read-write asked for where it is attached
    read-only."""
    if operation.name == "attach":
        if state == DETACHED:
            return State("attached", operation.mode)
        if (state.mode, operation.mode) == (RO, RW):
            raise BadTransition(state, operation)
        return state
    if (state.level, operation.name) not in _AFTER:
        raise BadTransition(state, operation)
    level = _AFTER[state.level, operation.name]
    return State(level, state.mode) if level != "detached" else DETACHED


def superstate(states):
    """The state of a VDI all of whose datapaths are in these."""
    held = [state for state in states if state != DETACHED]
    if not held:
        return DETACHED
    level = "activated" if any(state.level == "activated" for state in held) else "attached"
    return State(level, RW if any(state.mode == RW for state in held) else RO)


def path(before, after_that):
    """The operations of SM that bring a VDI from one state to the other. Raises NoOperation: not
    from read-only to read-write, nor back."""
    if before == after_that:
        return []
    same_mode = DETACHED in (before, after_that) or before.mode == after_that.mode
    if not same_mode or before.level == after_that.level:
        raise NoOperation(before, after_that)
    return [
        Operation(name, after_that.mode if name == "attach" else "")
        for name in _PATHS[before.level, after_that.level]
    ]
