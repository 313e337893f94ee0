# SPDX-License-Identifier: LGPL-2.1-only
"""A halted VM is copied to another pool (`copy=true`): the copy is another VM, the VM stays as it
is, and nobody can start it meanwhile; with a mover that is killed, and workers that are."""

import pytest
import XenAPI

from lab.pools import vms
from lab.pools.topology import PoolPlan
from tests.e2e.records import COPIED, Watched, listed, of
from tests.e2e.scene import MIB
from tests.e2e.snapshots import contents

PLAN = (PoolPlan("A", ("a1",), False), PoolPlan("B", ("b1",), False))
DISKS = (4 * MIB, 24 * MIB)
SLOW = "2MiB"  # a second, so that something can happen in mid-copy
# what xapi itself changes of a VM or a disk that nothing is done with
VOLATILE = ("allowed_operations", "current_operations", "physical_utilisation")


class Original:
    """The VM of a scene, which has a snapshot, halted; and all of it that is to stay as it is."""

    def __init__(self, scene, watched):
        self.scene, self.x, self._watched = scene, scene.pool.xapi, watched
        self.vm = self.x.VM.get_by_uuid(scene.uuid)
        self.x.VM.hard_shutdown(self.vm)
        taken = self.x.VM.get_snapshots(self.vm)
        self.snapshot = taken[0] if taken else self.x.VM.snapshot(self.vm, "first")
        self.x.VM.add_to_blocked_operations(self.vm, "clone", vms.BY_ITS_USER)
        self.disks = disks_of(self.x, self.vm)
        self.was = self._described()
        watched.begin(snapshots=False)

    def _described(self):
        vdis = list(self.disks.values()) + list(disks_of(self.x, self.snapshot).values())
        found = of(self.scene)
        for record in found.values():
            for field in VOLATILE:
                record.pop(field, None)
        return found, [contents(self.scene.lab, self.scene.pool, vdi) for vdi in vdis]

    def begin(self, **arguments):
        return dict(self.scene.arguments(), copy="true", **arguments)

    def assert_untouched(self):
        """It is as it was, starts, and runs; nothing is left of anything but the copy."""
        assert self._described() == self.was
        self.x.VM.remove_from_blocked_operations(self.vm, "clone")
        self.scene.assert_nothing_left()
        self.scene.pool.start_vm(self.vm, self.scene.host.name)
        self.scene.settle()
        self.scene.assert_runs()

    def take_copy(self, uuid, start=False):
        """See that VM `uuid` of the other pool is a copy, which can be started; destroy it, and all
        that it has."""
        pool = next(pool for pool in self.scene.lab.pools if pool is not self.scene.pool)
        y, was = pool.xapi, self.x.VM.get_record(self.vm)
        vm = y.VM.get_by_uuid(uuid)
        record, vdis = y.VM.get_record(vm), disks_of(y, vm)
        self._watched.assert_copied(y, uuid)
        assert uuid != self.scene.uuid and record["name_label"] == was["name_label"]
        assert (record["power_state"], record["blocked_operations"]) == ("Halted", {})
        assert (record["is_a_snapshot"], record["snapshots"]) == (False, [])
        assert "sxm_migration" not in record["other_config"]
        assert record["other_config"]["mac_seed"] != was["other_config"]["mac_seed"]
        macs = {x.VIF.get_MAC(vif) for x, of in ((self.x, was), (y, record)) for vif in of["VIFs"]}
        assert len(macs) == len(record["VIFs"]) + len(was["VIFs"])
        assert {device: contents(self.scene.lab, pool, vdi) for device, vdi in vdis.items()} == {
            device: contents(self.scene.lab, self.scene.pool, vdi)
            for device, vdi in self.disks.items()
        }
        if start:
            pool.start_vm(vm, "b1")
            assert self.scene.lab.host("b1").guest(uuid).status()["errors"] == 0
            y.VM.hard_shutdown(vm)
        for vdi in vdis.values():
            y.VDI.destroy(vdi)
        y.VM.destroy(vm)


def disks_of(x, vm):
    """{userdevice: VDI} of a VM."""
    return {x.VBD.get_userdevice(vbd): x.VBD.get_VDI(vbd) for vbd in x.VM.get_VBDs(vm)}


@pytest.fixture(scope="module")
def watched(scene):
    return Watched(scene)


def test_the_copy_is_another_vm_and_a_mover_that_is_killed_is_followed_by_another(scene, watched):
    original = Original(scene, watched)
    migration = scene.begin(**original.begin(bandwidth=SLOW))
    entry = scene.until(
        migration,
        lambda entry: (
            [disk["state"] for disk in entry["disks"].values()].count("copying")
            and "in-sync" in str(entry["disks"])
        ),
    )
    whole = next(key for key, one in entry["disks"].items() if one["state"] == "in-sync")
    config = original.x.VDI.get_sm_config(original.x.VDI.get_by_uuid(whole))
    assert config["paused"] == config["relinking"] == "sxm " + migration
    with pytest.raises(XenAPI.Failure) as refused:
        scene.pool.start_vm(original.vm, scene.host.name)
    assert refused.value.details[0] == "OPERATION_BLOCKED"
    scene.kill(next(one["mover"] for one in entry["disks"].values() if one["state"] == "copying"))
    entry = scene.ended(migration)
    assert entry["state"] == "succeeded", entry["error"]
    status = scene.call("status", migration=migration)
    assert status["copy"] and status["tries"] == 1 and status["phases"][-1] == "let-go"
    assert "the copy has none" in str(status["warnings"])
    original.take_copy(status["new_vm"], start=True)
    original.assert_untouched()


@pytest.mark.parametrize(
    "moment, outcome",
    [
        (("migration", "imported", [True], True), "taken back"),
        (("migration", "phase", ["let-go"], True), "copied"),
    ],
    ids=["imported", "let-go"],
)
def test_a_worker_that_is_killed(scene, watched, moment, outcome):
    original = Original(scene, watched)
    migration = scene.begin_and_kill(moment, original.begin())
    (answer,) = scene.call("recover", migration=migration)["migrations"]
    assert answer["outcome"] == outcome, answer
    if outcome == "copied":
        original.take_copy(answer["new_vm"])
    else:
        (there,) = [pool for pool in scene.lab.pools if pool is not scene.pool]
        found = there.xapi.VM.get_all_records().values()
        assert not [vm for vm in found if not vm["is_control_domain"]]
    original.assert_untouched()


def test_the_page_lists_no_more_than_differs_of_a_copy(watched):
    assert listed(COPIED, ("yes",)) - watched.seen[COPIED] == set()
