# SPDX-License-Identifier: LGPL-2.1-only
"""Within its pool a halted VM gets a new VBD for each disk. What a worker that was killed had asked
xapi for may be done behind its recovery: it harms nothing."""

import pytest

from fake_migration import ID, make_plan
from fake_pool import NULL, add_vdi, add_vm, by_name, failure, make_pool, uuid_of
from storage_motion.errors import Undecided
from storage_motion.migration.phases import adopt
from storage_motion.xapi import database


class Killed(BaseException):
    """Of the worker, in the middle of a call."""


class Halted:
    """A halted VM with one disk, and its migration. `killed_at`: the call ("VBD.destroy",
    "VBD.create") at which the worker dies, which xapi carries out when `late` is called; `between`:
    the same, but in the middle of that call of another one."""

    id, lost = ID, False

    def __init__(self, monkeypatch):
        self.pool = self.source = self.destination = pool = make_pool("A", ["a1"])
        sr = by_name(pool, "SR", "a1-sr")
        self.old, self.new = add_vdi(pool, sr), add_vdi(pool, sr)
        network = by_name(pool, "network", "guests")
        self.ref = add_vm(pool, NULL, [self.old], network, power_state="Halted")
        (vbd,) = pool.tables["VM"][self.ref]["VBDs"]
        pool.tables["VBD"][vbd].update(
            currently_attached=False,
            bootable=True,
            other_config={"of.somebody": "x"},
            qos_algorithm_type="",
            qos_algorithm_params={},
        )
        self.key = uuid_of(pool, "VDI", self.old)
        disk = make_plan().disks[0]._replace(key=self.key, vbd=uuid_of(pool, "VBD", vbd))
        self.plan = make_plan(
            kind="in-pool", live=False, vm=uuid_of(pool, "VM", self.ref), disks=[disk]
        )
        self.entry, self.noted = {}, {"destination_vdi": uuid_of(pool, "VDI", self.new)}
        self.killed_at, self.late = None, []
        for call, do in (("VBD.destroy", self._destroy), ("VBD.create", self._create)):
            pool.handlers[call] = self._handler(call, do)
        monkeypatch.setattr(database, "sync", lambda session, bound=None: pool.sync())
        pool.sync()

    def _handler(self, call, do):
        def handle(argument):
            if self.killed_at == call:
                self.killed_at = None
                self.late.append(lambda: do(argument))
                raise Killed
            return do(argument)

        return handle

    def _destroy(self, vbd):
        record = self.pool.get("VBD", vbd)
        self.pool.tables["VDI"][record["VDI"]]["VBDs"].remove(vbd)
        self.pool.tables["VM"][record["VM"]]["VBDs"].remove(vbd)
        del self.pool.tables["VBD"][vbd]

    def _create(self, record):
        vm, vdi = self.pool.get("VM", record["VM"]), self.pool.get("VDI", record["VDI"])
        for vbd in vm["VBDs"]:
            if self.pool.get("VBD", vbd)["userdevice"] == record["userdevice"]:
                raise failure("DEVICE_ALREADY_EXISTS", record["userdevice"])
        vbd = self.pool.add("VBD", **dict(record, currently_attached=False))
        vm["VBDs"].append(vbd)
        vdi["VBDs"] = vdi["VBDs"] + [vbd]
        return vbd

    def come_late(self):
        """What the killed worker had asked for is done now, or refused."""
        for call in self.late:
            try:
                call()
            except adopt.XenAPI.Failure as refused:
                assert refused.details[0] in ("HANDLE_INVALID", "DEVICE_ALREADY_EXISTS")

    @property
    def has(self):
        """What its device 0 has: ["old"], ["new"]..."""
        names = {self.old: "old", self.new: "new"}
        vbds = [self.pool.get("VBD", ref) for ref in self.pool.get("VM", self.ref)["VBDs"]]
        return [names[vbd["VDI"]] for vbd in vbds]

    # -- its migration

    def disk(self, key):
        return self.noted

    def note(self, key=None, **fields):
        (self.entry if key is None else self.noted).update(fields)

    def describe(self, error):
        return list(getattr(error, "details", [str(error)]))

    def vm(self):
        return self.ref

    def source_vdi(self, disk):
        return self.old

    def destination_vdi(self, disk):
        return self.new

    def host(self):
        return by_name(self.pool, "host", "a1")

    def plugin(self, function):
        assert function == "receive-give"

    def pulse(self, cancellable=True):
        pass


@pytest.fixture
def halted(monkeypatch, tmp_path):
    monkeypatch.setenv("SXM_ROOT", str(tmp_path))
    return Halted(monkeypatch)


def test_its_new_vbd_is_as_its_old_one_was(halted):
    before = dict(halted.pool.tables["VBD"][halted.pool.get("VM", halted.ref)["VBDs"][0]])
    for _ in range(2):
        adopt.adopt(halted)
        (vbd,) = halted.pool.get("VM", halted.ref)["VBDs"]
        found = halted.pool.get("VBD", vbd)
        assert {field: found[field] for field in adopt.VBD_FIELDS if field != "VM"} == {
            field: before[field] for field in adopt.VBD_FIELDS if field != "VM"
        }
        assert halted.has == ["new"]
    adopt.give_back(halted)
    assert halted.has == ["old"]


@pytest.mark.parametrize("call", ["VBD.destroy", "VBD.create"])
def test_what_a_killed_worker_asked_for_comes_behind_its_recovery(halted, call):
    """Without a fence the late `destroy` takes the VBD that the recovery has found in order: the VM
    is let go without its disk."""
    halted.killed_at = call
    with pytest.raises(Killed):
        adopt.adopt(halted)
    adopt.give_back(halted)
    assert halted.has == ["old"]
    halted.come_late()
    assert halted.has == ["old"]


@pytest.mark.parametrize("call", ["VBD.destroy", "VBD.create"])
def test_the_same_of_a_recovery_that_was_killed(halted, call):
    adopt.adopt(halted)
    halted.killed_at = call
    with pytest.raises(Killed):
        adopt.give_back(halted)
    adopt.give_back(halted)
    halted.come_late()
    assert halted.has == ["old"]


@pytest.mark.parametrize("call", ["VBD.destroy", "VBD.create"])
def test_a_worker_that_was_killed_as_it_gave_them_once_more(halted, call):
    """What has broken is taken up again: the VM's disks were given to it, and given back, by then,
    so its VBD is not the one of the plan."""
    adopt.adopt(halted)
    adopt.give_back(halted)
    halted.killed_at = call
    with pytest.raises(Killed):
        adopt.adopt(halted)
    adopt.give_back(halted)
    halted.come_late()
    assert halted.has == ["old"]


@pytest.mark.parametrize("call", ["VBD.destroy", "VBD.create"])
def test_it_goes_on_where_it_was_killed(halted, call):
    """Behind the point of no return."""
    halted.killed_at = call
    with pytest.raises(Killed):
        adopt.adopt(halted)
    adopt.adopt(halted)
    halted.come_late()
    assert halted.has == ["new"]


@pytest.mark.parametrize("times", [1, 2])
def test_it_comes_just_as_the_recovery_has_looked(halted, times):
    """Before the `create` of that: which finds the device taken, looks again, and makes its own."""
    halted.killed_at = "VBD.create"
    with pytest.raises(Killed):
        adopt.adopt(halted)
    create = halted.pool.handlers["VBD.create"]
    (late,), left = halted.late, [times]

    def at_that_moment(record):
        if left[0]:
            left[0] -= 1
            late()
        return create(record)

    halted.pool.handlers["VBD.create"] = at_that_moment
    if times == 1:
        adopt.give_back(halted)
        assert halted.has == ["old"]
        return
    with pytest.raises(Undecided, match="DEVICE_ALREADY_EXISTS"):
        adopt.give_back(halted)
    adopt.give_back(halted)
    assert halted.has == ["old"]


def test_an_older_database_brings_the_doomed_one_back(halted):
    """It is as doomed as it was."""
    adopt.adopt(halted)
    halted.pool.goes_back()
    assert halted.has == ["old"]
    before = list(halted.pool.get("VM", halted.ref)["VBDs"])
    adopt.give_back(halted)
    assert halted.has == ["old"]
    assert halted.pool.get("VM", halted.ref)["VBDs"] != before
