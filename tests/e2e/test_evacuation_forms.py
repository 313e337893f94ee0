# SPDX-License-Identifier: LGPL-2.1-only
"""What else `sxm evacuate` empties than an array, each with a VM that runs and has a snapshot, one
that is halted, and one that is suspended: a host, to another one; a pool, to another one; VMs with
a tag, and then what is left in their SR, back."""

import pytest

from lab.pools import leftovers
from lab.pools.topology import PoolPlan
from tests.e2e.evacuating import Command, address, disks_of, summary
from tests.e2e.scene import assert_settles
from tests.e2e.snapshots import contents, poked
from tests.eventually import eventually

MIB = 1 << 20
PLAN = (PoolPlan("A", ("a1", "a2"), False, ("fast",)), PoolPlan("B", ("b1",), False, ("fast",)))
SIZE = 4 * MIB
GUEST = {"writes": 20, "fill": 0.3}
PATIENCE = 40.0
TAG = "gold"
NULL = "OpaqueRef:NULL"
SNAPSHOT = "before the update"
ONE = {"disks": 1, "bytes": SIZE}
NONE = {"vms": 0, "disks": 0, "bytes": 0}


class Three:
    """The VMs, by how they are: "runs", "rests" and "sleeps". `host`: where they are to be."""

    def __init__(self, lab):
        self.lab, self.host = lab, lab.host("a1")
        pool = lab.pool("A")
        self.uuids = {}
        for name in ("runs", "rests", "sleeps"):
            vm = pool.create_vm(name, [(pool.sr("a1", "fast"), SIZE)], GUEST)
            self.uuids[name] = pool.start_vm(vm, "a1")
        for name in self.uuids:
            self.wait_for_writes(name)
        x, vms = pool.xapi, self.refs()
        for name in ("runs", "sleeps"):
            x.VM.add_tags(vms[name], TAG)
        with poked(self.host):
            x.VM.snapshot(vms["runs"], SNAPSHOT)
        x.VM.hard_shutdown(vms["rests"])
        self._suspend()
        x.pool.sync_database()
        self.kept = self._contents()

    @property
    def pool(self):
        return next(pool for pool in self.lab.pools if self.host in pool.hosts)

    def refs(self):
        """{how it is: its ref} of those that are in the pool."""
        records = self.pool.xapi.VM.get_all_records()
        known = {record["uuid"]: ref for ref, record in records.items()}
        return {name: known[uuid] for name, uuid in self.uuids.items() if uuid in known}

    def wait_for_writes(self, name):
        guest = self.host.guest(self.uuids[name])
        begun = guest.status()["writes_acknowledged"]
        eventually(lambda: guest.status()["writes_acknowledged"] >= begun + 20, "writes", PATIENCE)
        assert guest.check()["missing"] == 0

    def assert_at(self, host, *names):
        """These are there as they were, with all that they have; and nothing is left anywhere."""
        self.host = host
        x, vms, sr = self.pool.xapi, self.refs(), self.pool.sr(host.name, "fast")
        assert {x.VM.get_power_state(vms[name]) for name in names} == {
            {"runs": "Running", "rests": "Halted", "sleeps": "Suspended"}[name] for name in names
        }
        for pool in self.lab.pools:
            known = [vm["uuid"] for vm in pool.xapi.VM.get_all_records().values()]
            assert [self.uuids[name] in known for name in names] == [
                pool is self.pool for _ in names
            ]
        found = [vdi for name in names for vdi in disks_of(self.pool, vms[name])]
        if "runs" in names:
            (snapshot,) = x.VM.get_snapshots(vms["runs"])
            assert x.VM.get_name_label(snapshot) == SNAPSHOT
            found += disks_of(self.pool, snapshot)
        if "sleeps" in names:
            found.append(x.VM.get_suspend_VDI(vms["sleeps"]))
        assert len(found) == len(names) + ("runs" in names) + ("sleeps" in names)
        assert {x.VDI.get_SR(vdi) for vdi in found} == {sr}
        now = self._contents()
        assert now == {name: self.kept[name] for name in now}
        if "runs" in names:
            self.wait_for_writes("runs")
        assert_settles(lambda: leftovers.at_rest(self.lab))

    def wake_and_suspend(self):
        """The one that sleeps goes on where it was, and sleeps again."""
        x, vm = self.pool.xapi, self.refs()["sleeps"]
        x.VM.resume(vm, False, False)
        assert x.VM.get_resident_on(vm) == self.pool.host_ref(self.host.name)
        status = self.host.guest(self.uuids["sleeps"]).status()
        assert status["writes_acknowledged"] >= self.written and status["errors"] == 0
        self.wait_for_writes("sleeps")
        self._suspend()

    def _suspend(self):
        x, vm = self.pool.xapi, self.refs()["sleeps"]
        x.VM.set_suspend_SR(vm, self.pool.sr(self.host.name, "fast"))
        self.written = self.host.guest(self.uuids["sleeps"]).status()["writes_acknowledged"]
        x.VM.suspend(vm)
        assert x.VM.get_suspend_VDI(vm) != NULL

    def _contents(self):
        """{what: digest} of what nobody writes to."""
        x, vms, found = self.pool.xapi, self.refs(), {}
        quiet = {"rests": vms["rests"]} if "rests" in vms else {}
        if "runs" in vms:
            (quiet[SNAPSHOT],) = x.VM.get_snapshots(vms["runs"])
        for what, vm in quiet.items():
            (vdi,) = disks_of(self.pool, vm)
            found[what] = contents(self.lab, self.pool, vdi)
        return found


@pytest.fixture(scope="module")
def three(lab):
    return Three(lab)


@pytest.fixture
def evacuate(three, tmp_path):
    """Run it on the pool that they are in: its summary, which has to be whole: of `vms` VMs."""

    def run(vms, *words):
        (other,) = [pool for pool in three.lab.pools if pool is not three.pool]
        command = Command(three.pool, tmp_path, "-".join(words[:2]).strip("-"), other)
        status, said = command.run(*words, "--json")
        assert status == 0, said
        found, all_of_it = summary(said), {"vms": vms, "disks": vms, "bytes": vms * SIZE}
        assert found["asked"] == found["moved"] == all_of_it
        assert found["failed"] == found["skipped"] == found["not_done"] == NONE
        assert found["left"] == []
        assert {one["state"] for one in found["vms"]} == {"moved"}

    return run


def test_a_host(lab, three, evacuate):
    evacuate(3, "--host", "a1", "--to-host", "a2")
    three.assert_at(lab.host("a2"), "runs", "rests", "sleeps")
    three.wake_and_suspend()


def test_a_pool(lab, three, evacuate):
    evacuate(3, "--pool", "--to-pool", address(lab.pool("B")))
    three.assert_at(lab.host("b1"), "runs", "rests", "sleeps")
    three.wake_and_suspend()


def test_a_tag_and_what_is_left_in_the_sr(lab, three, evacuate):
    pool = three.pool
    (other,) = [one for one in lab.pools if one is not pool]
    source, goal = three.host.name, other.hosts[0]
    to = ["--to-pool", address(other), "--to-sr", goal.name + "-fast"]
    evacuate(2, "--tag", TAG, *to)
    rests = three.refs()["rests"]
    assert [pool.xapi.VDI.get_SR(vdi) for vdi in disks_of(pool, rests)] == [pool.sr(source, "fast")]
    evacuate(1, "--sr", source + "-fast", *to)
    three.assert_at(goal, "runs", "rests", "sleeps")
    three.wake_and_suspend()
