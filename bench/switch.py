# SPDX-License-Identifier: LGPL-2.1-only
"""What storage costs of the pause in which a VM moves: from the last write that the source has
answered to the destination's disks being active.

*This system* moves a VM of the lab's to another pool, with its disks. *Shared storage* is the stock
live migration of a VM whose disks both hosts have, by the same xenopsd and the same drivers: it
deactivates at one side and activates at the other, and nothing more. What ours takes longer is what
it adds to the pause. Both times are the lab's xenopsd's own marks.
"""

import collections

import XenAPI

from bench.rounds import turns
from lab.pools.lab import Lab
from lab.pools.topology import PoolPlan
from lab.xenopsd.wire import RpcFailure
from tests.e2e.scene import Scene, task_ended

MIB, GIB = 1 << 20, 1 << 30
OURS, SHARED = "this system", "shared storage"
PLAN = (PoolPlan("A", ("a1", "a2"), True), PoolPlan("B", ("b1",), False))
OTHER = {"a1": "a2", "a2": "a1"}

SECONDS = 60.0  # of one case, behind which no further round begins
FILLED = 5.0 * MIB  # of a disk, before it moves

Case = collections.namedtuple("Case", "name disks size writes")
Case.__doc__ = (
    """`disks` of `size` bytes each; the guest begins `writes` a second to all of them."""
)

ENGINE = "the lab's pools: their xenopsd, SM drivers and tapdisks"
FULL = (
    Case("1 disk, quiet guest", 1, 16 * MIB, 5),
    Case("1 disk", 1, 16 * MIB, 100),
    Case("1 disk, busy guest", 1, 16 * MIB, 2000),
    Case("1 disk of 1 GiB", 1, GIB, 100),
    Case("4 disks", 4, 16 * MIB, 100),
    Case("16 disks", 16, 16 * MIB, 100),
)
QUICK = (Case("1 disk", 1, 16 * MIB, 100),)


class _Ours(Scene):
    """A VM that goes to and fro between the pools, by this system."""

    def __init__(self, lab, case):
        super(_Ours, self).__init__(lab, [case.size] * case.disks, guest=_guest(case))

    def move(self):
        """One move; the marks of the xenopsd that the VM has arrived at."""
        entry = self.ended(self.begin())
        assert entry["state"] == "succeeded", entry["error"]
        return _marks(self.settle(), self.uuid)

    def end(self):
        """The VM is not needed any more."""
        self.pool.xapi.VM.hard_shutdown(self.pool.xapi.VM.get_by_uuid(self.uuid))


class _Shared(object):
    """A VM that goes to and fro within a pool, by xenopsd alone."""

    def __init__(self, lab, case):
        self._lab, self._pool, self._here = lab, lab.pool("A"), "a1"
        disks = [(self._pool.sr("shared"), case.size)] * case.disks
        self._vm = self._pool.create_vm("shared", disks, _guest(case))
        self._uuid = self._pool.start_vm(self._vm, self._here)
        network = self._pool.xapi.PIF.get_all_records().values()
        self._network = next(pif["network"] for pif in network if pif["management"])

    def move(self):
        """As _Ours.move."""
        api, there = self._pool.xapi, OTHER[self._here]
        receiving = api.host.migrate_receive(self._pool.host_ref(there), self._network, {})
        source = self._lab.host(self._here)
        task = source.xenopsd(
            "VM.migrate",
            id=self._uuid,
            vdi_map={},
            vif_map={},
            pci_map={},
            xenops_url=receiving["xenops"],
            compress=False,
            verify_dest=False,
            localhost_migration=False,
        )
        state = task_ended(source, task)
        assert state[0] == "Completed", state
        api.VM.pool_migrate_complete(self._vm, self._pool.host_ref(there))
        self._here = there
        return _marks(self._lab.host(there), self._uuid)

    def end(self):
        """The VM is not needed any more."""
        self._pool.xapi.VM.hard_shutdown(self._vm)


def _guest(case):
    return {"writes": case.writes, "fill": FILLED / case.size}


def _marks(host, vm):
    """{"seconds": from the guest's last answered write to its disks' being active, "deactivate",
    "activate": of that, what SM took}"""
    told = host.xenopsd("VM.stat", id=vm)["migration"]
    quiet = told["suspended_at"] + told["quiesce"]
    return {
        "seconds": told["resumed_at"] - told["resume"] - quiet,
        "deactivate": told["deactivate"],
        "activate": told["activate"],
    }


def run(_, effort, rounds, tell):
    """The samples of all `rounds`; "scenario" is the Case's name. `tell`: as the other parts have
    it."""
    samples = []
    with Lab(plan=PLAN) as lab:
        for case in effort:
            ours, shared = _Ours(lab, case), _Shared(lab, case)
            contestants = (OURS, ours), (SHARED, shared)
            for number, (name, mover) in turns(rounds, contestants, SECONDS, enough=1):
                tell("switch: %s, round %d: %s" % (case.name, number + 1, name))
                sample = {"round": number, "scenario": case.name, "contestant": name}
                try:
                    sample.update(mover.move())
                except (AssertionError, OSError, RpcFailure, XenAPI.Failure) as fault:
                    sample.update(error="failed: %r" % fault)
                    tell("    " + sample["error"])
                samples.append(sample)
            for one in (ours, shared):
                try:
                    one.end()
                except XenAPI.Failure as fault:  # a move that failed has it; the lab ends it
                    tell("    its VM stays: %r" % fault)
    return samples
