# SPDX-License-Identifier: LGPL-2.1-only
"""Two pools and a VM, for the tests of what is planned for it."""

from fake_pool import GIB, add_vdi, add_vm, by_name, make_pool, uuid_of
from storage_motion.api import arguments
from storage_motion.api.arguments import Problems
from storage_motion.plan import planner
from storage_motion.xapi.records import Records

NOBODY = "99999999-9999-9999-9999-999999999999"


class World:
    """Pool A with a1 and a2 and a VM of two disks on a1; pool B with b1 and b2."""

    def __init__(self):
        self.a, self.b = make_pool("A", ["a1", "a2"], shared=True), make_pool("B", ["b1", "b2"])
        self.sr = by_name(self.a, "SR", "a1-sr")
        self.vdis = [add_vdi(self.a, self.sr, 2 * GIB), add_vdi(self.a, self.sr, GIB)]
        self.vm_ref = add_vm(
            self.a, by_name(self.a, "host", "a1"), self.vdis, by_name(self.a, "network", "guests")
        )
        self.room_to_keep = GIB
        self.target = uuid_of(self.b, "SR", by_name(self.b, "SR", "b1-sr"))

    vm = property(lambda self: self.a.tables["VM"][self.vm_ref])
    disk = property(lambda self: self.a.tables["VDI"][self.vdis[0]])
    vif = property(lambda self: uuid_of(self.a, "VIF", self.vm["VIFs"][0]))

    def vdi(self, number):
        return uuid_of(self.a, "VDI", self.vdis[number])

    def cross(self, **changes):
        """The arguments of a good move to pool B, with changes ("x_y" for x-y; None leaves out)."""
        given = {
            "vm": self.vm["uuid"],
            "remote-master": "10.1.0.1",
            "remote-username": "root",
            "remote-password": "hush",
            "destination-sr-uuid": self.target,
            "vif:" + self.vif: uuid_of(self.b, "network", by_name(self.b, "network", "guests")),
        }
        return self._plan(given, changes, Records(self.b))

    def within(self, **changes):
        return self._plan({"vm": self.vm["uuid"]}, changes, None)

    def _plan(self, given, changes, view):
        for name, value in changes.items():
            given[name] = value
        given = {name: value for name, value in given.items() if value is not None}
        problems, source = Problems(), Records(self.a)
        request = arguments.read(given, problems)
        _, vm = planner.find_vm(request, source, problems)
        here = by_name(self.a, "host", "a1")
        pools = source, view or source
        plan = planner.make(request, *pools, vm, here, problems, self.room_to_keep) if vm else None
        return plan, problems.details


def is_refused(answer, argument, part):
    """Whether an answer (plan, problems) names a problem with `part` of that argument; no plan."""
    plan, problems = answer
    assert plan is None and any(
        problem.startswith(argument) and part in problem for problem in problems
    ), problems
    return True
