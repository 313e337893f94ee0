"""A lab with a VM that goes to and fro in it, one run after the other, for one process of the campaign."""
import atexit
import os
import shutil
import time
import traceback

from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from tests.e2e.scene import Scene
from tests.faults import cases
from tests.faults.run import Run

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
EVIDENCE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "build", "faults")
KEPT = ("var/log", "var/lib/sxm", "var/lib/xenopsd")
AGAIN = "a second migration of the VM"


class Worker:
    """Makes its lab when it needs one. A run that fails ends the lab: nobody knows what state it is in."""

    def __init__(self):
        self._lab = self._scene = None
        self._former = None        # the seed of the run whose second migration the next one is

    def run(self, seed, again=False):
        """Do the run of this seed. What happened, as JSON values; `again`: and a second, undisturbed migration."""
        begun = time.monotonic()
        result = {"seed": seed, "cases": list(map(str, cases.plan(seed))), "error": None, "log": [], "outcome": None, "former": self._former}
        run = None
        try:
            self._need_lab()
            run = Run(self._scene, seed)
            run.go()
            if again:
                self._scene.moves()
                run.log.append("%s succeeds" % AGAIN)
            self._former = seed
        except Exception as error:
            result["error"] = "%s: %s" % (type(error).__name__, error)
            result["log"].append(traceback.format_exc())
            self._keep_evidence(seed)
            self.end()
        if run:
            result.update(log=run.log + result["log"], outcome=run.outcome, done=run.done, missed=run.missed)
        return dict(result, seconds=time.monotonic() - begun)

    def end(self):
        """Take the lab down."""
        lab, self._lab, self._scene, self._former = self._lab, None, None, None
        if lab:
            lab.down()

    def _need_lab(self):
        if self._lab is None:
            self._lab = Lab(plan=PLAN)
            self._lab.up()
            self._scene = Scene(self._lab)

    def _keep_evidence(self, seed):
        """The logs of both hosts, for whoever looks into it."""
        for host in self._lab.hosts if self._lab else []:
            for directory in KEPT:
                target = os.path.join(EVIDENCE, str(seed), host.name, directory)
                shutil.rmtree(target, ignore_errors=True)
                if os.path.isdir(os.path.join(host.root, directory)):
                    shutil.copytree(os.path.join(host.root, directory), target)


_worker = None


def one_run(seed, again):
    """In a process of the campaign: the next run of its lab."""
    global _worker
    if _worker is None:
        _worker = Worker()
        atexit.register(_worker.end)
    return _worker.run(seed, again)
