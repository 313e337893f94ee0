# SPDX-License-Identifier: LGPL-2.1-only
"""A VM that has changed while its disks were copied is not moved."""

import pytest

from fake_pool import NULL, add_vdi, by_name
from storage_motion.errors import VmChanged
from storage_motion.plan import changes
from storage_motion.plan.plan import Cd, Snapshot, Vif
from test_claim import FakeMigration


@pytest.fixture
def m():
    m = FakeMigration()
    vif = m.source.tables["VIF"][m.record["VIFs"][0]]["uuid"]
    m.plan = m.plan._replace(vifs=[Vif(vif=vif, device="0", network="n")])
    return m


def add(m, kind, empty=False):
    vdi = add_vdi(m.source, by_name(m.source, "SR", "a1-sr"))
    m.record["VBDs"] = m.record["VBDs"] + [
        m.source.add("VBD", VM=m.ref, VDI=vdi, type=kind, empty=empty)
    ]
    return m.source.tables["VDI"][vdi]["uuid"]


def what(m):
    with pytest.raises(VmChanged) as raised:
        changes.require_none(m)
    return raised.value.details[1:]


def test_as_it_was(m):
    add(m, "CD", empty=True)
    m.plan = m.plan._replace(
        cds=[Cd(vbd="c", vdi=add(m, "CD"), device="xvdd", eject=False)], staying=[add(m, "Disk")]
    )
    changes.require_none(m)


def test_a_disk_or_cd_or_interface_more(m):
    uuid = add(m, "Disk")
    assert what(m) == ["disk %s was added" % uuid]
    cd = add(m, "CD")
    vif = m.source.add("VIF", VM=m.ref)
    m.record["VIFs"] = m.record["VIFs"] + [vif]
    assert what(m)[1:] == [
        "CD %s was inserted" % cd,
        "interface %s was added" % m.source.tables["VIF"][vif]["uuid"],
    ]


def test_a_disk_that_another_vm_has_got_meanwhile(m):
    """Of a halted VM, say: who writes to it is not in the copy."""
    m.vdi["VBDs"] = m.record["VBDs"] + [m.source.add("VBD", VM="OpaqueRef:another")]
    assert what(m) == ["disk %s was attached to another VM" % m.vdi["uuid"]]


def unplug(m):
    size = int(m.vdi["virtual_size"])
    disks = [disk._replace(unplugged=True, size=size) for disk in m.plan.disks]
    m.plan = m.plan._replace(disks=disks)
    for vbd in m.record["VBDs"]:
        m.source.tables["VBD"][vbd]["currently_attached"] = False


def test_a_disk_that_is_not_plugged_and_was_resized(m):
    unplug(m)
    m.vdi["virtual_size"] = str(2 * int(m.vdi["virtual_size"]))
    assert what(m) == ["disk %s, which is not plugged, was resized" % m.vdi["uuid"]]


@pytest.mark.parametrize("field", ["history", "dropped"])
def test_the_disk_of_a_snapshot_that_another_vm_has_got_meanwhile(m, field):
    vdi = add_vdi(m.source, by_name(m.source, "SR", "a1-sr"))
    record = m.source.tables["VDI"][vdi]
    own = m.source.add("VBD", VDI=vdi)
    m.source.add("VM", uuid="kept", VBDs=[own])
    m.record["snapshots"] = [m.source.xenapi.VM.get_by_uuid("kept")]
    frozen = m.plan.disks[0]._replace(key=record["uuid"], snapshot="kept")
    value = [frozen] if field == "history" else [record["uuid"]]
    m.plan = m.plan._replace(snapshots=[Snapshot("kept", "a", True)], **{field: value})
    record["VBDs"] = [own]
    changes.require_none(m)
    record["VBDs"] = [own, m.source.add("VBD", VDI=vdi)]
    assert what(m) == ["disk %s of a snapshot was attached to another VM" % record["uuid"]]


@pytest.mark.parametrize("plugged", [True, False])
def test_a_disk_that_has_been_plugged_meanwhile(m, plugged):
    unplug(m)
    for vbd in m.record["VBDs"]:
        m.source.tables["VBD"][vbd]["currently_attached"] = plugged
    if plugged:
        assert what(m) == ["disk %s was plugged" % m.vdi["uuid"]]
    else:
        changes.require_none(m)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_suspended_vm_that_has_been_resumed_meanwhile(m, resumed):
    image = add_vdi(m.source, by_name(m.source, "SR", "a1-sr"), VBDs=[])
    uuid = m.source.tables["VDI"][image]["uuid"]
    m.plan = m.plan._replace(
        disks=list(m.plan.disks) + [m.plan.disks[0]._replace(key=uuid, vbd="")]
    )
    m.record["suspend_VDI"] = NULL if resumed else image
    if resumed:
        assert what(m) == ["disk %s is no longer its own" % uuid]
    else:
        changes.require_none(m)


def test_a_disk_less(m):
    m.record["VBDs"] = []
    assert what(m) == ["disk %s is no longer its own" % m.vdi["uuid"]]


def test_a_snapshot_more_or_less_between_pools(m):
    """One that is not in the plan has no disks there; within the pool it is left where it is."""
    refs = [m.source.add("VM", uuid=name, VBDs=[]) for name in ("kept", "taken")]
    m.record["snapshots"] = refs
    m.plan = m.plan._replace(snapshots=[Snapshot("kept", "a", True), Snapshot("gone", "b", True)])
    assert what(m) == ["snapshot taken was taken", "snapshot gone is gone"]
    m.plan = m.plan._replace(kind="in-pool")
    changes.require_none(m)
