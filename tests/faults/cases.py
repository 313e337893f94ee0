# SPDX-License-Identifier: LGPL-2.1-only
"""Which faults the campaign injects, into what, and when; and how they are put together to runs,
one migration each.

A *case* is (process, phase, fault). All that mean something are listed here, once a round in
another order, several to a run: up to SURVIVED that the migration may well survive, at growing
phases, and at the end one that it probably does not. A run is known by its *seed*, and its plan
depends on that alone.
"""

import functools
import random
from typing import NamedTuple

from tests.e2e.moments import NAMES

SURVIVED = 3  # cases of a run before the last one
GOES_BACK = "database goes back"
"""xapi is killed, as by "kill", in a run that begins with all of the database on disk, and in which
somebody else may have it synced, too."""


class Case(NamedTuple):
    """`process`: a name of KINDS; `phase`: one of moments.NAMES, at which the worker is held while
    the fault is injected."""

    process: str
    phase: str
    fault: str

    def __str__(self):
        return "%s of %s in %s" % (self.fault, self.process, self.phase)


class Kind(NamedTuple):
    """`first` and `last`: the phases between which the process is there; `faults`: {fault: the
    phases until which a migration may survive it, True for all, False for none}."""

    first: str
    last: str
    faults: dict


KINDS = {
    "worker": Kind("claim", "end", {"kill": False, "stop": True}),
    "mover": Kind("mirroring", "open", {"kill": True, "stop": True}),
    "receiver": Kind("sync", "complete", {"kill": True, "stop": True}),
    "tapdisk at the destination": Kind(
        "sync", "opening", {"kill": True, "stop": True, "disk full": True}
    ),
    "tapdisk at the source": Kind("claim", "asked", {"stop": True}),
    "xapi at the source": Kind("claim", "end", {"kill": False, "stop": True, GOES_BACK: False}),
    "xapi at the destination": Kind(
        "claim", "end", {"kill": False, "stop": True, GOES_BACK: False}
    ),
    "xenopsd at the source": Kind("claim", "end", {"kill": "remap", "stop": True}),
    "xenopsd at the destination": Kind("claim", "end", {"kill": "remap", "stop": True}),
    "SM command at the source": Kind("mirroring", "clean-up", {"kill": False, "stop": True}),
    "SM command at the destination": Kind("receive", "opening", {"kill": False, "stop": True}),
    "plugin at the destination": Kind("receive", "end", {"kill": False, "stop": True}),
    "journal at the source": Kind("claim", "end", {"unwritable": False}),
    "journal at the destination": Kind("receive", "end", {"unwritable": False}),
    "link": Kind("mirroring", "opening", {"cut": True, "slow": True}),
    "host of the source": Kind("claim", "end", {"power failure": False}),
    "host of the destination": Kind("claim", "end", {"power failure": False}),
}
PASSING = {
    "SM command at the source": ("mirroring", "in-sync", "move", "asked", "clean-up"),
    "SM command at the destination": ("receive", "asked", "opening"),
    "plugin at the destination": ("receive", "end"),
}
"""Processes that run for a moment only: the phases right after which one runs. It is hit as soon as
it is seen."""
AFTER = {"journal at the destination": ("receive", "mirroring", "asked", "opening", "end")}
"""The phases after which the destination may have something to note, out of those that its journal
is there in."""


def all_cases():
    """Every Case, in the order of the tables."""
    found = []
    for process, kind in KINDS.items():
        phases = (
            PASSING.get(process)
            or AFTER.get(process)
            or NAMES[NAMES.index(kind.first) : NAMES.index(kind.last) + 1]
        )
        found += [Case(process, phase, fault) for fault in kind.faults for phase in phases]
    return found


def survived(case):
    """Whether a migration may go on after it, and meet another one."""
    until = KINDS[case.process].faults[case.fault]
    return until if isinstance(until, bool) else NAMES.index(case.phase) <= NAMES.index(until)


@functools.lru_cache(maxsize=None)
def round_of(number):
    """The runs of one round: each case is in just one of them."""
    chance = random.Random("round %d" % number)
    cases = all_cases()
    chance.shuffle(cases)
    runs = [[case] for case in cases if not survived(case)]
    for case in filter(survived, cases):
        fitting = [run for run in runs if _fits(case, run)]
        if fitting:
            min(fitting, key=len).append(case)
        else:
            runs.append([case])
    for run in runs:
        run.sort(key=lambda case: NAMES.index(case.phase))
    chance.shuffle(runs)
    return runs


def _fits(case, run):
    """Whether a case that may be survived can be added to a run, whose first one is the last to be
    injected."""
    early = NAMES.index(case.phase) < NAMES.index(run[0].phase) or survived(run[0])
    return len(run) <= SURVIVED and early and case.phase not in [other.phase for other in run]


def plan(seed):
    """The cases of the run with this seed (a number from 0 on)."""
    number = 0
    while True:
        runs = round_of(number)
        if seed < len(runs):
            return runs[seed]
        seed -= len(runs)
        number += 1


def kills_the_worker(planned):
    """Whether one of the cases of a run is that the worker dies."""
    return any((case.process, case.fault) == ("worker", "kill") for case in planned)


def seeds_for(count, first=0):
    """The seeds, from `first` on, of the runs that have `count` cases in all."""
    seeds, cases = [], 0
    while cases < count:
        cases += len(plan(first + len(seeds)))
        seeds.append(first + len(seeds))
    return seeds
