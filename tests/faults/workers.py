# SPDX-License-Identifier: LGPL-2.1-only
"""A lab with a VM that goes to and fro in it, one run of a series after the other, for one process
of the campaign."""

import os
import time
import traceback
from multiprocessing import util

from lab.pools import evidence
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from tests.e2e import gate_patience
from tests.faults import cases, kinds
from tests.faults.run import Run

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
EVIDENCE = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "build", "faults"
)
GATE_PATIENCE = 20
"""Seconds for which SM's activation waits for a gate; on a host, and anywhere else in the lab, it
is 120."""
AGAIN = "a second migration of the VM"


class Worker:
    """Makes a lab for a VM of the kind that it needs. A run that fails ends the lab: nobody knows
    what state it is in."""

    def __init__(self):
        self._lab = self._vm = None
        self._former = None  # the seed of the run whose second migration the next one is

    def run(self, seed, again=False, until=None):
        """Do the run of this seed. What happened, as JSON values; `again`: and a second,
        undisturbed migration, which a run that ends after `until` (of time.monotonic) has as well:
        no other follows it here.

        Raises what kept it from making a lab: no other run would fare better."""
        begun = time.monotonic()
        kind = kinds.kind_of(seed)
        self._need(kind)
        result = {
            "seed": seed,
            "kind": kind,
            "cases": list(map(str, cases.plan(seed))),
            "error": None,
            "log": [],
            "outcome": None,
            "former": self._former,
        }
        run = Run(self._vm, seed)
        try:
            run.go()
            if again or until and time.monotonic() > until:
                self._vm.moves()
                run.log.append("%s succeeds" % AGAIN)
            self._former = seed
        except Exception as error:
            result["error"] = "%s: %s" % (type(error).__name__, error)
            result["log"].append(traceback.format_exc())
            if self._lab:
                evidence.keep(self._lab, os.path.join(EVIDENCE, str(seed)))
            self.end()
        result.update(
            log=run.log + result["log"], outcome=run.outcome, done=run.done, missed=run.missed
        )
        result["seconds"] = time.monotonic() - begun
        os.makedirs(EVIDENCE, exist_ok=True)
        with open(os.path.join(EVIDENCE, "%d.log" % seed), "w") as log:
            log.write("\n".join([kind] + result["cases"] + [""] + result["log"]) + "\n")
        return result

    def end(self):
        """Take the lab down."""
        lab, self._lab, self._vm, self._former = self._lab, None, None, None
        if lab:
            lab.down()

    def _need(self, kind):
        if self._lab and type(self._vm) is not kinds.KINDS[kind]:
            self.end()
        if self._lab is None:
            self._lab = Lab(plan=PLAN, release="upstream")
            self._lab.up()
            for host in self._lab.hosts:
                gate_patience.choose(host.root, GATE_PATIENCE)
            self._vm = kinds.KINDS[kind](self._lab)


_worker = None


def one_series(seeds, until):
    """In a process of the campaign: the runs of these seeds, which have one VM, in its lab. Their
    results; that of one which it was too late to begin, after `until`, is None."""
    global _worker
    if _worker is None:
        _worker = Worker()
        # such a process does nothing else of its own at its end
        util.Finalize(None, _worker.end, exitpriority=1)
    return [
        None if until and time.monotonic() > until else _worker.run(seed, seed == seeds[-1], until)
        for seed in seeds
    ]
