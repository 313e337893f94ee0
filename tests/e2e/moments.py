# SPDX-License-Identifier: LGPL-2.1-only
"""Moments of a live migration, by what its journal says: where a test stops a worker
(lab.dom0.breakpoint), in their order."""


def _phase(name):
    return "migration", "phase", [name], True


def _disk(field, value):
    return "disk", field, [value], True


MOMENTS = {
    "claim": _phase("claim"),
    "receive": _phase("receive"),
    "sync": _phase("sync"),
    "mirroring": _disk("state", "mirroring"),
    "copying": _disk("state", "copying"),
    "in-sync": _disk("state", "in-sync"),
    "remap": _phase("remap"),
    "move": _phase("move"),
    "asked": ("migration", "xenops_task", [None, "starting"], False),
    "detached": _disk("gate", "detached"),
    "locked": _disk("gate", "locked"),
    "opening": _disk("gate", "opening"),
    "open": _disk("gate", "open"),
    "complete": _phase("complete"),
    "clean-up": _phase("clean-up"),
    "end": _phase("end"),
}
"""{name: the condition}"""
NAMES = tuple(MOMENTS)
EITHER = ("move", "asked", "detached", "locked", "opening")


def end_of(name):
    """Where the VM has to be in the end if the worker dies then: "source", "destination", or None
    where both are right."""
    if name in EITHER:
        return None
    return "source" if NAMES.index(name) < NAMES.index("move") else "destination"
