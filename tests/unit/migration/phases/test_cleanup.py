# SPDX-License-Identifier: LGPL-2.1-only
"""Nothing of the source goes before the VM has its new disks for itself."""

import json
import types

import pytest

from fake_pool import NULL, add_vdi, add_vm, by_name, failure, make_pool, uuid_of
from storage_motion.errors import NotCleanedUp
from storage_motion.migration.phases import cleanup
from storage_motion.plan.checks import CLAIM


class Arrived:
    """A VM that has come to pool B, and its Migration as far as the look at its disks is
    concerned."""

    def __init__(self, cross_pool=True):
        self.pool = make_pool("B", ["b1", "b2"])
        self.host, self.other = by_name(self.pool, "host", "b1"), by_name(self.pool, "host", "b2")
        sr = by_name(self.pool, "SR", "b1-sr")
        self.vdis = [
            add_vdi(self.pool, sr, sm_config={"host_" + self.host: "RW", "image": "x"})
            for _ in range(2)
        ]
        self.vm = add_vm(self.pool, self.host, self.vdis, by_name(self.pool, "network", "guests"))
        uuids = [uuid_of(self.pool, "VDI", vdi) for vdi in self.vdis]
        disks = [
            types.SimpleNamespace(
                key=str(number), destination_sr="s", read_only=False, unplugged=False
            )
            for number in range(2)
        ]
        self.read_only = {"0": False, "1": False}
        self.m = types.SimpleNamespace(
            destination=self.pool,
            plugin=self.plugin,
            disk=lambda key: {"destination_vdi": uuids[int(key)]},
            destination_vdi=lambda disk: self.vdis[int(disk.key)],
            plan=types.SimpleNamespace(
                vm=uuid_of(self.pool, "VM", self.vm),
                live=True,
                cross_pool=cross_pool,
                disks=disks,
                copy=False,
            ),
        )

    def plugin(self, function):
        assert function == "receive-status"
        return json.dumps(
            {"disks": {key: {"read_only": read_only} for key, read_only in self.read_only.items()}}
        )

    def halt(self):
        self.pool.tables["VM"][self.vm].update(power_state="Halted", resident_on=NULL)

    def active(self, number, **keys):
        """What SM says of a disk."""
        self.pool.tables["VDI"][self.vdis[number]]["sm_config"] = keys


@pytest.fixture
def arrived(monkeypatch):
    monkeypatch.setattr(cleanup, "OWN_TIMEOUT", 0.0)
    return Arrived()


def test_disks_that_are_active_on_its_host_and_read_write_are_its_own(arrived):
    cleanup._await_own_disks(arrived.m)


def test_one_that_only_xapi_believes_to_be_read_write_keeps_the_source(arrived):
    arrived.read_only["1"] = True
    with pytest.raises(NotCleanedUp) as refused:
        cleanup._await_own_disks(arrived.m)
    assert uuid_of(arrived.pool, "VDI", arrived.vdis[1]) in str(refused.value)
    assert uuid_of(arrived.pool, "VDI", arrived.vdis[0]) not in str(refused.value)


def test_a_disk_that_the_vm_has_read_only_is_to_be_so(arrived):
    arrived.m.plan.disks[1].read_only = arrived.read_only["1"] = True
    with pytest.raises(NotCleanedUp):
        cleanup._await_own_disks(arrived.m)
    arrived.active(1, **{"host_" + arrived.host: "RO"})
    cleanup._await_own_disks(arrived.m)


def test_a_disk_that_is_not_plugged_is_active_nowhere_or_where_the_vm_is(arrived):
    arrived.m.plan.disks[1].unplugged = True
    arrived.active(1)
    cleanup._await_own_disks(arrived.m)
    arrived.active(1, **{"host_" + arrived.host: "RW"})
    cleanup._await_own_disks(arrived.m)
    arrived.active(1, **{"host_" + arrived.other: "RW"})
    with pytest.raises(NotCleanedUp):
        cleanup._await_own_disks(arrived.m)


def test_so_are_those_of_a_vm_that_has_halted_since_and_are_nobodys(arrived):
    arrived.halt()
    for number in range(2):
        arrived.active(number)
    cleanup._await_own_disks(arrived.m)


DIAGNOSTICS = """DataPath information:
    SR s
        VDI %s
            activated RW (device=None)
                DP: vbd/%d/xvda: %s
"""


@pytest.mark.parametrize(
    "domain, state, own",
    [
        (9, "activated RW", True),
        (9, "attached RW", False),
        (9, "activated RO", False),
        (0, "activated RW", False),
    ],
)
def test_a_disk_whose_key_an_older_database_has_lost_is_its_own_by_the_datapaths_of_its_host(
    arrived, domain, state, own
):
    asked = []
    location = arrived.pool.tables["VDI"][arrived.vdis[1]]["location"]
    arrived.pool.handlers["host.get_sm_diagnostics"] = lambda host: (
        asked.append(host) or DIAGNOSTICS % (location, domain, state)
    )
    arrived.active(1)
    if own:
        cleanup._await_own_disks(arrived.m)
    else:
        with pytest.raises(NotCleanedUp):
            cleanup._await_own_disks(arrived.m)
    assert set(asked) == {arrived.host}


@pytest.mark.parametrize(
    "keys", [{}, {"host_b1": "RO"}, {"host_b2": "RW"}, {"host_b1": "RW", "host_b2": "RO"}]
)
def test_a_disk_that_somebody_else_has_won_keeps_the_source(arrived, keys):
    arrived.pool.handlers["host.get_sm_diagnostics"] = lambda host: "DataPath information:\n"
    refs = {"host_b1": "host_" + arrived.host, "host_b2": "host_" + arrived.other}
    arrived.active(1, **{refs[key]: value for key, value in keys.items()})
    with pytest.raises(NotCleanedUp) as refused:
        cleanup._await_own_disks(arrived.m)
    assert uuid_of(arrived.pool, "VDI", arrived.vdis[1]) in str(refused.value)
    assert uuid_of(arrived.pool, "VDI", arrived.vdis[0]) not in str(refused.value)


def test_a_disk_that_is_active_although_the_vm_has_halted_keeps_it_too(arrived):
    arrived.halt()
    with pytest.raises(NotCleanedUp):
        cleanup._await_own_disks(arrived.m)


def test_the_clean_up_begins_with_it(arrived):
    arrived.active(0, **{"host_" + arrived.host: "RO"})
    arrived.m.mover = None  # the next thing that it would ask for
    with pytest.raises(NotCleanedUp):
        cleanup.clean_up(arrived.m)


@pytest.mark.parametrize("mark, moved_on", [("m", False), ("another", True), (None, False)])
def test_a_vm_that_another_migration_has_is_that_ones_to_give_back_to(arrived, mark, moved_on):
    arrived.m.id = "m"
    arrived.pool.tables["VM"][arrived.vm]["other_config"] = {CLAIM: mark} if mark else {}
    assert cleanup._has_moved_on(arrived.m) is moved_on
    arrived.m.plan.cross_pool = False
    assert not cleanup._has_moved_on(arrived.m)


class Left:
    """What a VM that has moved has left at the source of one snapshot: its disk."""

    id = "m"

    def __init__(self):
        self.source, self.destination = make_pool("A", ["a1"]), make_pool("B", ["b1"])
        self.old = add_vdi(self.source, by_name(self.source, "SR", "a1-sr"))
        self.new = add_vdi(self.destination, by_name(self.destination, "SR", "b1-sr"))
        self.snapshot = self.destination.add("VM", uuid="snapshot")
        self.key = uuid_of(self.source, "VDI", self.old)
        frozen = types.SimpleNamespace(key=self.key, snapshot="snapshot")
        self.plan = types.SimpleNamespace(vm="vm", disks=[], history=[frozen], dropped=[])

    def disk(self, key):
        return {"state": "kept"}

    def destination_vdi(self, disk):
        if self.new not in self.destination.tables["VDI"]:
            raise failure("UUID_INVALID", "VDI", "x")
        return self.new

    def is_there(self):
        return self.old in self.source.tables["VDI"]


def test_the_disk_of_a_snapshot_goes():
    left = Left()
    cleanup._destroy_history(left)
    assert not left.is_there()


def test_nothing_is_touched_while_one_is_not_verified():
    """Not even the record of its snapshot."""
    left = Left()
    left.disk = lambda key: {"state": "copying"}
    left.plan.disks, left.plan.cross_pool = [], True
    with pytest.raises(NotCleanedUp, match="was not verified"):
        cleanup._destroy(left)


def test_one_that_another_vm_has_got_meanwhile_stays_and_is_told():
    """xapi itself would destroy it: that VM does not run."""
    left = Left()
    vm = left.source.add("VM", uuid="other", name_label="restore")
    vbd = left.source.add("VBD", VM=vm, VDI=left.old)
    left.source.tables["VDI"][left.old]["VBDs"] = [vbd]
    with pytest.raises(NotCleanedUp, match="restore"):
        cleanup._destroy_history(left)
    assert left.is_there()
    del left.source.tables["VBD"][vbd]  # xapi takes such a reference away in its time
    cleanup._destroy_history(left)
    assert not left.is_there()


def test_a_start_that_failed_since_keeps_no_vbd():
    """With an older database of xapi's nothing refuses it; where it fails before xenopsd hears of
    it, the devices stay attached, and VBD.destroy refuses."""
    source = make_pool("A", ["a1"])
    host, network = by_name(source, "host", "a1"), by_name(source, "network", "guests")
    vdi = add_vdi(source, by_name(source, "SR", "a1-sr"))
    vm = add_vm(source, host, [vdi], network)
    record = source.tables["VM"][vm]
    (vbd,) = record["VBDs"]
    record["power_state"], source.tables["VBD"][vbd]["currently_attached"] = "Halted", True
    destroyed = []

    def destroy(ref):
        assert not source.tables["VBD"][ref]["currently_attached"], "still attached"
        destroyed.append(ref)

    def reset(ref):
        assert ref == vm
        source.tables["VBD"][vbd]["currently_attached"] = False

    source.handlers.update({"VBD.destroy": destroy, "VM.power_state_reset": reset})
    disk = types.SimpleNamespace(vbd=uuid_of(source, "VBD", vbd))
    plan = types.SimpleNamespace(vm=record["uuid"], suspended=False, disks=[disk])
    cleanup._destroy_vbds(types.SimpleNamespace(id="m", source=source, plan=plan))
    assert destroyed == [vbd]


@pytest.mark.parametrize("snapshot_is_there", [True, False])
def test_one_whose_copy_is_gone_is_the_only_one_if_its_snapshot_is_there(snapshot_is_there):
    left = Left()
    del left.destination.tables["VDI"][left.new]
    if not snapshot_is_there:  # somebody has deleted all of it there
        del left.destination.tables["VM"][left.snapshot]
    cleanup._destroy_history(left)
    assert left.is_there() is snapshot_is_there


def test_a_disk_that_somebody_has_again_stays_and_is_told(monkeypatch):
    """Within a pool the VM itself, where a member has become master whose copy of the database is
    older; or another VM, to which somebody has attached it meanwhile. xapi would destroy it."""
    left = Left()
    left.plan.disks = left.plan.history
    left.disk = lambda key: {"gate": "open", "destination_vdi": "new"}
    dropped = []
    monkeypatch.setattr(cleanup.snapshots, "drop", lambda m, disk: dropped.append(disk))
    (disk,) = left.plan.history
    for uuid, told in (("vm", "give it VDI new in its place"), ("other", "copy it for that VM")):
        vm = left.source.add("VM", uuid=uuid, name_label="web")
        vbd = left.source.add("VBD", VM=vm, VDI=left.old)
        left.source.tables["VDI"][left.old]["VBDs"] = [vbd]
        with pytest.raises(NotCleanedUp, match=told):
            cleanup._destroy_disk(left, disk)
        assert left.is_there() and not dropped
        del left.source.tables["VBD"][vbd]
    cleanup._destroy_disk(left, disk)
    assert not left.is_there() and dropped == [disk]


def test_an_image_that_is_the_memory_of_a_suspended_vm_stays(monkeypatch):
    left = Left()
    left.disk = lambda key: {"gate": "open"}
    monkeypatch.setattr(cleanup.snapshots, "drop", lambda m, disk: None)
    (disk,) = left.plan.history
    left.source.tables["VDI"][left.old]["type"] = "suspend"
    vm = left.source.add(
        "VM", uuid="vm", name_label="web", suspend_VDI=left.old, power_state="Suspended"
    )
    with pytest.raises(NotCleanedUp, match="is the memory of VM vm"):
        cleanup._destroy_disk(left, disk)
    assert left.is_there()
    left.source.tables["VM"][vm]["suspend_VDI"] = NULL
    cleanup._destroy_disk(left, disk)
    assert not left.is_there()
